//! The kinds of work that are done over ways.

pub(crate) mod connections;
pub(crate) mod latency;
pub(crate) mod packets;
pub(crate) mod stream;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::results::Subject;
use crate::site::Way;

/// Something that is measured a slice of time at a time, as often as one likes.
pub(crate) type Measure<'run> = Box<dyn FnMut() -> Result<Vec<(Subject, f64)>> + 'run>;

/// Names of work that the aims and plots look for.
pub(crate) const CONNECTIONS: &str = "connect+request+close";
/// Short frames.
pub(crate) const PACKETS: &str = "60-byte packets";

/// How long anything may take that should happen at once.
const PATIENCE: Duration = Duration::from_secs(5);

fn listener(way: &Way) -> Result<TcpListener> {
    let listener = way.to.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, way.listen)))?;
    listener.with_context(|| format!("cannot listen on port {} in {}", way.listen, way.to.name()))
}

/// To be called in the sender's namespace.
fn connected(way: &Way) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&way.address, PATIENCE)
        .with_context(|| format!("cannot connect from {} to {}", way.from.name(), way.address))?;
    settled(&stream)?;
    Ok(stream)
}

fn settled(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(())
}
