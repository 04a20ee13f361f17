//! Desired state on disk: an embedded database in the state directory.

mod record;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};
use serde::{Deserialize, Serialize};

pub(crate) use record::{ContainerRecord, ProcessRecord, RuleRecord};

use crate::config::GlobalId;
use crate::error::{Error, Result};

/// Layout of what is stored. Version 1 knew IPv4 alone; what has been added since is absent there, and is read as none.
const VERSION: u32 = 2;

/// The oldest layout that is read.
const OLDEST: u32 = 1;

const INSTANCE: TableDefinition<'_, (), &[u8]> = TableDefinition::new("instance");
const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");

/// What is kept of the instance itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InstanceRecord {
    version: u32,
    /// MAC address of the gateway.
    pub(crate) gateway_mac: [u8; 6],
    /// IPv4 address the pool has given out last.
    pub(crate) last_address: Option<Ipv4Addr>,
    /// IPv6 address the pool has given out last.
    #[serde(default)]
    pub(crate) last_address_v6: Option<Ipv6Addr>,
    /// What the unique local addresses of the instance have in common; none was drawn yet by a version without IPv6.
    #[serde(default)]
    pub(crate) global_id: Option<GlobalId>,
}

impl InstanceRecord {
    /// A new instance.
    pub(crate) fn new(gateway_mac: [u8; 6], global_id: GlobalId) -> Self {
        let (last_address, last_address_v6) = (None, None);
        Self { version: VERSION, gateway_mac, last_address, last_address_v6, global_id: Some(global_id) }
    }
}

impl InstanceRecord {
    /// The addresses that the pools have given out last.
    pub(crate) fn last_addresses(&self) -> Vec<IpAddr> {
        let (v4, v6) = (self.last_address.map(IpAddr::from), self.last_address_v6.map(IpAddr::from));
        v4.into_iter().chain(v6).collect()
    }

    /// Notes them.
    pub(crate) fn set_last_addresses(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        for address in addresses {
            match address {
                IpAddr::V4(address) => self.last_address = Some(address),
                IpAddr::V6(address) => self.last_address_v6 = Some(address),
            }
        }
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

    /// The instance and its containers; no instance in a new database.
    pub(crate) fn load(&self) -> Result<(Option<InstanceRecord>, BTreeMap<String, ContainerRecord>)> {
        let bad = |error: &dyn Display| unusable(&self.path, error);
        let transaction = self.database.begin_read().map_err(|error| bad(&error))?;
        let instance = match transaction.open_table(INSTANCE) {
            Ok(table) => table.get(()).map_err(|error| bad(&error))?.map(|bytes| bytes.value().to_vec()),
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(bad(&error)),
        };
        let Some(instance) = instance else { return Ok((None, BTreeMap::new())) };
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
        let mut containers = BTreeMap::new();
        match transaction.open_table(CONTAINERS) {
            Ok(table) => {
                for entry in table.iter().map_err(|error| bad(&error))? {
                    let (name, bytes) = entry.map_err(|error| bad(&error))?;
                    let record = serde_json::from_slice(bytes.value()).map_err(|error| bad(&error))?;
                    containers.insert(name.value().to_owned(), record);
                }
            }
            Err(TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(bad(&error)),
        }
        Ok((Some(instance), containers))
    }

    /// Writes the instance, and a container where one is given, in one step.
    pub(crate) fn save(&self, instance: &InstanceRecord, container: Option<&ContainerRecord>) -> Result<()> {
        self.commit(|transaction| {
            transaction.open_table(INSTANCE)?.insert((), &encode(instance)[..])?;
            if let Some(container) = container {
                transaction.open_table(CONTAINERS)?.insert(&*container.name, &encode(container)[..])?;
            }
            Ok(())
        })
    }

    /// Forgets a container.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        self.commit(|transaction| {
            transaction.open_table(CONTAINERS)?.remove(name)?;
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
            assert_eq!(store.load().unwrap().0, None);
            store.save(&instance, Some(&ContainerRecord::example("a"))).unwrap();
            store.save(&instance, Some(&ContainerRecord::example("b"))).unwrap();
            store.forget("a").unwrap();
        }
        let (loaded, containers) = Store::open(&directory).unwrap().load().unwrap();
        assert_eq!(loaded, Some(instance));
        assert_eq!(containers.into_values().collect::<Vec<_>>(), [ContainerRecord::example("b")]);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_a_version_without_ipv6_has_written_is_read() {
        let instance = r#"{"version":1,"gateway_mac":[2,1,2,3,4,5],"last_address":"172.30.0.9"}"#;
        let record = r#"{"name":"a","id":"0","hostname":"a","netns":"/run/netns/a","owns_netns":true,
            "address":"172.30.0.2","mac":[2,66,172,30,0,2],"mtu":1500,"slot":1,"generation":1,"ifindex":65537,
            "device":"nb0","rules":[{"rule":1,"host_ip":"0.0.0.0","host_port":80,"container_port":80,"more":0,
            "transport":"tcp"}],"process":null,"remove_on_exit":false,"created":0}"#;
        let directory = directory("older");
        let store = Store::open(&directory).unwrap();
        let write = |transaction: &redb::WriteTransaction| {
            transaction.open_table(INSTANCE)?.insert((), instance.as_bytes())?;
            transaction.open_table(CONTAINERS)?.insert("a", record.as_bytes())?;
            Ok(())
        };
        store.commit(write).unwrap();
        let (loaded, containers) = store.load().unwrap();
        let loaded = loaded.unwrap();
        assert_eq!((loaded.version, loaded.global_id), (VERSION, None));
        assert_eq!(loaded.last_address, Some(Ipv4Addr::new(172, 30, 0, 9)));
        let addresses: Vec<_> = containers["a"].addresses().map(|address| address.to_string()).collect();
        assert_eq!(addresses, ["172.30.0.2"]);
        assert!(containers["a"].rules[0].is_wildcard());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_newer_or_a_broken_database_is_refused_in_one_line() {
        let directory = directory("refused");
        {
            let store = Store::open(&directory).unwrap();
            store.save(&InstanceRecord { version: 9, ..InstanceRecord::new([2; 6], [0; 5]) }, None).unwrap();
            assert!(store.load().unwrap_err().to_string().contains("layout 9"));
        }
        std::fs::write(directory.join("netbpf.redb"), b"not a database").unwrap();
        let refused = Store::open(&directory).unwrap_err().to_string();
        assert!(refused.contains("netbpf.redb") && !refused.contains('\n'), "{refused}");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
