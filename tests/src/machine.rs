//! A virtual machine as the host sees it: a tap, and behind it a network stack of its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::place::Place;

/// Longer than any frame.
const FRAME: usize = 65_536;

/// How often it looks whether it shall end.
const TURN: Duration = Duration::from_millis(50);

/// The part of a virtual machine that carries frames between the host's tap and the network card of the guest, whose stack is
/// that of a network namespace.
#[derive(Debug)]
pub struct Machine {
    ends: Arc<AtomicBool>,
    carrier: Option<JoinHandle<()>>,
}

impl Machine {
    /// Starts one: a tap of the host, and a network card of the guest with this MAC address.
    ///
    /// # Panics
    /// When the kernel has no tun driver, or a name is in use.
    pub fn start(host: &Place, tap: &str, guest: &Place, card: &str) -> Self {
        let devices = [host.run(|| open(tap)), guest.run(|| open(card))];
        let devices = devices.map(|device| device.unwrap_or_else(|error| panic!("no tap: {error}")));
        let ends = Arc::new(AtomicBool::new(false));
        let carrier = {
            let ends = ends.clone();
            thread::spawn(move || carry(&devices, &ends))
        };
        Self { ends, carrier: Some(carrier) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(carrier) = self.carrier.take() {
            // A panic of it has been printed, and its test fails by what did not arrive.
            let _ = carrier.join();
        }
    }
}

fn open(name: &str) -> io::Result<SyncDevice> {
    let device = DeviceBuilder::new().name(name).layer(Layer::L2).enable(false).build_sync()?;
    device.set_nonblocking(true)?;
    Ok(device)
}

/// Carries frames from each to the other until it shall end, or one of them is gone.
fn carry(devices: &[SyncDevice; 2], ends: &AtomicBool) {
    let mut frame = vec![0; FRAME];
    let turn = TURN.try_into().expect("a short time");
    while !ends.load(Ordering::Relaxed) {
        let mut both = devices.each_ref().map(|device| PollFd::new(device, PollFlags::IN));
        poll(&mut both, Some(&turn)).expect("two devices to wait for");
        if both.iter().any(|one| one.revents().contains(PollFlags::ERR)) {
            // It was deleted, or is down: the kernel tells no difference here.
            thread::sleep(TURN);
        }
        for (from, to) in [(0, 1), (1, 0)] {
            while let Ok(length) = devices[from].recv(&mut frame) {
                // As on a wire: what the other side does not take is lost.
                let _ = devices[to].send(&frame[..length]);
            }
        }
    }
}
