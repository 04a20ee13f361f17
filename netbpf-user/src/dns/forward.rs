//! A question to several servers, until one answers.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;

use super::message::{Transport, Verdict};
use super::options::Options;
use super::upstream::{Answer, ask};

/// The answer of the first server that has one. Each gets some time before the next is asked as well, and is still listened to
/// then. When all fail it is the last failure that was told, and `None` when nothing was.
pub(super) async fn forward(
    options: &Options,
    servers: &[SocketAddr],
    transport: Transport,
    query: &[u8],
) -> Option<Vec<u8>> {
    let mut failure = None;
    let answer = timeout(options.deadline, first(options, servers, transport, query, &mut failure)).await;
    answer.ok().flatten().or(failure)
}

async fn first(
    options: &Options,
    servers: &[SocketAddr],
    transport: Transport,
    query: &[u8],
    failure: &mut Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let mut waiting: VecDeque<SocketAddr> = servers.iter().copied().collect();
    if let ([only], Transport::Udp) = (servers, transport) {
        // A datagram can be lost.
        waiting.push_back(*only);
    }
    let patience = options.patience.min(options.deadline / u32::try_from(waiting.len()).unwrap_or(1).max(1));
    let mut asked = FuturesUnordered::new();
    loop {
        let Some(server) = waiting.pop_front() else {
            // All have been asked.
            while let Some((server, result)) = asked.next().await {
                if let Some(answer) = judge(server, result, failure) {
                    return Some(answer);
                }
            }
            return None;
        };
        asked.push(async move { (server, ask(server, transport, query).await) });
        if let Some(answer) = hear(&mut asked, patience, &mut waiting, failure).await {
            return Some(answer);
        }
    }
}

type Result = (SocketAddr, io::Result<Answer>);

/// Waits until one has answered or failed, or it is the next one's turn.
async fn hear(
    asked: &mut FuturesUnordered<impl Future<Output = Result>>,
    patience: Duration,
    waiting: &mut VecDeque<SocketAddr>,
    failure: &mut Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let (server, result) = timeout(patience, asked.next()).await.ok()??;
    let answer = judge(server, result, failure);
    // It has spoken; asking it once more would bring the same.
    waiting.retain(|other| *other != server);
    answer
}

fn judge(server: SocketAddr, result: io::Result<Answer>, failure: &mut Option<Vec<u8>>) -> Option<Vec<u8>> {
    match result {
        Ok(Answer { message, verdict: Verdict::Final }) => return Some(message),
        Ok(Answer { message, verdict: Verdict::Failed }) => *failure = Some(message),
        Err(error) => tracing::debug!(%server, "upstream: {error}"),
    }
    None
}
