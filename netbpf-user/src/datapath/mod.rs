//! The kernel's side of an instance: its programs, maps and links, all pinned in one bpffs directory.

mod attach;
pub(crate) mod clock;
mod load;
mod sys;
mod table;

use std::path::PathBuf;
use std::sync::Mutex;

use aya::Ebpf;
use aya::programs::tc::SchedClassifier;
use aya::programs::{TestRun as _, TestRunOptions};
use netbpf_common::abi::{
    COLLECT_KEYS, COUNTERS, Config, Endpoint, Flow, FlowKey, Network, PublishKey, PublishedPort, Rule, Uplink, program,
};
use netbpf_common::wire::V4Addr;

pub(crate) use attach::{Attachment, Hook, remove_filter};
pub(crate) use load::{cgroup_root, mount_bpffs};
pub(crate) use sys::readable;
pub(crate) use table::Table;

use crate::error::{Context as _, Error, Result};

/// The least that the kernel takes as a frame for BPF_PROG_TEST_RUN, and then some.
const SHORTEST_FRAME: usize = 64;

/// Every map that the agent reads or writes.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) config: Table<u32, Config>,
    pub(crate) endpoints: Table<u32, Endpoint>,
    pub(crate) networks: Table<u32, Network>,
    pub(crate) addresses: Table<V4Addr, u32>,
    pub(crate) locals: Table<V4Addr, u32>,
    pub(crate) virtuals: Table<u32, V4Addr>,
    pub(crate) uplinks: Table<u32, Uplink>,
    pub(crate) generations: Table<u32, u32>,
    pub(crate) rules: Table<u32, Rule>,
    pub(crate) ports: Table<u32, PublishedPort>,
    pub(crate) published: Table<PublishKey<V4Addr>, u32>,
    pub(crate) flows: Table<FlowKey<V4Addr>, Flow<V4Addr>>,
    pub(crate) counters: Table<u32, [u64; COUNTERS as usize]>,
}

/// The loaded programs and the pinned maps of an instance.
#[derive(Debug)]
pub(crate) struct Datapath {
    directory: PathBuf,
    programs: Mutex<Ebpf>,
    /// The maps.
    pub(crate) maps: Maps,
    /// Filters of devices on a kernel without TCX, which has no links to pin.
    filters: Mutex<attach::Filters>,
}

impl Datapath {
    /// Next value of an epoch or of a rule's generation.
    pub(crate) fn bump(&self, index: u32) -> Result<u32> {
        let generations = &self.maps.generations;
        let next = generations.get(index)?.unwrap_or(0).wrapping_add(1).max(1);
        generations.set(index, next)?;
        Ok(next)
    }

    /// Hands keys of flows to the program that deletes those which have expired or are stale. Returns how many.
    pub(crate) fn collect(&self, keys: &[FlowKey<V4Addr>]) -> Result<u32> {
        let mut programs = self.programs.lock().expect("no panic while it was held");
        let collect = classifier(&mut programs, program::COLLECT)?;
        let mut deleted = 0;
        for batch in keys.chunks(COLLECT_KEYS) {
            let mut frame = bytemuck::cast_slice(batch).to_vec();
            frame.resize(frame.len().max(SHORTEST_FRAME), 0);
            let run = collect
                .test_run(TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() })
                .context(|| "run the collector of flows".into())?;
            deleted += run.return_value;
        }
        Ok(deleted)
    }

    /// Moves the datapath's own log lines out of its ring buffer, when `datapath_log` is on.
    pub(crate) fn logger(&self) -> Option<aya_log::EbpfLogger<&'static dyn log::Log>> {
        let mut programs = self.programs.lock().expect("no panic while it was held");
        aya_log::EbpfLogger::init(&mut programs)
            .inspect_err(|error| tracing::warn!("the datapath's log cannot be read: {error}"))
            .ok()
    }
}

/// Cookie of the network namespace that the calling thread is in, which the socket hooks compare with.
pub(crate) fn netns_cookie() -> Result<u64> {
    sys::netns_cookie().map_err(|error| {
        Error::Unsupported(format!(
            "the kernel does not tell network namespaces apart ({error}): netbpf needs Linux 6.1 or newer"
        ))
    })
}

fn classifier<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program =
        programs.program_mut(name).ok_or_else(|| Error::Internal(format!("the object has no program {name}")))?;
    program.try_into().context(|| format!("use the program {name} as a classifier"))
}

/// Pinned state that this version cannot go on with. It is refused, never reset: traffic may rest on it.
fn foreign_layout(what: &str) -> Error {
    Error::Unsupported(format!(
        "{what}: the pinned datapath was made by another version or with other settings; \
         start the agent that made it, or remove it with `netbpf uninstall`"
    ))
}
