//! Who is at the other end of the socket.

use axum::Extension;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use nix::unistd::{Gid, Uid};
use procfs::process::Process;
use tokio::net::UnixStream;
use tokio::net::unix::UCred;

use super::reply::Refusal;

/// Credentials of the connecting process, as the kernel noted them at connect(2).
#[derive(Clone, Copy)]
pub(super) struct Peer(Option<UCred>);

impl Peer {
    /// The other end of a connection.
    pub(super) fn of(stream: &UnixStream) -> Self {
        Self(stream.peer_cred().ok())
    }

    /// For the log.
    pub(super) fn user_and_process(self) -> (Option<u32>, Option<i32>) {
        (self.0.map(|it| it.uid()), self.0.and_then(|it| it.pid()))
    }
}

/// Lets root, the agent's own user and the members of the socket's group in. The socket's mode says the same; this holds
/// also for a socket whose mode was changed, or that was reached through a descriptor passed on.
pub(super) async fn admit(
    Extension(Peer(credentials)): Extension<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let Some(credentials) = credentials else {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "the kernel does not say who is asking"));
    };
    let user = Uid::from_raw(credentials.uid());
    if user.is_root() || user == Uid::effective() || in_group(&credentials, Gid::effective()) {
        return Ok(next.run(request).await);
    }
    Err(Refusal::new(StatusCode::FORBIDDEN, format!("user {user} may not use netbpf; run it as root")))
}

fn in_group(credentials: &UCred, group: Gid) -> bool {
    if credentials.gid() == group.as_raw() {
        return true;
    }
    let status = credentials.pid().and_then(|pid| Process::new(pid).ok()).and_then(|process| process.status().ok());
    status.is_some_and(|status| status.groups.contains(&group.as_raw()))
}
