//! The database file.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use redb::{DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError, TableDefinition, TableError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Changes, Encoded, InstanceRecord, OLDEST, Stored, VERSION, older};
use crate::error::{Error, Result};
use crate::failpoint;

const INSTANCE: TableDefinition<'_, (), &[u8]> = TableDefinition::new("instance");
const NETWORKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("networks");
const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");

/// Why there is nothing to be read.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is no database, or not all of one.
    Damaged(String),
    /// It may be a good one, but not for us, or not now.
    Refused(Error),
}

impl Trouble {
    /// What the user is told when nothing can be done about it.
    pub(super) fn refusal(self, path: &Path) -> Error {
        match self {
            Self::Damaged(why) => super::lost(path, &why),
            Self::Refused(error) => error,
        }
    }
}

/// A database that is open.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    /// Nothing after an error of the file system, which redb takes for the last word: the next write opens it again.
    database: Mutex<Option<redb::Database>>,
    /// Its checksums were wrong, and what could be saved of it was: perhaps not all of it.
    pub(super) is_repaired: bool,
}

impl Database {
    /// Opens a database, or makes it.
    pub(super) fn open(path: &Path) -> std::result::Result<Self, Trouble> {
        let (database, is_repaired) = open(path)?;
        Ok(Self { path: path.into(), database: Mutex::new(Some(database)), is_repaired })
    }

    /// What is stored; nothing in a new database.
    pub(super) fn load(&self) -> std::result::Result<Option<Stored>, Trouble> {
        let database = self.database.lock().expect("no panic while it was held");
        let Some(database) = &*database else { return Ok(None) };
        survive(|| load(&self.path, database))
    }

    /// Writes the instance.
    pub(super) fn write_instance(&self, instance: &InstanceRecord) -> Result<()> {
        self.commit(|transaction| {
            transaction.open_table(INSTANCE)?.insert((), &encode(instance)[..])?;
            Ok(())
        })
    }

    /// Writes changes, in one step.
    pub(super) fn write(&self, changes: &Encoded<'_>) -> Result<()> {
        self.commit(|transaction| write(transaction, changes))
    }

    /// Writes all of it, in one step.
    pub(super) fn write_all(&self, stored: &Stored) -> Result<()> {
        let changes = Changes {
            networks: stored.networks.values().cloned().collect(),
            containers: stored.containers.values().cloned().collect(),
            ..Changes::default()
        };
        self.commit(|transaction| {
            transaction.open_table(INSTANCE)?.insert((), &encode(&stored.instance)[..])?;
            write(transaction, &Encoded::from(&changes))
        })
    }

    fn commit(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> std::result::Result<(), redb::Error>,
    ) -> Result<()> {
        let mut database = self.database.lock().expect("no panic while it was held");
        let commit = |database: &redb::Database| -> std::result::Result<(), redb::Error> {
            failpoint::before("begin to write the database");
            let transaction = database.begin_write()?;
            change(&transaction)?;
            failpoint::before("write the database");
            transaction.commit()?;
            Ok(())
        };
        let opened = match database.take() {
            Some(opened) => opened,
            None => open(&self.path).map_err(|trouble| trouble.refusal(&self.path))?.0,
        };
        match commit(&opened) {
            Ok(()) => {
                *database = Some(opened);
                Ok(())
            }
            Err(error) => Err(Error::Internal(format!(
                "cannot write the database {}: {error}; nothing was changed: make room, or make it writable, and ask again",
                self.path.display()
            ))),
        }
    }
}

fn write(transaction: &redb::WriteTransaction, changes: &Encoded<'_>) -> std::result::Result<(), redb::Error> {
    let mut networks = transaction.open_table(NETWORKS)?;
    for (name, record) in &changes.networks {
        networks.insert(*name, &record[..])?;
    }
    for name in &changes.changes.removed_networks {
        networks.remove(&**name)?;
    }
    let mut containers = transaction.open_table(CONTAINERS)?;
    for (name, record) in &changes.containers {
        containers.insert(*name, &record[..])?;
    }
    for name in &changes.changes.removed_containers {
        containers.remove(&**name)?;
    }
    Ok(())
}

/// Bytes of a database that are kept in memory: it is read at the start alone, and a record of ten thousand publishes has a
/// megabyte.
const CACHE: usize = 128 << 10;

/// Opens a database, or makes it: under another name, since half of one would be a damaged one. Tells whether it had to be repaired.
fn open(path: &Path) -> std::result::Result<(redb::Database, bool), Trouble> {
    let refused = |error: &dyn std::fmt::Display, advice: &str| {
        Trouble::Refused(Error::Internal(format!("cannot use the database {}: {error}; {advice}", path.display())))
    };
    let create = |path: &Path| {
        redb::Builder::new().set_cache_size(CACHE).create(path).map_err(|error| match error {
            DatabaseError::Storage(StorageError::Io(io))
                if !matches!(
                    io.kind(),
                    ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::InvalidInput
                ) =>
            {
                refused(&io, "make room, make it readable and writable, or choose another --state-dir")
            }
            DatabaseError::DatabaseAlreadyOpen => {
                refused(&error, "stop the process that has it open, or choose another --state-dir")
            }
            DatabaseError::UpgradeRequired(_) => refused(&error, "use the version of netbpf that wrote it"),
            damaged => Trouble::Damaged(damaged.to_string()),
        })
    };
    survive(|| {
        if !path.exists() {
            let unready = super::unready(path);
            let advice = "make it writable, or choose another --state-dir";
            if unready.exists() {
                fs::remove_file(&unready).map_err(|error| refused(&error, advice))?;
            }
            drop(create(&unready)?);
            fs::rename(&unready, path).map_err(|error| refused(&error, advice))?;
        }
        let mut database = create(path)?;
        // Nobody else looks at the checksums of what was closed in good order.
        match database.check_integrity() {
            Ok(is_sound) => Ok((database, !is_sound)),
            Err(error) => Err(Trouble::Damaged(error.to_string())),
        }
    })
}

/// The library asserts what it takes for granted: in a damaged file that is not so.
fn survive<T>(work: impl FnOnce() -> std::result::Result<T, Trouble>) -> std::result::Result<T, Trouble> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Trouble::Damaged("it contradicts itself".into())))
}

fn load(path: &Path, database: &redb::Database) -> std::result::Result<Option<Stored>, Trouble> {
    let damaged = |error: &dyn std::fmt::Display| Trouble::Damaged(error.to_string());
    let transaction = database.begin_read().map_err(|error| damaged(&error))?;
    let instance = match transaction.open_table(INSTANCE) {
        Ok(table) => table.get(()).map_err(|error| damaged(&error))?.map(|bytes| bytes.value().to_vec()),
        Err(TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(damaged(&error)),
    };
    let Some(instance) = instance else { return Ok(None) };
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(&instance).map_err(|error| damaged(&error))?;
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(Trouble::Refused(Error::Unsupported(format!(
            "the database {} has layout {version}, this netbpf knows {VERSION}: use the version of netbpf that wrote it",
            path.display()
        ))));
    }
    let instance: InstanceRecord = serde_json::from_slice(&instance).map_err(|error| damaged(&error))?;
    let instance = InstanceRecord { version: VERSION, ..instance };
    let networks = table(&transaction, NETWORKS)?;
    let containers = table(&transaction, CONTAINERS)?;
    let containers = containers.into_iter().map(|(name, record)| (name, older::container(record)));
    Ok(Some(Stored {
        instance,
        networks: decode_all(networks.into_iter()).map_err(|error| damaged(&error))?,
        containers: decode_all(containers).map_err(|error| damaged(&error))?,
    }))
}

/// The entries of a table, none of one that is not there yet.
fn table(
    transaction: &redb::ReadTransaction,
    table: TableDefinition<'_, &str, &[u8]>,
) -> std::result::Result<Vec<(String, Value)>, Trouble> {
    let damaged = |error: &dyn std::fmt::Display| Trouble::Damaged(error.to_string());
    let table = match transaction.open_table(table) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(damaged(&error)),
    };
    let entries = table.iter().map_err(|error| damaged(&error))?.map(|entry| {
        let (name, bytes) = entry.map_err(|error| damaged(&error))?;
        let value = serde_json::from_slice(bytes.value()).map_err(|error| damaged(&error))?;
        Ok((name.value().to_owned(), value))
    });
    entries.collect()
}

fn decode_all<R: for<'de> Deserialize<'de>>(
    entries: impl Iterator<Item = (String, Value)>,
) -> serde_json::Result<BTreeMap<String, R>> {
    entries.map(|(name, value)| Ok((name, serde_json::from_value(value)?))).collect()
}

pub(super) fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have string keys and no fallible serializers")
}

#[cfg(test)]
impl Database {
    /// Writes what an earlier version has written.
    pub(super) fn write_raw(&self, instance: &str, name: &str, container: &str) -> Result<()> {
        self.commit(|transaction| {
            transaction.open_table(INSTANCE)?.insert((), instance.as_bytes())?;
            transaction.open_table(CONTAINERS)?.insert(name, container.as_bytes())?;
            Ok(())
        })
    }
}
