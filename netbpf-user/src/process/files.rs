//! The files of a container: what its process sees in /etc, and its log.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A directory per container below the instance's run directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// The files of the container of this name.
    pub fn of(run_dir: &Path, name: &str) -> Self {
        Self { directory: Self::all(run_dir).join(name) }
    }

    /// The directory of the directories of an instance's containers.
    pub fn all(run_dir: &Path) -> PathBuf {
        run_dir.join("containers")
    }

    /// Writes hosts, hostname and resolv.conf.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, hostname: &str, addresses: impl Iterator<Item = IpAddr>) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let hosts = hosts(hostname, addresses);
        fs::write(self.directory.join("hosts"), hosts)?;
        fs::write(self.directory.join("hostname"), format!("{hostname}\n"))?;
        fs::write(self.directory.join("resolv.conf"), resolv_conf()?)
    }

    /// Standard output and error of a detached process.
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Each file, and the one of the host that it is mounted over.
    pub fn places(&self) -> impl Iterator<Item = (PathBuf, &'static str)> {
        [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")]
            .into_iter()
            .map(|(name, place)| (self.directory.join(name), place))
    }

    /// Removes them; none is no error.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// /etc/hosts: the container itself by every address that it has.
fn hosts(hostname: &str, addresses: impl Iterator<Item = IpAddr>) -> String {
    let mut hosts = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for address in addresses {
        hosts.push_str(&format!("{address}\t{hostname}\n"));
    }
    hosts
}

/// The host's resolvers, as far as a container can reach them: what listens on the host's loopback, it cannot.
fn resolv_conf() -> io::Result<String> {
    // systemd-resolved puts itself into the first and the real servers into the second.
    let candidates = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
    let mut first = None;
    for candidate in candidates {
        let text = match fs::read_to_string(candidate) {
            Ok(text) => reachable(&text),
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if text.lines().any(|line| nameserver(line).is_some()) {
            return Ok(text);
        }
        first.get_or_insert(text);
    }
    Ok(first.unwrap_or_default())
}

fn reachable(text: &str) -> String {
    let loopback = |line: &&str| nameserver(line).is_some_and(|address| address.is_loopback());
    text.lines().filter(|line| !loopback(line)).flat_map(|line| [line, "\n"]).collect()
}

fn nameserver(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    (words.next()? == "nameserver").then(|| words.next()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_finds_itself_by_every_address() {
        let addresses = ["172.30.0.2", "fd00::2"].map(|text| text.parse().unwrap());
        assert!(hosts("web", addresses.into_iter()).ends_with("\n172.30.0.2\tweb\nfd00::2\tweb\n"));
    }

    #[test]
    fn resolvers_on_the_loopback_of_the_host_are_left_out() {
        let text = "search example.org\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 10.0.0.1\n# nameserver\n";
        assert_eq!(reachable(text), "search example.org\nnameserver 10.0.0.1\n# nameserver\n");
    }
}
