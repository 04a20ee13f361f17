//! How much one connection of TCP carries.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Measure, connected, listener, settled};
use crate::cpu::{self, joined, pinned};
use crate::results::{Subject, Unit};
use crate::site::Way;

const CHUNK: usize = 256 * 1024;
/// Until a connection has found its windows.
const WARM_UP: Duration = Duration::from_millis(10);

/// On one CPU and on two.
pub(crate) fn measure<'run>(way: Way, words: &'static str, time: Duration) -> Measure<'run> {
    Box::new(move || {
        let one = |cpus: &str, two: bool| {
            let subject = Subject::new(format!("TCP stream, {words}, {cpus}"), Unit::Gigabits);
            Ok::<_, anyhow::Error>((subject, rate(&way, time, two)?))
        };
        Ok(vec![one("one CPU", false)?, one("two CPUs", true)?])
    })
}

/// Gigabits per second, as the receiver sees them.
fn rate(way: &Way, time: Duration, two_cpus: bool) -> Result<f64> {
    let listener = listener(way)?;
    thread::scope(|scope| {
        let receiving = pinned(scope, cpu::ONE, || {
            let (mut stream, _) = listener.accept()?;
            settled(&stream)?;
            let mut buffer = vec![0; CHUNK];
            let begun = Instant::now();
            while begun.elapsed() < WARM_UP {
                ensure!(stream.read(&mut buffer)? > 0, "the sender has ended before it counts");
            }
            let (mut bytes, started) = (0_u64, Instant::now());
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(bytes as f64 * 8.0 / started.elapsed().as_nanos() as f64),
                    length => bytes += length as u64,
                }
            }
        });
        let mut stream = way.from.enter(|| connected(way))??;
        let cpu = if two_cpus { cpu::OTHER } else { cpu::ONE };
        let sending = pinned(scope, cpu, move || {
            let (chunk, started) = (vec![0x5a; CHUNK], Instant::now());
            while started.elapsed() < WARM_UP + time {
                stream.write_all(&chunk)?;
            }
            Ok(stream.shutdown(Shutdown::Write)?)
        });
        let rate = joined(receiving);
        joined(sending)?;
        rate
    })
}
