//! How many of the shortest frames arrive: made and carried on one CPU, counted at the receiver.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netbpf_user::rig::Namespace;

use super::{Measure, PATIENCE};
use crate::cpu::{self, joined, pinned};
use crate::results::Subject;
use crate::site::{DEVICE, Way};
use crate::traffic::{Attached, Flows, Generator, Traffic, speak_all};

/// How often each flow speaks before it counts: the first packet makes it, the second follows an answer.
const TIMES: usize = 3;

/// Millions of packets per second over a way, told as such work. All that it takes is made here: a slice is nothing but packets.
pub(crate) fn measure<'run>(
    way: Way,
    flows: Flows,
    subject: Subject,
    time: Duration,
    traffic: &'run Traffic,
) -> Result<Measure<'run>> {
    let mut lane = Lane::open(way, flows, time, traffic)?;
    Ok(Box::new(move || Ok(vec![(subject.clone(), lane.rate()? / 1e6)])))
}

/// Lets flows become what they are when both have spoken.
pub(crate) fn establish(way: &Way, flows: Flows, traffic: &Traffic) -> Result<()> {
    let (entry, device) = entry(way)?;
    let _takes_frames = Gro::on(entry, device)?;
    speak(way)?;
    let answering = traffic.tcx("reflect", &way.to, DEVICE, 0)?;
    thread::scope(|scope| joined(pinned(scope, cpu::ONE, || speak_all(way, flows, TIMES))))?;
    let (arrived, all) = (answering.arrived()?, flows.each().count() as u64);
    ensure!(arrived >= all, "of {all} flows only {arrived} packets have arrived at {}", way.to.name());
    Ok(())
}

/// A way on which packets can be sent at once.
struct Lane {
    way: Way,
    sink: Arc<Attached>,
    generator: Box<dyn Generator>,
    packets: u32,
    _takes_frames: Gro,
}

impl Lane {
    fn open(way: Way, flows: Flows, time: Duration, traffic: &Traffic) -> Result<Self> {
        let (machine, device) = entry(&way)?;
        let takes_frames = Gro::on(machine, device)?;
        speak(&way)?;
        let sink = traffic.sink(&way)?;
        let mut generator = traffic.generator(&way, flows)?;
        // The one that is not counted finds cold caches.
        let packets = on_one_cpu(&way, || generator.packets_in(time))?;
        Ok(Self { way, sink, generator, packets, _takes_frames: takes_frames })
    }

    /// Packets per second.
    fn rate(&mut self) -> Result<f64> {
        let before = self.sink.arrived()?;
        let took = on_one_cpu(&self.way, || self.generator.send(self.packets))?;
        let arrived = self.sink.arrived()? - before;
        ensure!(arrived > 0, "of {} packets none has arrived at {}", self.packets, self.way.to.name());
        Ok(arrived as f64 / took.as_secs_f64())
    }
}

fn on_one_cpu<T: Send>(way: &Way, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| joined(pinned(scope, cpu::ONE, || way.from.enter(action)?)))
}

fn entry(way: &Way) -> Result<(&Namespace, &str)> {
    let (machine, device) = way.entry.as_ref().context("packets need a device")?;
    Ok((machine, device))
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
struct Gro {
    machine: Namespace,
    device: String,
    was_on: bool,
}

impl Gro {
    fn on(machine: &Namespace, device: &str) -> Result<Self> {
        let features = machine.run("ethtool", &["-k", device])?;
        let was_on = features.lines().any(|line| line.starts_with("generic-receive-offload: on"));
        if !was_on {
            machine.run("ethtool", &["-K", device, "gro", "on"])?;
        }
        Ok(Self { machine: machine.clone(), device: device.to_owned(), was_on })
    }
}

impl Drop for Gro {
    fn drop(&mut self) {
        if !self.was_on {
            // The device goes with its namespace soon.
            _ = self.machine.run("ethtool", &["-K", &self.device, "gro", "off"]);
        }
    }
}
