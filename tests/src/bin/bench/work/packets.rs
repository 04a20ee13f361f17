//! How many of the shortest frames arrive: made and carried on one CPU, counted at the receiver.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::PATIENCE;
use crate::cpu::{self, joined, pinned};
use crate::site::{DEVICE, Sink, Way};
use crate::traffic::{Traffic, speak_all};

/// How often each flow speaks before it counts: the first packet makes it, the second follows an answer.
const TIMES: usize = 3;

/// Packets per second, of so many flows in turn, so many of which are to be established before.
pub(crate) fn rate(way: &Way, flows: u32, establish: u32, time: Duration, traffic: &Traffic) -> Result<f64> {
    let (entry, device) = way.entry.as_ref().context("packets need a device")?;
    let _takes_frames = Gro::on(entry, device)?;
    speak(way)?;
    if establish > 0 {
        // The receiver answers: flows are what they are when both have spoken.
        let answering = traffic.tcx("reflect", &way.to, DEVICE, 0)?;
        thread::scope(|scope| joined(pinned(scope, cpu::ONE, || speak_all(way, establish, TIMES))))?;
        let arrived = answering.arrived()?;
        ensure!(
            arrived >= establish.into(),
            "of {establish} flows only {arrived} packets have arrived at {}",
            way.to.name()
        );
    }
    let sink = match way.sink {
        Sink::Frames => traffic.xdp("sink_frames", &way.to, DEVICE, 0)?,
        Sink::Packets => traffic.tcx("sink", &way.to, DEVICE, 0)?,
    };
    let generator = traffic.generator(way, flows)?;
    // The one that is not counted comes first: it finds cold caches.
    let frames = way.from.enter(|| generator.frames_in(time))??;
    let before = sink.arrived()?;
    let took = thread::scope(|scope| joined(pinned(scope, cpu::ONE, || way.from.enter(|| generator.run(frames))?)))?;
    Ok((sink.arrived()? - before) as f64 / took.as_secs_f64())
}

/// A datagram through the way: neighbours are known then.
fn speak(way: &Way) -> Result<()> {
    let serving = way.to.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, way.listen)))??;
    let asking = way.from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    serving.set_read_timeout(Some(PATIENCE))?;
    asking.send_to(b"?", way.address)?;
    serving.recv(&mut [0]).with_context(|| format!("no datagram from {} arrived", way.from.name()))?;
    Ok(())
}

/// A veth takes frames of others only when it has NAPI, which generic receive offload gives it. A network card always has.
struct Gro<'way> {
    namespace: &'way netbpf_user::rig::Namespace,
    device: &'way str,
    was_on: bool,
}

impl<'way> Gro<'way> {
    fn on(namespace: &'way netbpf_user::rig::Namespace, device: &'way str) -> Result<Self> {
        let features = namespace.run("ethtool", &["-k", device])?;
        let was_on = features.lines().any(|line| line.starts_with("generic-receive-offload: on"));
        namespace.run("ethtool", &["-K", device, "gro", "on"])?;
        Ok(Self { namespace, device, was_on })
    }
}

impl Drop for Gro<'_> {
    fn drop(&mut self) {
        if !self.was_on {
            // The device goes with its namespace soon.
            _ = self.namespace.run("ethtool", &["-K", self.device, "gro", "off"]);
        }
    }
}
