//! Desired state on disk: an embedded database in the state directory.

mod copy;
mod database;
mod network;
mod older;
mod record;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use network::{Driver, Lan, Made, Mode, NetworkRecord};
#[cfg(test)]
pub(crate) use record::Audience;
pub(crate) use record::{ContainerRecord, EndpointRecord, ExtraHost, ProcessRecord, RuleRecord};

use crate::config::GlobalId;
use crate::error::{Context as _, Error, Result};
use copy::Copy;
use database::{Database, Trouble, encode};

/// Layout of what is stored. Version 1 knew IPv4 alone, version 2 one network alone: see `older`.
const VERSION: u32 = 3;

/// The oldest layout that is read.
const OLDEST: u32 = 1;

/// The database, in the state directory.
const FILE: &str = "netbpf.redb";

/// One that could not be read any more.
const DAMAGED: &str = "netbpf.redb.damaged";

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

/// Changes as they are written, in the database and in its copy.
#[derive(Debug)]
struct Encoded<'a> {
    networks: Vec<(&'a str, Vec<u8>)>,
    containers: Vec<(&'a str, Vec<u8>)>,
    changes: &'a Changes,
}

impl<'a> From<&'a Changes> for Encoded<'a> {
    fn from(changes: &'a Changes) -> Self {
        let networks = changes.networks.iter().map(|record| (&*record.name, encode(record)));
        let containers = changes.containers.iter().map(|record| (&*record.name, encode(record)));
        Self { networks: networks.collect(), containers: containers.collect(), changes }
    }
}

impl From<&ContainerRecord> for Changes {
    fn from(container: &ContainerRecord) -> Self {
        Self { containers: vec![container.clone()], ..Self::default() }
    }
}

/// The database of an instance, and its copy.
#[derive(Debug)]
pub(crate) struct Store {
    database: Database,
    copy: Copy,
}

impl Store {
    /// Opens the database in a state directory, or makes it, and reads what is stored: nothing in a new one. One that is damaged, empty or
    /// gone is made anew from its copy in the run directory, which lives as long as the kernel's state does; what is left of it
    /// stays beside it.
    pub(crate) fn open(state_dir: &Path, run_dir: &Path) -> Result<(Self, Option<Stored>)> {
        let path = state_dir.join(FILE);
        let copy = Copy::in_run_dir(run_dir, state_dir);
        copy.check_own()?;
        let opened = Database::open(&path).and_then(|database| Ok((database.load()?, database)));
        let why = match opened {
            Ok((Some(stored), database)) if !database.is_repaired || !copy.exists() => {
                if database.is_repaired {
                    tracing::warn!("the database {} was damaged: what has changed last may be missing", path.display());
                }
                copy.replace(&stored)?;
                return Ok((Self { database, copy }, Some(stored)));
            }
            Ok((Some(_), database)) => {
                drop(database);
                "its checksums are wrong".to_owned()
            }
            Ok((None, database)) => {
                let Some(stored) = copy.read()? else {
                    // What is left of an earlier one is not of this one.
                    Self::remove_copy(run_dir)?;
                    return Ok((Self { database, copy }, None));
                };
                tracing::warn!("the database {} was empty: it is made anew from its copy", path.display());
                database.write_all(&stored)?;
                return Ok((Self { database, copy }, Some(stored)));
            }
            Err(Trouble::Damaged(why)) => why,
            Err(Trouble::Refused(error)) => return Err(error),
        };
        let Some(stored) = copy.read()? else { return Err(lost(&path, &why)) };
        let kept = state_dir.join(DAMAGED);
        std::fs::rename(&path, &kept).context(|| format!("move the damaged {} away", path.display()))?;
        tracing::warn!(
            "the database {} was damaged ({why}): it is made anew from its copy in {}, and what was left of it is {}",
            path.display(),
            run_dir.display(),
            kept.display()
        );
        let database = Database::open(&path).map_err(|trouble| trouble.refusal(&path))?;
        database.write_all(&stored)?;
        Ok((Self { database, copy }, Some(stored)))
    }

    /// What is stored of an instance that is to go, as far as it can be read. Nothing is made or mended.
    pub(crate) fn last_words(state_dir: &Path, run_dir: &Path) -> Option<Stored> {
        let path = state_dir.join(FILE);
        let read = || Database::open(&path)?.load();
        let stored = if path.exists() { read() } else { Ok(None) };
        match stored {
            Ok(Some(stored)) => return Some(stored),
            Ok(None) => {}
            Err(trouble) => tracing::warn!("{}", trouble.refusal(&path)),
        }
        let copy = Copy::in_run_dir(run_dir, state_dir);
        copy.check_own().and_then(|()| copy.read()).unwrap_or_else(|error| {
            tracing::warn!("{error}");
            None
        })
    }

    /// Files of the database in a state directory.
    pub(crate) fn files(state_dir: &Path) -> [PathBuf; 3] {
        let path = state_dir.join(FILE);
        [unready(&path), path, state_dir.join(DAMAGED)]
    }

    /// Directories of the copy in a run directory, from above.
    pub(crate) fn directories(run_dir: &Path) -> [PathBuf; 3] {
        copy::directories(run_dir)
    }

    /// Removes the copy.
    pub(crate) fn remove_copy(run_dir: &Path) -> Result<()> {
        copy::remove_all(run_dir)
    }

    /// Writes the instance.
    pub(crate) fn save_instance(&self, instance: &InstanceRecord) -> Result<()> {
        self.database.write_instance(instance)?;
        self.copy.write_instance(instance);
        Ok(())
    }

    /// Writes changes, in one step.
    pub(crate) fn save(&self, changes: &Changes) -> Result<()> {
        let encoded = Encoded::from(changes);
        self.database.write(&encoded)?;
        self.copy.write(&encoded);
        Ok(())
    }
}

/// What a database is called before it is one.
fn unready(path: &Path) -> PathBuf {
    path.with_extension("redb.unready")
}

/// The refusal of a database that nothing is left of.
fn lost(path: &Path, why: &str) -> Error {
    Error::Internal(format!(
        "the database {} is damaged ({why}), and there is no copy of it in the run directory: restore it from a backup, or remove it \
         together with the instance (`netbpf uninstall`); the datapath goes on as it is",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    /// A store with its copy below the same directory.
    fn open(directory: &Path) -> Result<(Store, Option<Stored>)> {
        Store::open(directory, &directory.join("run"))
    }

    fn instance() -> InstanceRecord {
        InstanceRecord::new([2, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    }

    #[test]
    fn what_was_saved_is_there_after_a_restart_and_what_was_forgotten_is_not() {
        let directory = directory();
        {
            let (store, stored) = open(directory.path()).unwrap();
            assert!(stored.is_none());
            store.save_instance(&instance()).unwrap();
            let containers = vec![ContainerRecord::example("a"), ContainerRecord::example("b")];
            store.save(&Changes { containers, ..Changes::default() }).unwrap();
            store.save(&Changes { removed_containers: vec!["a".into()], ..Changes::default() }).unwrap();
        }
        let stored = open(directory.path()).unwrap().1.unwrap();
        assert_eq!(stored.instance, instance());
        assert_eq!(stored.containers.into_values().collect::<Vec<_>>(), [ContainerRecord::example("b")]);
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
            let directory = directory();
            {
                let (store, _) = open(directory.path()).unwrap();
                store.database.write_raw(&instance, "a", record).unwrap();
            }
            let (store, stored) = open(directory.path()).unwrap();
            let stored = stored.unwrap();
            assert_eq!((stored.instance.version, stored.instance.global_id), (VERSION, None));
            let [endpoint] = &stored.containers["a"].endpoints[..] else { panic!("one end") };
            assert_eq!((&*endpoint.network, &*endpoint.name, endpoint.slot), ("default", "eth0", 1));
            assert_eq!(endpoint.addresses().map(|it| it.to_string()).collect::<Vec<_>>(), expected);
            assert!(stored.containers["a"].rules[0].is_wildcard());
            // Records of both layouts, side by side.
            store.save(&Changes::from(&ContainerRecord::example("b"))).unwrap();
            drop(store);
            let again = open(directory.path()).unwrap().1.unwrap();
            assert_eq!(again.containers["a"], stored.containers["a"]);
            assert_eq!(again.containers["b"], ContainerRecord::example("b"));
        }
    }

    #[test]
    fn a_newer_database_is_refused_in_one_line_and_left_as_it_is() {
        let directory = directory();
        {
            let (store, _) = open(directory.path()).unwrap();
            store.save_instance(&InstanceRecord { version: 9, ..instance() }).unwrap();
        }
        let refused = open(directory.path()).unwrap_err().to_string();
        assert!(refused.contains("layout 9") && !refused.contains('\n'), "{refused}");
        assert!(!directory.path().join(DAMAGED).exists());
    }

    /// A database with two containers; what stands in its file.
    fn filled(directory: &Path) -> Vec<u8> {
        let (store, _) = open(directory).unwrap();
        store.save_instance(&instance()).unwrap();
        for name in ["a", "b"] {
            store.save(&Changes::from(&ContainerRecord::example(name))).unwrap();
        }
        drop(store);
        fs::read(directory.join(FILE)).unwrap()
    }

    fn names(stored: &Stored) -> Vec<&str> {
        stored.containers.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_damaged_database_is_made_anew_from_its_copy_and_what_was_left_of_it_stays() {
        let directory = directory();
        let whole = filled(directory.path());
        let file = directory.path().join(FILE);
        for (what, damage) in [
            ("garbage", b"not a database".to_vec()),
            ("empty", Vec::new()),
            ("half", whole[..whole.len() / 2].to_vec()),
            ("a header alone", whole[..4096].to_vec()),
            ("zeros", vec![0; whole.len()]),
        ] {
            fs::write(&file, &damage).unwrap();
            let (store, stored) = open(directory.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(names(&stored.unwrap()), ["a", "b"], "{what}");
            drop(store);
            assert_eq!(names(&open(directory.path()).unwrap().1.unwrap()), ["a", "b"], "{what}, once more");
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(names(&open(directory.path()).unwrap().1.unwrap()), ["a", "b"], "gone");
    }

    #[test]
    fn a_run_directory_of_another_instance_is_refused() {
        let (one, other) = (directory(), directory());
        filled(one.path());
        let refused = Store::open(other.path(), &one.path().join("run")).unwrap_err().to_string();
        assert!(refused.contains("--run-dir") && !refused.contains('\n'), "{refused}");
        assert_eq!(names(&open(one.path()).unwrap().1.unwrap()), ["a", "b"]);
    }

    #[test]
    fn a_damaged_database_without_a_copy_is_refused_in_one_line_and_left_as_it_is() {
        let directory = directory();
        filled(directory.path());
        fs::remove_dir_all(directory.path().join("run")).unwrap();
        let file = directory.path().join(FILE);
        fs::write(&file, b"not a database").unwrap();
        let refused = open(directory.path()).unwrap_err().to_string();
        assert!(refused.contains(FILE) && refused.contains("uninstall") && !refused.contains('\n'), "{refused}");
        assert_eq!(fs::read(&file).unwrap(), b"not a database");
    }

    #[test]
    fn no_byte_that_flips_makes_the_agent_forget_or_die() {
        let directory = directory();
        let whole = filled(directory.path());
        let file = directory.path().join(FILE);
        let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
        for at in used.into_iter().step_by(101) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&file, &damaged).unwrap();
            match open(directory.path()) {
                Ok((_, stored)) => assert_eq!(names(&stored.expect("all of it")), ["a", "b"], "byte {at}"),
                Err(error) => assert!(!error.to_string().contains('\n'), "byte {at}: {error}"),
            }
        }
    }
}
