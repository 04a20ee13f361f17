//! The TCP socket of one gateway, and its connections.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::counters::Count;
use super::frames::{self, Frames};
use super::message::Transport;
use super::service::{Service, Work};

/// Queries of one connection that others are asked for at a time; more are not read.
const PIPELINE: usize = 16;

/// Accepting fails at once, and again, when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    gateway: IpAddr,
    service: Arc<Service>,
    mut stop: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = &mut stop => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, source) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%gateway, "cannot accept connections: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let index = service.index();
        let Some(asker) = index.asker(gateway, source.ip()) else {
            service.counters.add(Count::Strangers);
            continue;
        };
        let Some(permit) = service.connections.take(asker.container()) else {
            service.counters.add(Count::Limited);
            continue;
        };
        let service = service.clone();
        connections.spawn(async move {
            if let Err(error) = converse(stream, gateway, source.ip(), &service).await {
                tracing::debug!(%source, "connection: {error}");
            }
            drop(permit);
        });
    }
    connections.shutdown().await;
}

/// Answers each query as soon as it can, not in the order of the questions (RFC 7766, 7).
async fn converse(mut stream: TcpStream, gateway: IpAddr, source: IpAddr, service: &Arc<Service>) -> io::Result<()> {
    let idle = service.options.idle;
    let mut frames = Frames::default();
    let mut errands = JoinSet::new();
    let mut is_open = true;
    while is_open || !errands.is_empty() {
        let answer = tokio::select! {
            Some(done) = errands.join_next() => done.ok().flatten(),
            query = timeout(idle, frames.next(&mut stream)), if is_open && errands.len() < PIPELINE => {
                match query {
                    // Who waits for an answer is not idle.
                    Err(_) if !errands.is_empty() => continue,
                    Err(_) => return Ok(()),
                    Ok(query) => match query? {
                        // What was asked before is still answered (RFC 7766, 6.2.4).
                        None => {
                            is_open = false;
                            continue;
                        }
                        Some(query) => match service.take(gateway, source, &query, Transport::Tcp) {
                            // Not a member any more, or does not speak DNS.
                            Work::Nothing => return Ok(()),
                            Work::Answer(answer) => Some(answer),
                            Work::Errand(errand) => {
                                let service = service.clone();
                                errands.spawn(async move { service.run(errand).await });
                                continue;
                            }
                        },
                    },
                }
            }
        };
        if let Some(answer) = answer {
            timeout(idle, frames::send(&mut stream, &answer)).await??;
        }
    }
    Ok(())
}
