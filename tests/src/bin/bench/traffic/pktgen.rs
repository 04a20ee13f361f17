//! The kernel's own generator (Documentation/networking/pktgen.rst). Each network namespace has threads of it, one for each CPU, and files
//! in /proc to tell them what to do.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netbpf_tests::packet::Mac;
use netbpf_user::rig::Namespace;

use super::frame::{First, LENGTH};
use super::{Flows, Generator};
use crate::cpu;
use crate::site::DEVICE;

/// Of the thread, not of the process: a thread enters a namespace alone.
const FILES: &str = "/proc/thread-self/net/pktgen";

/// The device of a namespace, given to the thread of a CPU until this is dropped.
pub(super) struct Device {
    namespace: Namespace,
}

impl Device {
    pub(super) fn new(namespace: &Namespace, first: &First, flows: Flows) -> Result<Self> {
        let device = Self { namespace: namespace.clone() };
        let commands = commands(&first.to_mac, first.source, first.destination, flows);
        namespace.enter(|| {
            let thread = thread();
            tell(&thread, "rem_device_all")?;
            tell(&thread, &format!("add_device {DEVICE}"))?;
            commands.iter().try_for_each(|command| tell(DEVICE, command))
        })??;
        Ok(device)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // The namespace goes soon, and its threads with it.
        _ = self.namespace.enter(|| tell(&thread(), "rem_device_all"));
    }
}

impl Generator for Device {
    fn send(&mut self, packets: u32) -> Result<Duration> {
        tell(DEVICE, &format!("count {packets}"))?;
        // Returns when all are sent.
        tell("pgctrl", "start")?;
        let said = fs::read_to_string(Path::new(FILES).join(DEVICE)).context("cannot read what pktgen has done")?;
        let (sent, took) = result(&said).with_context(|| format!("pktgen has not sent: {}", said.trim()))?;
        ensure!(sent == u64::from(packets), "pktgen has sent {sent} of {packets} packets");
        Ok(took)
    }
}

/// The thread of the CPU on which everything is that is said to be on one.
fn thread() -> String {
    format!("kpktgend_{}", cpu::ONE)
}

/// What is to be sent.
fn commands(to_mac: &Mac, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), flows: Flows) -> Vec<String> {
    let last = Ipv4Addr::from_bits(source.0.to_bits() + u32::from(flows.addresses) - 1);
    let mac: Vec<String> = to_mac.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        "delay 0".into(),
        format!("pkt_size {LENGTH}"),
        format!("dst_mac {}", mac.join(":")),
        format!("dst_min {}", destination.0),
        format!("dst_max {}", destination.0),
        format!("src_min {}", source.0),
        format!("src_max {last}"),
        format!("udp_dst_min {}", destination.1),
        format!("udp_dst_max {}", destination.1),
        format!("udp_src_min {}", source.1),
        // The first that does not come.
        format!("udp_src_max {}", source.1 + flows.ports),
    ]
}

fn tell(file: &str, command: &str) -> Result<()> {
    // The kernel takes the last byte for the end of a line, whatever it is.
    fs::write(Path::new(FILES).join(file), format!("{command}\n"))
        .with_context(|| format!("pktgen does not take `{command}` ({file})"))
}

/// Packets, and how long they took.
fn result(said: &str) -> Option<(u64, Duration)> {
    let (_, result) = said.split_once("Result: OK: ")?;
    let (micros, rest) = result.split_once('(')?;
    let (_, rest) = rest.split_once("usec, ")?;
    let (packets, _) = rest.split_once(' ')?;
    Some((packets.parse().ok()?, Duration::from_micros(micros.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pktgen_has_done_is_read() {
        let said = "Params: count 1000  min_pkt_size: 60  max_pkt_size: 60\nCurrent:\n     pkts-sofar: 1000  errors: 0\n\
                    Result: OK: 10203(c10100+d103) usec, 1000 (60byte,0frags)\n  98010pps 47Mb/sec (47044800bps) errors: 0\n";
        assert_eq!(result(said), Some((1000, Duration::from_micros(10_203))));
        assert_eq!(result("Result: Idle"), None);
    }

    #[test]
    fn the_last_address_comes_and_the_last_port_does_not() {
        let flows = Flows { addresses: 3, ports: 5 };
        let commands =
            commands(&[2; 6], (Ipv4Addr::new(198, 19, 0, 1), 100), (Ipv4Addr::new(198, 51, 100, 1), 80), flows);
        for command in ["src_max 198.19.0.3", "udp_src_max 105", "dst_mac 02:02:02:02:02:02"] {
            assert!(commands.iter().any(|it| it == command), "{command} is not among {commands:?}");
        }
    }
}
