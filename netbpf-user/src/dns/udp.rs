//! The UDP socket of one gateway.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::message::Transport;
use super::service::{Service, Work};

/// Longest query that is looked at. With one question a query is short, whatever its options.
const LONGEST: usize = 4096;

/// A socket that cannot be read says so at once, and again.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers until told to stop.
pub(super) async fn serve(socket: UdpSocket, gateway: IpAddr, service: Arc<Service>, mut stop: oneshot::Receiver<()>) {
    let socket = Arc::new(socket);
    let mut errands = JoinSet::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        let received = tokio::select! {
            _ = &mut stop => break,
            Some(_) = errands.join_next() => continue,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, source) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%gateway, "cannot receive queries: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match service.take(gateway, source.ip(), &buffer[..length], Transport::Udp) {
            Work::Nothing => {}
            Work::Answer(answer) => send(&socket, &answer, source).await,
            Work::Errand(errand) => {
                let (service, socket) = (service.clone(), socket.clone());
                errands.spawn(async move {
                    if let Some(answer) = service.run(errand).await {
                        send(&socket, &answer, source).await;
                    }
                });
            }
        }
    }
    // They hold the socket, which is to be closed.
    errands.shutdown().await;
}

async fn send(socket: &UdpSocket, answer: &[u8], to: std::net::SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(%to, "cannot send an answer: {error}");
    }
}
