//! The host's resolvers, as they are now.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::net::if_::if_nametoindex;

use super::options::{Options, SERVERS};

/// Reads the lists again when they have changed. As glibc does, at each query that needs them: a stat costs a microsecond, misses
/// no change, and follows links to wherever they lead by then.
#[derive(Debug)]
pub(super) struct Resolvers {
    port: u16,
    resolv_conf: Mutex<List>,
    resolved_conf: Mutex<List>,
}

/// What stands in one file.
#[derive(Debug)]
struct List {
    path: PathBuf,
    /// `None` until it could be read.
    stamp: Option<Stamp>,
    servers: Arc<[SocketAddr]>,
}

/// What changes when a file is written, replaced, or another behind its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Resolvers {
    pub(super) fn new(options: &Options) -> Self {
        let list = |path: &Path| Mutex::new(List { path: path.into(), stamp: None, servers: Arc::default() });
        Self {
            port: options.upstream_port,
            resolv_conf: list(&options.resolv_conf),
            resolved_conf: list(&options.resolved_conf),
        }
    }

    /// Whom the host would ask now. A stub on its loopback is asked too, since it may know more than the servers behind it;
    /// those come after it, for an agent in a network namespace where the stub is not.
    pub(super) fn servers(&self) -> Vec<SocketAddr> {
        let mut servers = self.read(&self.resolv_conf).to_vec();
        if servers.iter().all(|server| server.ip().is_loopback()) {
            let more = self.read(&self.resolved_conf);
            servers.extend(more.iter().filter(|server| !server.ip().is_loopback()));
        }
        if servers.is_empty() {
            // resolv.conf(5): "the default is to use the name server on the local machine".
            servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.port));
        }
        servers
    }

    fn read(&self, list: &Mutex<List>) -> Arc<[SocketAddr]> {
        let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
        list.follow(self.port);
        list.servers.clone()
    }
}

impl List {
    /// What was there last stays while there is no file: some programs remove it before they write another.
    fn follow(&mut self, port: u16) {
        let now = || fs::metadata(&self.path).map(|metadata| Stamp::of(&metadata));
        let Ok(stamp) = now() else { return };
        if self.stamp == Some(stamp) {
            return;
        }
        match fs::read_to_string(&self.path) {
            Ok(text) => {
                // Written meanwhile: used, and read again next time.
                let is_whole = now().ok() == Some(stamp);
                let servers = nameservers(&text, port);
                if *self.servers != *servers {
                    tracing::info!(file = %self.path.display(), ?servers, "resolvers of the host");
                }
                self.servers = servers.into();
                self.stamp = is_whole.then_some(stamp);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!("cannot read the host's resolvers from {}: {error}", self.path.display());
                // Said once for each change.
                self.stamp = Some(stamp);
            }
        }
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn nameservers(text: &str, port: u16) -> Vec<SocketAddr> {
    text.lines().filter_map(|line| nameserver(line, port)).take(SERVERS).collect()
}

fn nameserver(line: &str, port: u16) -> Option<SocketAddr> {
    let mut words = line.split_whitespace();
    let address = (words.next()? == "nameserver").then(|| words.next())??;
    // A link-local server is one of a device.
    if let Some((address, device)) = address.split_once('%') {
        let scope = device.parse().ok().or_else(|| if_nametoindex(device).ok())?;
        return Some(SocketAddrV6::new(address.parse().ok()?, port, 0, scope).into());
    }
    Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        nameservers(text, 53).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_three_servers_of_a_list_count() {
        let text = "# nameserver 10.0.0.9\nsearch a b\nnameserver\t10.0.0.1 \n nameserver fd00::1\n\
                    nameserver x\nnameserver fe80::1%lo\noptions ndots:2\nnameserver 10.0.0.4\n";
        assert_eq!(shown(text), ["10.0.0.1:53", "[fd00::1]:53", "[fe80::1%1]:53"]);
        assert_eq!(shown("nameserver fe80::1%7\nnameserver fe80::1%nowhere\n"), ["[fe80::1%7]:53"]);
    }

    #[test]
    fn servers_behind_a_stub_follow_it() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            resolv_conf: directory.path().join("resolv.conf"),
            resolved_conf: directory.path().join("behind"),
            ..Options::default()
        };
        let resolvers = Resolvers::new(&options);
        let shown = || resolvers.servers().iter().map(|server| server.ip().to_string()).collect::<Vec<_>>();
        let replace = |path: &Path, text: &str| {
            fs::write(directory.path().join("new"), text).unwrap();
            fs::rename(directory.path().join("new"), path).unwrap();
        };
        assert_eq!(shown(), ["127.0.0.1"], "nothing is listed");
        replace(&options.resolv_conf, "nameserver 127.0.0.53\n");
        assert_eq!(shown(), ["127.0.0.53"]);
        replace(&options.resolved_conf, "nameserver 10.0.0.1\nnameserver 127.0.0.2\n");
        assert_eq!(shown(), ["127.0.0.53", "10.0.0.1"]);
        replace(&options.resolv_conf, "nameserver 10.0.0.2\n");
        assert_eq!(shown(), ["10.0.0.2"]);
        fs::remove_file(&options.resolv_conf).unwrap();
        assert_eq!(shown(), ["10.0.0.2"], "about to be written anew");
        fs::write(&options.resolv_conf, "nameserver 10.0.0.33\n").unwrap();
        assert_eq!(shown(), ["10.0.0.33"]);
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let [one, two, link] = ["one", "two", "link"].map(|name| directory.path().join(name));
        fs::write(&one, "nameserver 10.0.0.1\n").unwrap();
        fs::write(&two, "nameserver 10.0.0.2\n").unwrap();
        std::os::unix::fs::symlink(&one, &link).unwrap();
        let options = Options { resolv_conf: link.clone(), resolved_conf: "/nowhere".into(), ..Options::default() };
        let resolvers = Resolvers::new(&options);
        assert_eq!(resolvers.servers()[0].ip().to_string(), "10.0.0.1");
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&two, &link).unwrap();
        assert_eq!(resolvers.servers()[0].ip().to_string(), "10.0.0.2");
    }
}
