//! The doors of the API: one for those who may ask for anything, and one for those who may only look.

use std::path::PathBuf;

use axum::http::Method;
use nix::unistd::{Gid, Group};

use super::quota::Most;
use super::socket::{Socket, SocketError};
use crate::config::{GroupName, Settings};
use crate::error::{Context as _, Error, Result};

/// The group of users who may ask for anything, unless the settings name another.
const GROUP: &str = "netbpf";

/// The group of users who may look.
const READ_GROUP: &str = "netbpf-read";

/// A socket, whom it is for, and what can be asked there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Door {
    pub(super) path: PathBuf,
    /// Whose members come in besides root; nobody's when there is none.
    pub(super) group: Option<Gid>,
    /// Whether nothing can be changed from there.
    pub(super) is_for_looking: bool,
}

/// The doors of an instance.
#[derive(Debug)]
pub struct Doors {
    all: Vec<Door>,
    /// The socket of a door that there is not: what an earlier agent has left.
    closed: Option<PathBuf>,
}

/// The sockets of an instance.
#[derive(Debug)]
pub struct OpenDoors(pub(super) Vec<(Door, Socket)>);

impl Doors {
    /// The doors that the settings and the groups of the system make.
    ///
    /// # Errors
    /// When a group is named that there is not.
    pub fn of(settings: &Settings) -> Result<Self> {
        let find = |name: &str| Ok(Group::from_name(name)?.map(|group| group.gid));
        Self::with_groups(settings, find)
    }

    fn with_groups(settings: &Settings, find: impl Fn(&str) -> nix::Result<Option<Gid>>) -> Result<Self> {
        let group = gid("socket_group", settings.socket_group.as_ref(), GROUP, &find)?;
        let readers = gid("read_group", settings.read_group.as_ref(), READ_GROUP, &find)?;
        let mut all = vec![Door { path: settings.socket(), group, is_for_looking: false }];
        let path = settings.read_socket();
        let closed = readers.is_none().then(|| path.clone());
        all.extend(readers.map(|group| Door { path, group: Some(group), is_for_looking: true }));
        Ok(Self { all, closed })
    }

    /// Refuses sockets that are in use or none of ours, without changing anything.
    ///
    /// # Errors
    /// When an agent answers at one of them, or it is none of ours.
    pub fn check(&self) -> std::result::Result<(), SocketError> {
        let paths = self.all.iter().map(|door| &door.path).chain(&self.closed);
        paths.into_iter().try_for_each(|path| Socket::check(path))
    }

    /// Listens at all of them.
    ///
    /// # Errors
    /// When the file system refuses, or somebody else was faster.
    pub fn open(self) -> std::result::Result<OpenDoors, SocketError> {
        if let Some(path) = &self.closed {
            Socket::remove_stale(path)?;
        }
        let open = |door: Door| Socket::bind(&door.path, door.group).map(|socket| (door, socket));
        self.all.into_iter().map(open).collect::<std::result::Result<_, _>>().map(OpenDoors)
    }
}

impl Door {
    /// Whether this may be asked here.
    pub(super) fn serves(&self, method: &Method) -> bool {
        !self.is_for_looking || method.is_safe()
    }

    /// How many connections there may be. Answers wait in memory for who does not read them: those who look have fewer.
    pub(super) fn most_connections(&self) -> Most {
        if self.is_for_looking {
            Most { of_all: 32, of_others: 16, of_one: 8 }
        } else {
            Most { of_all: 1024, of_others: 256, of_one: 64 }
        }
    }

    /// How many requests there may be that are not answered. A request goes on when its connection has ended.
    pub(super) fn most_requests(&self) -> Most {
        if self.is_for_looking { Most { of_all: 16, of_others: 8, of_one: 4 } } else { self.most_connections() }
    }
}

/// The number of the group that a setting names, or of the usual one where there is one.
fn gid(
    setting: &str,
    named: Option<&GroupName>,
    usual: &str,
    find: impl Fn(&str) -> nix::Result<Option<Gid>>,
) -> Result<Option<Gid>> {
    let look_up = |name: &str| find(name).context(|| format!("look up the group {name}"));
    let Some(GroupName(name)) = named else { return look_up(usual) };
    // The largest number means no group to chown(2).
    if let Some(number) = name.parse::<u32>().ok().filter(|number| *number != u32::MAX) {
        return Ok(Some(Gid::from_raw(number)));
    }
    match look_up(name)? {
        Some(group) => Ok(Some(group)),
        None => Err(Error::Invalid(format!(
            "{setting} '{}' is no group of this system: make it (groupadd --system NAME), or name another",
            name.escape_debug()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The doors on a system with these groups.
    fn doors(settings: &Settings, groups: &[(&str, u32)]) -> Result<Vec<(Option<u32>, bool)>> {
        let find =
            |name: &str| Ok(groups.iter().find(|(known, _)| *known == name).map(|(_, number)| Gid::from_raw(*number)));
        let doors = Doors::with_groups(settings, find)?;
        assert_eq!(doors.closed.is_some(), doors.all.len() == 1);
        Ok(doors.all.into_iter().map(|door| (door.group.map(Gid::as_raw), door.is_for_looking)).collect())
    }

    fn named(socket_group: &str, read_group: &str) -> Settings {
        let group = |name: &str| Some(GroupName(name.into())).filter(|_| !name.is_empty());
        Settings { socket_group: group(socket_group), read_group: group(read_group), ..Settings::default() }
    }

    #[test]
    fn without_groups_there_is_one_door_and_it_is_roots() {
        assert_eq!(doors(&named("", ""), &[]).unwrap(), [(None, false)]);
    }

    #[test]
    fn the_usual_groups_are_let_in_where_the_system_has_them() {
        let groups = [("netbpf", 7), ("netbpf-read", 8)];
        assert_eq!(doors(&named("", ""), &groups).unwrap(), [(Some(7), false), (Some(8), true)]);
        assert_eq!(doors(&named("", ""), &groups[1..]).unwrap(), [(None, false), (Some(8), true)]);
    }

    #[test]
    fn a_group_that_is_named_takes_the_place_of_the_usual_one() {
        let groups = [("netbpf", 7), ("netbpf-read", 8), ("wheel", 10)];
        assert_eq!(doors(&named("wheel", "5"), &groups).unwrap(), [(Some(10), false), (Some(5), true)]);
    }

    #[test]
    fn a_group_that_there_is_not_is_refused() {
        for settings in [named("nobody", ""), named("", "nobody"), named("4294967295", "")] {
            let line = doors(&settings, &[("netbpf", 7)]).unwrap_err().to_string();
            assert!(line.contains("_group '") && line.contains("groupadd") && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn who_looks_changes_nothing() {
        let looking = Door { path: "/s".into(), group: None, is_for_looking: true };
        assert!(looking.serves(&Method::GET) && looking.serves(&Method::HEAD));
        for method in [Method::POST, Method::DELETE, Method::PUT, Method::PATCH] {
            assert!(!looking.serves(&method), "{method}");
        }
    }
}
