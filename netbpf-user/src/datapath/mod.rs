//! The kernel's side of an instance: its programs, maps and links, all pinned in one bpffs directory.

mod attach;
mod btf;
pub(crate) mod clock;
mod family;
mod filters;
mod hook;
mod links;
mod load;
mod neighbours;
mod pins;
mod probe;
mod programs;
mod queues;
mod sys;
mod table;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use aya::programs::{TestRun as _, TestRunOptions};
use bytemuck::{Pod, Zeroable};
use netbpf_common::abi::{COLLECT_KEYS, COUNTERS, Config, Endpoint, FlowKey, Network, Rule, Uplink, program};
use netbpf_common::wire::{V4Addr, V6Addr};

pub(crate) use attach::{Attachment, pinned_programs};
pub use family::{FamilyMaps, InFamily};
pub(crate) use filters::{is_own_filter, remove_filter};
pub(crate) use hook::{Direction, Hook, NETKIT, Way};
pub(crate) use load::{cgroup_root, check_cgroup, mount_bpffs};
pub(crate) use neighbours::{has_batches, has_tcx, on_cgroup, on_device, program_infos};
pub(crate) use probe::{KERNEL_BTF, knows_ipv6_checksums};
pub use programs::object;
pub(crate) use queues::queues;
pub(crate) use sys::{give_memory_back, keep_large_blocks_apart, peer_groups, readable, set_gro, strips_vlan_tags};
pub use table::Table;

use crate::error::{Context as _, Error, Result};

/// The least that the kernel takes as a frame for BPF_PROG_TEST_RUN, and then some.
const SHORTEST_FRAME: usize = 64;

/// What a program may add to a frame.
const HEADROOM: usize = 256;

/// A place in the map of devices, as the kernel has it (struct bpf_devmap_val): nothing runs on the way to the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ExpressDevice {
    /// Number of the device.
    pub ifindex: u32,
    /// Descriptor of a program; none.
    pub program: u32,
}

/// Every map that the agent reads or writes.
#[derive(Debug)]
pub struct Maps {
    /// The one [`Config`].
    pub config: Table<u32, Config>,
    /// Endpoints by slot.
    pub endpoints: Table<u32, Endpoint>,
    /// Networks by number.
    pub networks: Table<u32, Network>,
    /// Those of IPv4 alone.
    pub v4: FamilyMaps<V4Addr>,
    /// Those of IPv6 alone.
    pub v6: FamilyMaps<V6Addr>,
    /// Uplinks by ifindex.
    pub uplinks: Table<u32, Uplink>,
    /// Host-side devices by slot of the endpoints that take frames ahead of the host's stack.
    pub express: Table<u32, ExpressDevice>,
    /// Generations of rules and epochs.
    pub generations: Table<u32, u32>,
    /// Publish rules by number.
    pub rules: Table<u32, Rule>,
    /// Bitmap of ports outside the NAT range that flows have kept, by port index.
    pub kept: Table<u32, u64>,
    /// The rings of the members of networks: from the slot of each to that of the next.
    pub members: Table<u32, u32>,
    /// Confirmed flows by the slot of the endpoint that they are counted for.
    pub confirmed: Table<u32, u64>,
    /// Counters of drops and events.
    pub counters: Table<u32, [u64; COUNTERS as usize]>,
}

/// The loaded programs and the pinned maps of an instance.
#[derive(Debug)]
pub struct Datapath {
    directory: PathBuf,
    programs: Mutex<programs::Programs>,
    /// The maps.
    pub maps: Maps,
    links: links::Links,
    /// Filters of devices that have no link.
    filters: Mutex<filters::Filters>,
    /// Queues for filters on devices of others.
    queues: queues::Queues,
    /// One at a time makes links, or detaches what one is being made for.
    linking: Mutex<()>,
    /// Whether the kernel has links for programs of devices (TCX), as far as it was asked.
    has_links: AtomicBool,
}

/// What came of running a program.
#[derive(Clone, Debug)]
pub struct Run {
    /// What the program returned.
    pub returned: u32,
    /// The frame afterwards.
    pub output: Vec<u8>,
    /// Time per run.
    pub duration: std::time::Duration,
}

impl Datapath {
    /// Next value of an epoch or of a rule's generation.
    pub(crate) fn bump(&self, index: u32) -> Result<u32> {
        let generations = &self.maps.generations;
        let next = generations.get(index)?.unwrap_or(0).wrapping_add(1).max(1);
        generations.set(index, next)?;
        Ok(next)
    }

    /// Hands keys of flows of one family to the program that deletes those which have expired or are stale. Returns how many.
    ///
    /// # Errors
    /// When the kernel does not run it.
    pub fn collect<A: InFamily>(&self, keys: &[FlowKey<A>]) -> Result<u32> {
        let mut deleted = 0;
        for batch in keys.chunks(COLLECT_KEYS) {
            let mut frame = bytemuck::cast_slice(batch).to_vec();
            frame.resize(frame.len().max(SHORTEST_FRAME), 0);
            deleted += self.run(A::COLLECT, &frame, &[], 1)?.returned;
        }
        Ok(deleted)
    }

    /// Runs a TC program on a frame (BPF_PROG_TEST_RUN), `repeat` times; `context` is a `__sk_buff`, or nothing.
    ///
    /// # Errors
    /// When the kernel does not take the frame or the context.
    pub fn run(&self, name: &str, frame: &[u8], context: &[u8], repeat: u32) -> Result<Run> {
        let mut programs = self.programs.lock().expect("no panic while it was held");
        let mut output = vec![0; frame.len() + HEADROOM];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ctx_in: (!context.is_empty()).then_some(context),
            repeat,
            ..TestRunOptions::new()
        };
        let result = match name {
            program::EXPRESS => programs.express()?.test_run(options),
            _ => programs.classifier(name)?.test_run(options),
        };
        let result = result.context(|| format!("run the program {name}"))?;
        output.truncate(result.data_size_out as usize);
        Ok(Run { returned: result.return_value, output, duration: result.duration })
    }

    /// Moves the datapath's own log lines out of its ring buffer, when `datapath_log` is on.
    pub(crate) fn logger(&self) -> Option<aya_log::EbpfLogger<&'static dyn log::Log>> {
        let programs = self.programs.lock().expect("no panic while it was held");
        // One buffer is that of all.
        let any = *programs.ids().get(program::EGRESS)?;
        aya_log::EbpfLogger::init_from_id(any)
            .inspect_err(|error| tracing::warn!("the datapath's log cannot be read: {error}"))
            .ok()
    }
}

/// CPUs that the kernel has per-CPU maps for.
pub(crate) fn possible_cpus() -> Result<usize> {
    aya::util::nr_cpus().map_err(|(path, error)| Error::Internal(format!("cannot read {path}: {error}")))
}

/// Cookie of the network namespace that the calling thread is in, which the socket hooks compare with.
pub(crate) fn netns_cookie() -> Result<u64> {
    sys::netns_cookie().map_err(|error| {
        Error::Unsupported(format!(
            "the kernel does not tell network namespaces apart ({error}): netbpf needs Linux 6.1 or newer"
        ))
    })
}

/// Pinned state that this version cannot go on with. It is refused, never reset: traffic may rest on it.
fn foreign_layout(what: &str) -> Error {
    Error::Unsupported(format!(
        "{what}: the pinned datapath was made by another version or with other settings; \
         start the agent that made it, or remove it with `netbpf uninstall`"
    ))
}
