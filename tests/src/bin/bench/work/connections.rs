//! How many connections come and go: connect, a byte there, a byte back, close; one after the other on one CPU.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;

use super::{Measure, connected, listener, settled};
use crate::cpu::{self, joined, pinned};
use crate::results::Subject;
use crate::site::Way;

/// Connections before it counts.
const WARM_UP: u32 = 20;

/// Over a way, told as such work.
pub(crate) fn measure<'run>(way: Way, subject: Subject, time: Duration) -> Measure<'run> {
    Box::new(move || Ok(vec![(subject.clone(), rate(&way, time)?)]))
}

/// Connections per second.
fn rate(way: &Way, time: Duration) -> Result<f64> {
    let listener = listener(way)?;
    thread::scope(|scope| {
        let serving = pinned(scope, cpu::ONE, || {
            // Until the listener is shut down.
            while let Ok((mut stream, _)) = listener.accept() {
                settled(&stream)?;
                let mut byte = [0];
                stream.read_exact(&mut byte).context("a connection without a request")?;
                // It closes first: the client's port is free again at once.
                stream.write_all(&byte)?;
            }
            Ok(())
        });
        let asking = pinned(scope, cpu::ONE, || way.from.enter(|| ask(way, time))?);
        let rate = joined(asking);
        SockRef::from(&listener).shutdown(Shutdown::Both)?;
        joined(serving)?;
        rate
    })
}

fn ask(way: &Way, time: Duration) -> Result<f64> {
    let one = || {
        let mut stream = connected(way)?;
        stream.write_all(b"?")?;
        let mut answer = Vec::with_capacity(4);
        stream.read_to_end(&mut answer)?;
        ensure!(answer == b"?", "another answer than a server of ours gives");
        Ok(())
    };
    for _ in 0..WARM_UP {
        one()?;
    }
    let (mut connections, started) = (0_u32, Instant::now());
    while started.elapsed() < time {
        one()?;
        connections += 1;
    }
    Ok(f64::from(connections) / started.elapsed().as_secs_f64())
}
