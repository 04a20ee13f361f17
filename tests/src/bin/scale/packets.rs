//! What a packet costs between two containers, sockets included.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netbpf_user::rig::Namespace;

/// Round trips of one measurement.
const TRIPS: u32 = 5000;
const ROUNDS: usize = 21;
const PATIENCE: Duration = Duration::from_secs(2);

/// Two sockets in two containers, used from one thread: the kernel delivers within the call that sends.
pub(crate) struct PingPong {
    asking: UdpSocket,
    answering: UdpSocket,
    to: SocketAddr,
}

impl PingPong {
    pub(crate) fn between(asking: &Namespace, answering: &Namespace, address: Ipv4Addr) -> Result<Self> {
        let bind = |namespace: &Namespace| {
            let socket = namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok::<_, anyhow::Error>(socket)
        };
        let (asking, answering) = (bind(asking)?, bind(answering)?);
        let to = SocketAddr::from((address, answering.local_addr()?.port()));
        Ok(Self { asking, answering, to })
    }

    /// Nanoseconds per packet, one number for each round.
    pub(crate) fn measure(&self) -> Result<Vec<f64>> {
        let mut buffer = [0; 64];
        let mut rounds = Vec::with_capacity(ROUNDS);
        // The first round makes the flow, and is not counted.
        for round in 0..=ROUNDS {
            let started = Instant::now();
            for _ in 0..TRIPS {
                self.asking.send_to(b"ping", self.to)?;
                let (length, from) = self.answering.recv_from(&mut buffer).context("nothing arrived")?;
                self.answering.send_to(&buffer[..length], from)?;
                let (length, _) = self.asking.recv_from(&mut buffer).context("no answer arrived")?;
                ensure!(&buffer[..length] == b"ping", "another answer arrived");
            }
            if round > 0 {
                rounds.push(started.elapsed().as_nanos() as f64 / f64::from(2 * TRIPS));
            }
        }
        Ok(rounds)
    }
}
