//! Desired state on disk: an embedded database in the state directory.

mod network;
mod older;
mod record;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use network::{Driver, Lan, Made, Mode, NetworkRecord};
pub(crate) use record::{ContainerRecord, EndpointRecord, ExtraHost, ProcessRecord, RuleRecord};

use crate::config::GlobalId;
use crate::error::{Error, Result};

/// Layout of what is stored. Version 1 knew IPv4 alone, version 2 one network alone: see `older`.
const VERSION: u32 = 3;

/// The oldest layout that is read.
const OLDEST: u32 = 1;

const INSTANCE: TableDefinition<'_, (), &[u8]> = TableDefinition::new("instance");
const NETWORKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("networks");
const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");

/// What is kept of the instance itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InstanceRecord {
    version: u32,
    /// MAC address of the gateway.
    pub(crate) gateway_mac: [u8; 6],
    /// What the unique local addresses of the instance have in common; none was drawn yet by a version without IPv6.
    #[serde(default)]
    pub(crate) global_id: Option<GlobalId>,
    /// The boot of the kernel that its containers are of; a version that did not look has noted none.
    #[serde(default)]
    pub(crate) boot: Option<String>,
}

impl InstanceRecord {
    /// A new instance.
    pub(crate) fn new(gateway_mac: [u8; 6], global_id: GlobalId) -> Self {
        Self { version: VERSION, gateway_mac, global_id: Some(global_id), boot: None }
    }
}

/// All that is stored.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The instance.
    pub(crate) instance: InstanceRecord,
    /// Its networks, by name.
    pub(crate) networks: BTreeMap<String, NetworkRecord>,
    /// Its containers, by name.
    pub(crate) containers: BTreeMap<String, ContainerRecord>,
}

/// What is to be written in one step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Networks that are new or have changed.
    pub(crate) networks: Vec<NetworkRecord>,
    /// Containers that are new or have changed.
    pub(crate) containers: Vec<ContainerRecord>,
    /// Names of networks that are no more.
    pub(crate) removed_networks: Vec<String>,
    /// Names of containers that are no more.
    pub(crate) removed_containers: Vec<String>,
}

impl From<&ContainerRecord> for Changes {
    fn from(container: &ContainerRecord) -> Self {
        Self { containers: vec![container.clone()], ..Self::default() }
    }
}

/// The database of an instance.
#[derive(Debug)]
pub(crate) struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    /// Opens the database in a state directory, or makes it.
    pub(crate) fn open(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join("netbpf.redb");
        match Database::create(&path) {
            Ok(database) => Ok(Self { database, path }),
            Err(error) => Err(unusable(&path, &error)),
        }
    }

    /// What is stored; nothing in a new database.
    pub(crate) fn load(&self) -> Result<Option<Stored>> {
        let bad = |error: &dyn Display| unusable(&self.path, error);
        let transaction = self.database.begin_read().map_err(|error| bad(&error))?;
        let instance = match transaction.open_table(INSTANCE) {
            Ok(table) => table.get(()).map_err(|error| bad(&error))?.map(|bytes| bytes.value().to_vec()),
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(bad(&error)),
        };
        let Some(instance) = instance else { return Ok(None) };
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(&instance).map_err(|error| bad(&error))?;
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(Error::Unsupported(format!(
                "the database {} has layout {version}, this netbpf knows {VERSION}: use the version of netbpf that wrote it",
                self.path.display()
            )));
        }
        let instance: InstanceRecord = serde_json::from_slice(&instance).map_err(|error| bad(&error))?;
        let instance = InstanceRecord { version: VERSION, ..instance };
        let networks = self.table(&transaction, NETWORKS)?;
        let containers = self.table(&transaction, CONTAINERS)?;
        let containers = containers.into_iter().map(|(name, record)| (name, older::container(record)));
        Ok(Some(Stored {
            instance,
            networks: decode_all(networks.into_iter()).map_err(|error| bad(&error))?,
            containers: decode_all(containers).map_err(|error| bad(&error))?,
        }))
    }

    /// The entries of a table, none of one that is not there yet.
    fn table(
        &self,
        transaction: &redb::ReadTransaction,
        table: TableDefinition<'_, &str, &[u8]>,
    ) -> Result<Vec<(String, Value)>> {
        let bad = |error: &dyn Display| unusable(&self.path, error);
        let table = match transaction.open_table(table) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(bad(&error)),
        };
        let entries = table.iter().map_err(|error| bad(&error))?.map(|entry| {
            let (name, bytes) = entry.map_err(|error| bad(&error))?;
            let value = serde_json::from_slice(bytes.value()).map_err(|error| bad(&error))?;
            Ok((name.value().to_owned(), value))
        });
        entries.collect()
    }

    /// Writes the instance.
    pub(crate) fn save_instance(&self, instance: &InstanceRecord) -> Result<()> {
        self.commit(|transaction| {
            transaction.open_table(INSTANCE)?.insert((), &encode(instance)[..])?;
            Ok(())
        })
    }

    /// Writes changes, in one step.
    pub(crate) fn save(&self, changes: &Changes) -> Result<()> {
        self.commit(|transaction| {
            let mut networks = transaction.open_table(NETWORKS)?;
            for network in &changes.networks {
                networks.insert(&*network.name, &encode(network)[..])?;
            }
            for name in &changes.removed_networks {
                networks.remove(&**name)?;
            }
            let mut containers = transaction.open_table(CONTAINERS)?;
            for container in &changes.containers {
                containers.insert(&*container.name, &encode(container)[..])?;
            }
            for name in &changes.removed_containers {
                containers.remove(&**name)?;
            }
            Ok(())
        })
    }

    fn commit(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> std::result::Result<(), redb::Error>,
    ) -> Result<()> {
        let commit = || -> std::result::Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            change(&transaction)?;
            transaction.commit()?;
            Ok(())
        };
        commit().map_err(|error| {
            Error::Internal(format!("cannot write {}: {error}; nothing was changed", self.path.display()))
        })
    }
}

fn decode_all<R: for<'de> Deserialize<'de>>(
    entries: impl Iterator<Item = (String, Value)>,
) -> serde_json::Result<BTreeMap<String, R>> {
    entries.map(|(name, value)| Ok((name, serde_json::from_value(value)?))).collect()
}

fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have string keys and no fallible serializers")
}

fn unusable(path: &Path, error: &dyn Display) -> Error {
    Error::Internal(format!(
        "cannot use the database {}: {error}; restore it, or remove it together with the instance (`netbpf uninstall`)",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("netbpf-store-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn what_was_saved_is_there_after_a_restart_and_what_was_forgotten_is_not() {
        let directory = directory("restart");
        let instance = InstanceRecord::new([2, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5]);
        {
            let store = Store::open(&directory).unwrap();
            assert!(store.load().unwrap().is_none());
            store.save_instance(&instance).unwrap();
            let containers = vec![ContainerRecord::example("a"), ContainerRecord::example("b")];
            store.save(&Changes { containers, ..Changes::default() }).unwrap();
            store.save(&Changes { removed_containers: vec!["a".into()], ..Changes::default() }).unwrap();
        }
        let stored = Store::open(&directory).unwrap().load().unwrap().unwrap();
        assert_eq!(stored.instance, instance);
        assert_eq!(stored.containers.into_values().collect::<Vec<_>>(), [ContainerRecord::example("b")]);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_older_versions_have_written_is_read() {
        let record = r#"{"name":"a","id":"0","hostname":"a","netns":"/run/netns/a","owns_netns":true,
            "address":"172.30.0.2","mac":[2,66,172,30,0,2],"mtu":1500,"slot":1,"generation":1,"ifindex":65537,
            "device":"nb0","rules":[{"rule":1,"host_ip":"0.0.0.0","host_port":80,"container_port":80,"more":0,
            "transport":"tcp"}],"process":null,"remove_on_exit":false,"created":0}"#;
        let record_v6 = record.replace("\"mac\"", "\"address_v6\":\"fd00::2\",\"mac\"");
        for (version, record, expected) in
            [(1, record, vec!["172.30.0.2"]), (2, &*record_v6, vec!["172.30.0.2", "fd00::2"])]
        {
            let instance =
                format!(r#"{{"version":{version},"gateway_mac":[2,1,2,3,4,5],"last_address":"172.30.0.9"}}"#);
            let directory = directory(&format!("older-{version}"));
            let store = Store::open(&directory).unwrap();
            let write = |transaction: &redb::WriteTransaction| {
                transaction.open_table(INSTANCE)?.insert((), instance.as_bytes())?;
                transaction.open_table(CONTAINERS)?.insert("a", record.as_bytes())?;
                Ok(())
            };
            store.commit(write).unwrap();
            let stored = store.load().unwrap().unwrap();
            assert_eq!((stored.instance.version, stored.instance.global_id), (VERSION, None));
            let [endpoint] = &stored.containers["a"].endpoints[..] else { panic!("one end") };
            assert_eq!((&*endpoint.network, &*endpoint.name, endpoint.slot), ("default", "eth0", 1));
            assert_eq!(endpoint.addresses().map(|it| it.to_string()).collect::<Vec<_>>(), expected);
            assert!(stored.containers["a"].rules[0].is_wildcard());
            // Records of both layouts, side by side.
            store.save(&Changes::from(&ContainerRecord::example("b"))).unwrap();
            let again = store.load().unwrap().unwrap();
            assert_eq!(again.containers["a"], stored.containers["a"]);
            assert_eq!(again.containers["b"], ContainerRecord::example("b"));
            std::fs::remove_dir_all(directory).unwrap();
        }
    }

    #[test]
    fn a_newer_or_a_broken_database_is_refused_in_one_line() {
        let directory = directory("refused");
        {
            let store = Store::open(&directory).unwrap();
            store.save_instance(&InstanceRecord { version: 9, ..InstanceRecord::new([2; 6], [0; 5]) }).unwrap();
            assert!(store.load().unwrap_err().to_string().contains("layout 9"));
        }
        std::fs::write(directory.join("netbpf.redb"), b"not a database").unwrap();
        let refused = Store::open(&directory).unwrap_err().to_string();
        assert!(refused.contains("netbpf.redb") && !refused.contains('\n'), "{refused}");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
