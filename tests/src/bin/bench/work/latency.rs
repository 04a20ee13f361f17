//! How long an answer takes: one byte there and back, on one CPU.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Measure, PATIENCE, connected, listener, settled};
use crate::cpu::{self, joined, pinned};
use crate::results::{Subject, Unit};
use crate::site::Way;

/// Exchanges that make the flow and warm the caches.
const WARM_UP: usize = 200;

/// Microseconds.
#[derive(Clone, Copy, Debug)]
struct Latency {
    p50: f64,
    p99: f64,
}

impl Latency {
    fn of(mut trips: Vec<u64>) -> Result<Self> {
        ensure!(!trips.is_empty(), "no answer came in the whole time");
        trips.sort_unstable();
        let at = |share: usize| trips[(trips.len() - 1) * share / 100] as f64 / 1e3;
        Ok(Self { p50: at(50), p99: at(99) })
    }
}

/// Both transports over a way.
pub(crate) fn measure<'run>(way: Way, words: &'static str, time: Duration) -> Measure<'run> {
    Box::new(move || {
        let mut all = Vec::new();
        for (transport, Latency { p50, p99 }) in [("TCP", tcp(&way, time)?), ("UDP", udp(&way, time)?)] {
            for (share, value) in [("p50", p50), ("p99", p99)] {
                let work = format!("{transport} request/response, {words}, {share}");
                all.push((Subject::new(work, Unit::Micros), value));
            }
        }
        Ok(all)
    })
}

/// Over a connection of TCP.
fn tcp(way: &Way, time: Duration) -> Result<Latency> {
    let listener = listener(way)?;
    thread::scope(|scope| {
        let serving = pinned(scope, cpu::ONE, || {
            let (mut stream, _) = listener.accept()?;
            settled(&stream)?;
            let mut byte = [0];
            while stream.read(&mut byte)? == 1 {
                stream.write_all(&byte)?;
            }
            Ok(())
        });
        let mut stream = way.from.enter(|| connected(way))??;
        let asking = pinned(scope, cpu::ONE, move || {
            trips(time, || {
                stream.write_all(b"?")?;
                Ok(stream.read_exact(&mut [0])?)
            })
        });
        let latency = joined(asking);
        joined(serving)?;
        latency
    })
}

/// Over datagrams.
fn udp(way: &Way, time: Duration) -> Result<Latency> {
    let bind = |namespace: &netbpf_user::rig::Namespace, port| {
        let socket = namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        let socket = socket.with_context(|| format!("cannot bind port {port} in {}", namespace.name()))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok::<_, anyhow::Error>(socket)
    };
    let (serving, asking) = (bind(&way.to, way.listen)?, bind(&way.from, 0)?);
    asking.connect(way.address)?;
    thread::scope(|scope| {
        let server = pinned(scope, cpu::ONE, || {
            let mut byte = [0];
            loop {
                // The end is a datagram without a byte.
                let (length, from) = serving.recv_from(&mut byte).context("no datagram arrived")?;
                if length == 0 {
                    return Ok(());
                }
                serving.send_to(&byte, from)?;
            }
        });
        let client = pinned(scope, cpu::ONE, || {
            let latency = trips(time, || {
                asking.send(b"?")?;
                asking.recv(&mut [0]).context("no answer arrived")?;
                Ok(())
            });
            asking.send(&[])?;
            latency
        });
        let latency = joined(client);
        joined(server)?;
        latency
    })
}

fn trips(time: Duration, mut trip: impl FnMut() -> Result<()>) -> Result<Latency> {
    for _ in 0..WARM_UP {
        trip()?;
    }
    let started = Instant::now();
    let mut trips = Vec::with_capacity(1 << 16);
    let mut before = started;
    while before.duration_since(started) < time {
        trip()?;
        let now = Instant::now();
        trips.push(now.duration_since(before).as_nanos() as u64);
        before = now;
    }
    Latency::of(trips)
}
