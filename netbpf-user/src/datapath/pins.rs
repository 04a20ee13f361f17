//! The pins of an instance: what is there without an agent. As long as one runs it holds a descriptor of everything, and what has
//! lost its pin is pinned again.

use std::fs;

use netbpf_common::abi::map;

use super::links::names_in;
use super::queues::DIRECTORY;
use super::{Datapath, mount_bpffs};
use crate::error::{Context as _, Result};

impl Datapath {
    /// Pins that are not there, below the instance's directory.
    pub(crate) fn lost_pins(&self) -> Vec<String> {
        let maps = names_in(&self.directory.join("maps"));
        let lost = map::all().filter(|name| !maps.contains(*name)).map(|name| format!("maps/{name}"));
        let links = self.links.lost_pins().into_iter().map(|name| format!("links/{name}"));
        lost.chain(links).chain(self.queues.lost().into_iter().map(|name| format!("{DIRECTORY}/{name}"))).collect()
    }

    /// Pins again what has lost its pin, on a bpffs of its own where there is none any more. The maps and links are the same ones:
    /// no packet notices. Returns what was pinned.
    pub(crate) fn keep_pins(&self) -> Result<Vec<String>> {
        let lost = self.lost_pins();
        if lost.is_empty() {
            return Ok(lost);
        }
        mount_bpffs(&self.directory)?;
        let maps = self.directory.join("maps");
        for directory in [&maps, &self.directory.join("links")] {
            fs::create_dir_all(directory).context(|| format!("make {}", directory.display()))?;
        }
        self.programs.lock().expect("no panic while it was held").keep_pins()?;
        self.links.keep_pins()?;
        self.queues.keep()?;
        Ok(lost)
    }
}
