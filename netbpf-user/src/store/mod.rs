//! Desired state on disk: an embedded database in the state directory.

mod record;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};
use serde::{Deserialize, Serialize};

pub(crate) use record::{ContainerRecord, ProcessRecord, RuleRecord};

use crate::error::{Error, Result};

/// Layout of what is stored.
const VERSION: u32 = 1;

const INSTANCE: TableDefinition<'_, (), &[u8]> = TableDefinition::new("instance");
const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");

/// What is kept of the instance itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InstanceRecord {
    version: u32,
    /// MAC address of the gateway.
    pub(crate) gateway_mac: [u8; 6],
    /// Address the pool has given out last.
    pub(crate) last_address: Option<Ipv4Addr>,
}

impl InstanceRecord {
    /// A new instance.
    pub(crate) fn new(gateway_mac: [u8; 6]) -> Self {
        Self { version: VERSION, gateway_mac, last_address: None }
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
        if version != VERSION {
            return Err(Error::Unsupported(format!(
                "the database {} has layout {version}, this netbpf knows {VERSION}: use the version of netbpf that wrote it",
                self.path.display()
            )));
        }
        let instance = serde_json::from_slice(&instance).map_err(|error| bad(&error))?;
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
    use netbpf_common::abi::Transport;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("netbpf-store-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    fn container(name: &str) -> ContainerRecord {
        ContainerRecord {
            name: name.into(),
            id: "0".repeat(64),
            hostname: name.into(),
            netns: format!("/run/netns/{name}").into(),
            owns_netns: true,
            address: Ipv4Addr::new(172, 30, 0, 2),
            mac: [2, 0x42, 172, 30, 0, 2],
            mtu: 1500,
            slot: 1,
            generation: 1,
            ifindex: 65_537,
            device: "nb0123456789".into(),
            rules: vec![RuleRecord {
                rule: 1,
                host_ip: Ipv4Addr::UNSPECIFIED,
                host_port: 8080,
                container_port: 80,
                more: 0,
                transport: Transport::Udp,
            }],
            process: None,
            remove_on_exit: false,
            created: 0,
        }
    }

    #[test]
    fn what_was_saved_is_there_after_a_restart_and_what_was_forgotten_is_not() {
        let directory = directory("restart");
        let instance = InstanceRecord::new([2, 1, 2, 3, 4, 5]);
        {
            let store = Store::open(&directory).unwrap();
            assert_eq!(store.load().unwrap().0, None);
            store.save(&instance, Some(&container("a"))).unwrap();
            store.save(&instance, Some(&container("b"))).unwrap();
            store.forget("a").unwrap();
        }
        let (loaded, containers) = Store::open(&directory).unwrap().load().unwrap();
        assert_eq!(loaded, Some(instance));
        assert_eq!(containers.into_values().collect::<Vec<_>>(), [container("b")]);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_newer_or_a_broken_database_is_refused_in_one_line() {
        let directory = directory("refused");
        {
            let store = Store::open(&directory).unwrap();
            store.save(&InstanceRecord { version: 9, ..InstanceRecord::new([2; 6]) }, None).unwrap();
            assert!(store.load().unwrap_err().to_string().contains("layout 9"));
        }
        std::fs::write(directory.join("netbpf.redb"), b"not a database").unwrap();
        let refused = Store::open(&directory).unwrap_err().to_string();
        assert!(refused.contains("netbpf.redb") && !refused.contains('\n'), "{refused}");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
