//! Clients that ask as fast as they are answered.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netbpf_user::rig::Namespace;

use super::super::sample::Sample;
use super::message::{one_answer, question};

/// After so long a question or its answer counts as lost: longer than the agent tries.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked, and by whom.
pub(super) struct Load<'site> {
    pub(super) clients: &'site [Namespace],
    pub(super) resolver: SocketAddr,
    /// Questions of each client that wait for an answer at a time.
    pub(super) in_flight: u16,
    pub(super) kind: u16,
    /// The name that is asked for; every time another one of the world when absent.
    pub(super) known: Option<&'site String>,
    pub(super) time: Duration,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) answers: u64,
    pub(super) lost: u64,
    pub(super) took: Duration,
    pub(super) times: Sample,
}

impl Load<'_> {
    pub(super) fn run(&self) -> Result<Heard> {
        let started = Instant::now();
        let mut heard = Heard::default();
        thread::scope(|scope| {
            let clients: Vec<_> =
                self.clients.iter().enumerate().map(|(nth, _)| scope.spawn(move || self.client(nth))).collect();
            for client in clients {
                let Heard { answers, lost, times, .. } = client.join().expect("no panic")?;
                heard.answers += answers;
                heard.lost += lost;
                heard.times.extend(times);
            }
            Ok::<_, anyhow::Error>(())
        })?;
        heard.took = started.elapsed();
        ensure!(heard.answers > 0, "nothing was answered");
        Ok(heard)
    }

    fn client(&self, nth: usize) -> Result<Heard> {
        let socket = self.clients[nth].enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        socket.connect(self.resolver)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut sent: Vec<Option<Instant>> = vec![None; 1 << 16];
        let mut heard = Heard::default();
        let mut next = 0_u16;
        let mut waiting = 0;
        let mut buffer = [0; 1500];
        let started = Instant::now();
        loop {
            while waiting < self.in_flight && started.elapsed() < self.time {
                let name = match self.known {
                    Some(name) => name.clone(),
                    None => format!("q{nth}-{next}.example"),
                };
                socket.send(&question(next, &name, self.kind))?;
                sent[usize::from(next)] = Some(Instant::now());
                next = next.wrapping_add(1);
                waiting += 1;
            }
            if waiting == 0 {
                return Ok(heard);
            }
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    let id = one_answer(&buffer[..length]);
                    ensure!(id.is_some(), "an answer without the address: {:02x?}", &buffer[..length.min(12)]);
                    // One that was given up for lost is not waited for.
                    if let Some(asked) = id.and_then(|id| sent[usize::from(id)].take()) {
                        heard.times.add(asked.elapsed());
                        heard.answers += 1;
                        waiting -= 1;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    heard.lost += u64::from(waiting);
                    waiting = 0;
                    sent.fill(None);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
