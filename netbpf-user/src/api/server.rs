//! Serving connections: whoever comes is heard in time, and takes no more than a share.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::http::StatusCode;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio_io_timeout::TimeoutStream;

use super::door::{Door, OpenDoors};
use super::peer::{Peer, Visitor};
use super::quota::Quota;
use super::reply::Refusal;
use super::router;
use crate::agent::Engine;

/// A client that stops in the middle of its request, sends none, or does not take its answer does not keep a connection for ever.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How long no connection is taken after the kernel could give none.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Longest head of a request, in bytes: the longest name of a container fits, each of its bytes in three.
const LONGEST_HEAD: usize = 16 << 10;

/// Most headers of a request.
const MOST_HEADERS: usize = 64;

/// How many connections may be told at a time that there are too many.
const MOST_REFUSED: usize = 32;

/// How long one may take to ask what it is refused.
const REFUSED_PATIENCE: Duration = Duration::from_secs(1);

/// A door that is open, and how much goes through it.
struct Entrance {
    listener: UnixListener,
    door: Arc<Door>,
    connections: Arc<Quota>,
    requests: Arc<Quota>,
}

/// Answers requests until `stop` is notified, by the caller or by an uninstall; then notifies `stopping`, and returns when
/// the requests that were begun are answered.
///
/// # Errors
/// When the socket fails.
pub async fn serve(
    doors: OpenDoors,
    engine: Arc<Engine>,
    stop: Arc<Notify>,
    stopping: Arc<Notify>,
) -> std::io::Result<()> {
    let application = router(engine, stop.clone());
    let mut _remove_on_return = Vec::new();
    let mut entrances = Vec::new();
    for (door, socket) in doors.0 {
        let (listener, file) = socket.split();
        _remove_on_return.push(file);
        let (connections, requests) = (Quota::new(door.most_connections()), Quota::new(door.most_requests()));
        entrances.push(Entrance { listener, door: Arc::new(door), connections, requests });
    }
    let http = http(PATIENCE);
    let refused = Arc::new(Semaphore::new(MOST_REFUSED));
    let connections = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            () = stop.notified() => break,
            accepted = accept(&entrances) => accepted,
        };
        let (stream, entrance) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot take a connection: {error}");
                // Out of descriptors or memory: the next try would fail too, and the one after it.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!("the kernel does not say who is asking: {error}");
                continue;
            }
        };
        let Some(ticket) = entrance.connections.take(peer.user) else {
            tracing::debug!(user = peer.user.as_raw(), "too many connections");
            if let Ok(permit) = refused.clone().try_acquire_owned() {
                tokio::spawn(async move {
                    refuse(stream).await;
                    drop(permit);
                });
            }
            continue;
        };
        let visitor = Visitor { peer, door: entrance.door.clone(), requests: entrance.requests.clone() };
        let service = TowerToHyperService::new(application.clone().layer(Extension(visitor)));
        let connection = connections.watch(http.serve_connection(patient(stream, PATIENCE), service));
        tokio::spawn(async move {
            let _ticket = ticket;
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended early: {error}");
            }
        });
    }
    stopping.notify_one();
    drop(entrances);
    connections.shutdown().await;
    Ok(())
}

/// The next connection by any door; those for who may do anything come first.
async fn accept(entrances: &[Entrance]) -> std::io::Result<(UnixStream, &Entrance)> {
    poll_fn(|context| {
        for entrance in entrances {
            if let Poll::Ready(accepted) = entrance.listener.poll_accept(context) {
                return Poll::Ready(accepted.map(|(stream, _)| (stream, entrance)));
            }
        }
        Poll::Pending
    })
    .await
}

fn http(patience: Duration) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience).max_headers(MOST_HEADERS).max_buf_size(LONGEST_HEAD);
    http
}

/// A stream whose other end takes what is written in time.
fn patient(stream: UnixStream, patience: Duration) -> TokioIo<Pin<Box<TimeoutStream<UnixStream>>>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(patience));
    TokioIo::new(Box::pin(stream))
}

/// Answers one request with the reason why nothing more is answered.
async fn refuse(stream: UnixStream) {
    let busy = Router::new().fallback(async || {
        let line = "too many connections are open, of this user or of all: close some, or ask again later";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, line)
    });
    let connection = http(REFUSED_PATIENCE)
        .keep_alive(false)
        .serve_connection(patient(stream, REFUSED_PATIENCE), TowerToHyperService::new(busy));
    if let Err(error) = connection.await {
        tracing::debug!("a connection too many ended early: {error}");
    }
}
