//! What paths of netbpf cost, net of what running an empty program costs.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netbpf_common::abi::Uplink;
use netbpf_common::path::V4;
use netbpf_common::wire::Mac;
use netbpf_tests::family::TestFamily as _;
use netbpf_tests::kernel::Kernel;
use netbpf_tests::packet::Ethernet;
use netbpf_tests::world::{C1, OUTSIDE_MAC, UPLINK, uplink};

use super::{Case, FOREIGN, MASQUERADE, NEIGHBOUR, PAYLOAD, PUBLISHED, REPEAT, TTL, at, cases};
use crate::peer::Name;
use crate::results::{Subject, Unit};
use crate::traffic::{Nothing, Traffic};

/// Runs of which one slice is the median.
const RUNS: usize = 31;
/// XDP_PASS and XDP_REDIRECT (include/uapi/linux/bpf.h).
const PASSED: u32 = 2;
const REDIRECTED: u32 = 4;

/// A path that has an aim.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path {
    Neighbour,
    Masquerade,
    Published,
    Foreign,
    ExpressPublished,
    ExpressForeign,
}

impl Path {
    pub(crate) const ALL: [Self; 6] = [
        Self::Neighbour,
        Self::Masquerade,
        Self::Published,
        Self::Foreign,
        Self::ExpressPublished,
        Self::ExpressForeign,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Neighbour => NEIGHBOUR,
            Self::Masquerade => MASQUERADE,
            Self::Published | Self::ExpressPublished => PUBLISHED,
            Self::Foreign | Self::ExpressForeign => FOREIGN,
        }
    }

    fn is_xdp(self) -> bool {
        matches!(self, Self::ExpressPublished | Self::ExpressForeign)
    }

    /// The work, in words.
    pub(crate) fn work(self) -> String {
        format!("the program alone, net of an empty one: {}", self.name())
    }

    /// Whose program it is.
    pub(crate) fn peer(self) -> Name {
        if self.is_xdp() { Name::NetbpfXdp } else { Name::NetbpfTc }
    }

    /// Nanoseconds that it may take.
    pub(crate) fn aim(self) -> f64 {
        match self {
            Self::Foreign | Self::ExpressForeign => 20.0,
            Self::ExpressPublished => 60.0,
            _ => 100.0,
        }
    }
}

/// Measures so many slices. The calling thread leaves the namespaces of the machine.
pub(crate) fn slices(traffic: &Traffic, slices: u32) -> Result<Vec<(Subject, Name, f64)>> {
    let kernel = Kernel::new(131_072, 16_384)?;
    let nothing = traffic.nothing()?;
    let cases = cases::<V4>(&kernel)?;
    let mut measured = Vec::new();
    for _ in 0..slices {
        for path in Path::ALL {
            let case = cases.iter().find(|case| case.name == path.name()).context("a case of each path")?;
            let nanos = net(&kernel, &nothing, path, case).with_context(|| path.work())?;
            measured.push((Subject::new(path.work(), Unit::Nanos), path.peer(), nanos));
        }
    }
    Ok(measured)
}

/// Nanoseconds: the median of each, taken by turns.
fn net(kernel: &Kernel, nothing: &Nothing, path: Path, case: &Case) -> Result<f64> {
    // What XDP has redirected is addressed to the container, and is to be taken once more.
    let ours = Ethernet { from: OUTSIDE_MAC, to: C1.mac };
    let published = || ours.datagram(at(V4::OUTSIDE, 40_000), at(V4::HOST, 20_000), TTL, PAYLOAD);
    let is_published = matches!(path, Path::ExpressPublished);
    let frame = if is_published { published() } else { case.frame.clone() };
    kernel
        .datapath
        .maps
        .uplinks
        .set(UPLINK, if is_published { Uplink { mac: Mac::new(C1.mac), ..uplink() } } else { uplink() })?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let run = if path.is_xdp() {
            let run = kernel.run_express(&frame, REPEAT)?;
            let expected = if is_published { REDIRECTED } else { PASSED };
            ensure!(run.returned == expected, "XDP says {} of a packet, not {expected}", run.returned);
            run
        } else {
            kernel.run(case.hook, &frame, REPEAT)?
        };
        with.push(run.duration);
        without.push(nothing.takes(&frame, REPEAT, path.is_xdp())?);
    }
    kernel.datapath.maps.uplinks.set(UPLINK, uplink())?;
    let middle = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_nanos() as f64
    };
    Ok(middle(with) - middle(without))
}
