//! Load at a steady rate, and datagrams that count themselves.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

/// Datagrams per second.
pub(crate) const RATE: u32 = 1000;

/// As many in a row mean that it is right again.
const A_ROW: u64 = 100;

/// Numbers at a rate per second, until told to stop.
pub(crate) fn paced(rate: u32, stop: &AtomicBool, mut each: impl FnMut(u64)) {
    let begin = Instant::now();
    for number in 0_u32.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // The rate is the load, nothing waits for it.
        thread::sleep((begin + Duration::from_secs(1) / rate * number).saturating_duration_since(Instant::now()));
        each(u64::from(number));
    }
}

/// A stream of numbered datagrams: what was sent, what came, and how many of the last came without a gap.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    sent: AtomicU64,
    arrived: AtomicU64,
    lost: AtomicU64,
    late: AtomicU64,
    row: AtomicU64,
}

impl Stream {
    /// Sends until told to stop.
    pub(crate) fn send(&self, stop: &AtomicBool, mut send: impl FnMut(&[u8])) {
        paced(RATE, stop, |number| {
            send(&number.to_be_bytes());
            self.sent.store(number + 1, Ordering::Relaxed);
        });
    }

    /// Counts what arrives, in order as on any wire of a rig, until told to stop.
    pub(crate) fn receive(&self, stop: &AtomicBool, socket: &UdpSocket) {
        self.take(stop, socket, |number, next| panic!("none twice, none late: {number} after {next}"));
    }

    /// The same where what has waited for a neighbour may be overtaken, which is counted: the kernel sends it when the neighbour is
    /// known to others already (net/core/neighbour.c, neigh_update).
    pub(crate) fn receive_with_neighbours_away(&self, stop: &AtomicBool, socket: &UdpSocket) {
        self.take(stop, socket, |_, _| _ = self.late.fetch_add(1, Ordering::Relaxed));
    }

    fn take(&self, stop: &AtomicBool, socket: &UdpSocket, late: impl Fn(u64, u64)) {
        SockRef::from(socket).set_recv_buffer_size(8 << 20).expect("a large buffer");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let (mut next, mut bytes, mut missing) = (0, [0; 8], BTreeSet::new());
        while !stop.load(Ordering::Relaxed) {
            let Ok(8) = socket.recv(&mut bytes) else { continue };
            let number = u64::from_be_bytes(bytes);
            let is_next = number == next;
            if number < next {
                late(number, next);
                assert!(missing.remove(&number), "none twice: {number}");
            } else {
                missing.extend(next..number);
                self.lost.fetch_add(number - next, Ordering::Relaxed);
                next = number + 1;
            }
            self.row.store(if is_next { self.row.load(Ordering::Relaxed) + 1 } else { 0 }, Ordering::Relaxed);
            self.arrived.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Forgets how steady it was.
    pub(crate) fn begin_a_row(&self) {
        self.row.store(0, Ordering::Relaxed);
    }

    pub(crate) fn is_steady(&self) -> bool {
        self.row.load(Ordering::Relaxed) >= A_ROW
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// How many were missing when one behind them came; those that were late are among them.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(crate) fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }
}
