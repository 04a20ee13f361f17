//! Programs of the kernel that make, count and pass on packets (netbpf-ebpf/src/traffic.rs), and who makes them.

mod flows;
mod frame;
mod live;
mod pktgen;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::PerCpuArray;
use aya::programs::tc::qdisc_add_clsact;
use aya::programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, Xdp, xdp::XdpMode};
use aya::{Ebpf, EbpfLoader};
use netbpf_user::rig::Namespace;

pub(crate) use self::flows::Flows;
pub(crate) use self::frame::speak_all;
use crate::site::{self, DEVICE, Sink, Way};

/// Frames by which it is seen how fast it goes.
const TRY: u32 = 4096;
/// The most frames of one call.
const MOST: u32 = 1 << 24;

/// Who makes packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Maker {
    /// The kernel's own generator.
    Pktgen,
    /// A program of ours, by the kernel's test runner.
    LiveFrames,
}

impl Maker {
    /// The one that this kernel has; nobody but the kernel's own will do when it is asked for.
    pub(crate) fn choose(is_demanded: bool) -> Result<Self> {
        match Path::new("/proc/net/pktgen").exists() {
            true => Ok(Self::Pktgen),
            false if !is_demanded => Ok(Self::LiveFrames),
            false => anyhow::bail!(
                "--pktgen: the kernel's generator is not there (/proc/net/pktgen): `modprobe pktgen`, or leave the flag out and packets are \
                 made by XDP live frames"
            ),
        }
    }

    /// In words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Pktgen => "pktgen",
            Self::LiveFrames => "XDP live frames",
        }
    }
}

/// The object.
pub(crate) struct Traffic {
    object: Vec<u8>,
    /// What counts at receivers, by their names, while somebody sends.
    sinks: Mutex<HashMap<String, Weak<Attached>>>,
    /// Who makes packets.
    pub(crate) maker: Maker,
}

/// Programs that are at work until this is dropped.
pub(crate) struct Attached {
    programs: Ebpf,
}

impl Attached {
    /// Packets that have arrived.
    pub(crate) fn arrived(&self) -> Result<u64> {
        let map = self.programs.map("ARRIVED").context("the object counts")?;
        let counts: PerCpuArray<_, u64> = map.try_into()?;
        Ok(counts.get(&0, 0)?.iter().sum())
    }
}

impl Traffic {
    /// Reads it from where it was built to.
    pub(crate) fn find(object: Option<PathBuf>, maker: Maker) -> Result<Self> {
        let path = object.context("the programs that make packets are missing: run this by `cargo xtask bench`")?;
        let object = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { object, sinks: Mutex::default(), maker })
    }

    fn load(&self, target: u32, settings: &[(&'static str, Vec<u32>)]) -> Result<Ebpf> {
        let mut loader = EbpfLoader::new();
        loader.override_global("TARGET", &target, true);
        for (name, words) in settings {
            loader.override_global(name, &words[..], true);
        }
        loader.load(&self.object).context("cannot load the programs that make packets")
    }

    /// Attaches a program for what a device receives from the stack's view.
    pub(crate) fn tcx(&self, name: &str, namespace: &Namespace, device: &str, target: u32) -> Result<Attached> {
        let mut programs = self.load(target, &[])?;
        namespace.enter(|| {
            let program: &mut SchedClassifier = programs.program_mut(name).context("such a program")?.try_into()?;
            program.load()?;
            // Before 6.6 it is a filter, of a qdisc that somebody must have added.
            if program.attach(device, TcAttachType::Ingress).is_err() {
                qdisc_add_clsact(device)?;
                program.attach(device, TcAttachType::Ingress)?;
            }
            Ok::<_, anyhow::Error>(())
        })??;
        Ok(Attached { programs })
    }

    /// Attaches a program for what a device receives, as frames.
    pub(crate) fn xdp(&self, name: &str, namespace: &Namespace, device: &str, target: u32) -> Result<Attached> {
        let mut programs = self.load(target, &[])?;
        namespace.enter(|| {
            let program: &mut Xdp = programs.program_mut(name).context("such a program")?.try_into()?;
            program.load()?;
            program.attach(device, XdpMode::Driver)?;
            Ok::<_, anyhow::Error>(())
        })??;
        Ok(Attached { programs })
    }

    /// What counts and ends packets at the end of a way. There is one at a receiver: of two the first would leave nothing for the other.
    pub(crate) fn sink(&self, way: &Way) -> Result<Arc<Attached>> {
        let mut sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sink) = sinks.get(way.to.name()).and_then(Weak::upgrade) {
            return Ok(sink);
        }
        let sink = Arc::new(match way.sink {
            Sink::Frames => self.xdp("sink_frames", &way.to, DEVICE, 0)?,
            Sink::Packets => self.tcx("sink", &way.to, DEVICE, 0)?,
        });
        sinks.insert(way.to.name().to_owned(), Arc::downgrade(&sink));
        Ok(sink)
    }

    /// Attaches nothing: lets the kernel's test runner pass a frame through a program, so often, and tells how many nanoseconds that
    /// takes each time.
    pub(crate) fn nothing(&self) -> Result<Nothing> {
        let mut programs = self.load(0, &[])?;
        let program: &mut SchedClassifier = programs.program_mut(NOTHING).context("such a program")?.try_into()?;
        program.load()?;
        let program: &mut Xdp = programs.program_mut(NO_FRAME).context("such a program")?.try_into()?;
        program.load()?;
        Ok(Nothing { programs })
    }

    /// What sends packets of some flows along a way. To be used in the sender's namespace.
    pub(crate) fn generator(&self, way: &Way, flows: Flows) -> Result<Box<dyn Generator>> {
        ensure!(way.from_anybody || flows.addresses == 1, "one container has not so many ports");
        let first = frame::first(way)?;
        Ok(match self.maker {
            Maker::Pktgen => Box::new(pktgen::Device::new(&way.from, &first, flows)?),
            Maker::LiveFrames => {
                let target = site::ifindex(&way.from, DEVICE)?;
                Box::new(live::Frames::new(self.load(target, &live::settings(&first, flows))?, first)?)
            }
        })
    }
}

/// Programs that do nothing at all.
pub(crate) struct Nothing {
    programs: Ebpf,
}

const NOTHING: &str = "nothing";
const NO_FRAME: &str = "no_frame";

impl Nothing {
    /// What a run of one takes, as a classifier or as frames.
    pub(crate) fn takes(&self, frame: &[u8], repeat: u32, is_xdp: bool) -> Result<Duration> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
        let program = |name| self.programs.program(name).context("such a program");
        let run = if is_xdp {
            let program: &Xdp = program(NO_FRAME)?.try_into()?;
            program.test_run(options)
        } else {
            let program: &SchedClassifier = program(NOTHING)?.try_into()?;
            program.test_run(options)
        };
        Ok(run?.duration)
    }
}

/// What makes packets of a size, and sends them.
pub(crate) trait Generator: Send {
    /// Sends so many from the namespace of the calling thread, which is theirs, and tells how long it took: without what a call costs by
    /// itself.
    fn send(&mut self, packets: u32) -> Result<Duration>;

    /// How many it sends in some time, by a try.
    fn packets_in(&mut self, time: Duration) -> Result<u32> {
        let one = self.send(TRY)?.as_secs_f64() / f64::from(TRY);
        Ok(((time.as_secs_f64() / one) as u32).clamp(TRY, MOST))
    }
}
