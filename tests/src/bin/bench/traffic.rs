//! Programs of the kernel that make, count and pass on packets (netbpf-ebpf/src/traffic.rs).

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::PerCpuArray;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, xdp::XdpMode,
};
use aya::{Ebpf, EbpfLoader};
use etherparse::{Ipv4Header, PacketBuilder};
use netbpf_tests::link::Link;
use netbpf_tests::place::Place;
use netbpf_tests::version::Version;
use netbpf_user::rig::Namespace;

use crate::site::{self, DEVICE, Way, json};

/// The shortest frame of Ethernet, without its checksum.
const FRAME: usize = 60;
const ETHERNET: usize = 14;
const HEADERS: usize = 42;
/// Source ports of the flows with one source address, as the program has it: 2^14.
const PORT_BITS: u32 = 14;
/// The first of them, within netbpf's NAT range.
const FIRST_PORT: u16 = 16_384;
/// Where made-up clients are, when they may be anywhere.
const ANYBODY: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// Frames by which it is seen how fast it goes.
const TRY: u32 = 4096;
/// The most frames of one call.
const MOST: u32 = 1 << 24;
const BATCH: u32 = 64;

/// The object.
pub(crate) struct Traffic {
    object: Vec<u8>,
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
    pub(crate) fn find(object: Option<PathBuf>) -> Result<Self> {
        let path = object.context("the programs that make packets are missing: run this by `cargo xtask bench`")?;
        let object = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { object })
    }

    fn load(&self, target: u32, flows: u32, header: &[u32]) -> Result<Ebpf> {
        let mut loader = EbpfLoader::new();
        loader.override_global("TARGET", &target, true).override_global("FLOWS", &flows, true);
        if !header.is_empty() {
            loader.override_global("HEADER", header, true);
        }
        loader.load(&self.object).context("cannot load the programs that make packets")
    }

    /// Attaches a program for what a device receives from the stack's view.
    pub(crate) fn tcx(&self, name: &str, namespace: &Namespace, device: &str, target: u32) -> Result<Attached> {
        let mut programs = self.load(target, 1, &[])?;
        namespace.enter(|| {
            let program: &mut SchedClassifier = programs.program_mut(name).context("such a program")?.try_into()?;
            program.load()?;
            let options = TcAttachOptions::TcxOrder(LinkOrder::default());
            program.attach_with_options(device, TcAttachType::Ingress, options)?;
            Ok::<_, anyhow::Error>(())
        })??;
        Ok(Attached { programs })
    }

    /// Attaches a program for what a device receives, as frames.
    pub(crate) fn xdp(&self, name: &str, namespace: &Namespace, device: &str, target: u32) -> Result<Attached> {
        let mut programs = self.load(target, 1, &[])?;
        namespace.enter(|| {
            let program: &mut Xdp = programs.program_mut(name).context("such a program")?.try_into()?;
            program.load()?;
            program.attach(device, XdpMode::Driver)?;
            Ok::<_, anyhow::Error>(())
        })??;
        Ok(Attached { programs })
    }

    /// What sends packets of so many flows along a way. To be used in the sender's namespace.
    pub(crate) fn generator(&self, way: &Way, flows: u32) -> Result<Generator> {
        ensure!(way.from_anybody || flows <= 1 << PORT_BITS, "one container has not so many ports");
        let mut frame = first_frame(way)?;
        let words: Vec<u32> = frame[..HEADERS + 2]
            .chunks(4)
            .map(|word| u32::from_ne_bytes(word.try_into().expect("eleven words")))
            .collect();
        frame.resize(FRAME, 0);
        let target = site::ifindex(&way.from, DEVICE)?;
        let mut programs = self.load(target, flows, &words)?;
        let program: &mut Xdp = programs.program_mut("generate").context("a generator")?.try_into()?;
        program.load()?;
        Ok(Generator { programs, frame })
    }
}

/// Makes frames.
pub(crate) struct Generator {
    programs: Ebpf,
    frame: Vec<u8>,
}

impl Generator {
    /// Sends so many frames from the namespace of the calling thread. How long that took: without what a call costs by itself,
    /// which is many milliseconds.
    fn send(&self, frames: u32) -> Result<Duration> {
        let program: &Xdp = self.programs.program("generate").context("a generator")?.try_into()?;
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        let run = program.test_run(options).map_err(|error| anyhow!(error).context("cannot make live frames"))?;
        Ok(run.duration * frames)
    }

    /// How many frames it sends in some time, by a try.
    pub(crate) fn frames_in(&self, time: Duration) -> Result<u32> {
        let one = self.send(TRY)?.as_secs_f64() / f64::from(TRY);
        Ok(((time.as_secs_f64() / one) as u32).clamp(TRY, MOST))
    }

    /// Sends so many frames, and tells how long it took.
    pub(crate) fn run(&self, frames: u32) -> Result<Duration> {
        self.send(frames)
    }
}

/// The frame of the first flow: its headers.
fn first_frame(way: &Way) -> Result<Vec<u8>> {
    let to = way.address.ip().to_string();
    let route = json(&way.from, &["-json", "route", "get", &to])?;
    let text = |key: &str| route[0][key].as_str().map(str::to_owned);
    let source: Ipv4Addr = text("prefsrc").context("a route has a source address")?.parse()?;
    let hop = text("gateway").unwrap_or_else(|| to.clone());
    let mac = |value: &serde_json::Value, key: &str| {
        value[0][key].as_str().map(netbpf_tests::link::parse_mac).with_context(|| format!("{hop} has a MAC address"))
    };
    // Whoever has spoken over this way has asked for it: see `work::packets`.
    let neighbour = json(&way.from, &["-json", "neighbour", "show", "to", &hop, "dev", DEVICE])?;
    let link = json(&way.from, &["-json", "link", "show", "dev", DEVICE])?;
    let source = if way.from_anybody { ANYBODY } else { source };
    let std::net::IpAddr::V4(destination) = way.address.ip() else { unreachable!("all ways are of IPv4") };
    let builder = PacketBuilder::ethernet2(mac(&link, "address")?, mac(&neighbour, "lladdr")?)
        .ipv4(source.octets(), destination.octets(), 64)
        .udp(FIRST_PORT, way.address.port());
    let payload = [0; FRAME - HEADERS];
    let mut frame = Vec::with_capacity(FRAME);
    builder.write(&mut frame, &payload)?;
    // What the program takes from the identification must be there, or the sum would be one off.
    let (mut header, _) = Ipv4Header::from_slice(&frame[ETHERNET..])?;
    header.identification = 1 << 14;
    header.header_checksum = header.calc_header_checksum();
    frame[ETHERNET..][..header.header_len()].copy_from_slice(&header.to_bytes());
    // No checksum: it would be another one for each flow (RFC 768 allows it).
    frame[40..42].fill(0);
    Ok(frame)
}

/// Sends packets of so many flows by a socket: each so often before the next one speaks, so that answers come in between.
pub(crate) fn speak_all(way: &Way, flows: u32, times: usize) -> Result<()> {
    let first = first_frame(way)?;
    let link = Link::open(&Place::new(way.from.clone(), Version::V4), DEVICE);
    let mut frame = first.clone();
    for flow in 0..flows {
        // As the program does it.
        let (further, port) = ((flow >> PORT_BITS) as u16, (flow & ((1 << PORT_BITS) - 1)) as u16);
        for (offset, more) in [(18, further.wrapping_neg()), (28, further), (34, port)] {
            let field = u16::from_be_bytes([first[offset], first[offset + 1]]).wrapping_add(more);
            frame[offset..offset + 2].copy_from_slice(&field.to_be_bytes());
        }
        (0..times).for_each(|_| link.send(&frame));
    }
    Ok(())
}
