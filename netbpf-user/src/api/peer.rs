//! Who is at the other end of the socket, and whether that is enough.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use axum::Extension;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use nix::unistd::{Gid, Uid};
use tokio::net::UnixStream;

use super::door::Door;
use super::quota::Quota;
use super::reply::Refusal;
use crate::datapath::peer_groups;

/// Credentials of the connecting process, as the kernel noted them at connect(2).
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) user: Uid,
    /// For the log alone: by now it may be another's.
    process: Option<i32>,
    groups: Vec<u32>,
}

/// Who asks, by which door, and how much is asked there already.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    pub(super) peer: Peer,
    pub(super) door: Arc<Door>,
    pub(super) requests: Arc<Quota>,
}

impl Peer {
    /// The other end of a connection.
    pub(super) fn of(stream: &UnixStream) -> std::io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let mut groups = peer_groups(stream.as_fd())?;
        groups.push(credentials.gid());
        Ok(Self { user: Uid::from_raw(credentials.uid()), process: credentials.pid(), groups })
    }

    fn is_in(&self, group: Gid) -> bool {
        self.groups.contains(&group.as_raw())
    }

    /// Root, the agent's own user and the members of the door's group. The socket's mode says the same; this holds also for a
    /// socket whose mode was changed, or that was reached through a descriptor passed on.
    fn may_enter(&self, door: &Door) -> bool {
        self.user.is_root() || self.user == Uid::effective() || door.group.is_some_and(|group| self.is_in(group))
    }

    /// For the log.
    pub(super) fn user_and_process(&self) -> (u32, Option<i32>) {
        (self.user.as_raw(), self.process)
    }
}

/// Lets through what this visitor may ask for, and as much of it as is good for the others.
pub(super) async fn admit(
    Extension(Visitor { peer, door, requests }): Extension<Visitor>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let user = peer.user;
    if !peer.may_enter(&door) {
        let line = format!("user {user} may not use netbpf: run it as root, or as a member of the group of its socket");
        return Err(Refusal::new(StatusCode::FORBIDDEN, line));
    }
    if !door.serves(request.method()) {
        let line = format!(
            "{} changes things, and this socket is for looking: ask at netbpf.sock, as root or as a member of its group",
            request.method()
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, line));
    }
    let Some(ticket) = requests.take(user) else {
        let line = format!("too many requests wait for their answers, of user {user} or of all: ask again later");
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, line));
    };
    // To its end even when the client goes away, and it counts until then: who hangs up and asks again has two that wait.
    let served = tokio::spawn(async move {
        let _ticket = ticket;
        next.run(request).await
    });
    served.await.map_err(|error| Refusal::died(&error))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use axum::routing::get;
    use axum::{Router, middleware};
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use tokio::sync::Notify;

    use super::super::quota::Most;
    use super::*;

    #[test]
    fn a_door_is_for_root_and_for_the_members_of_its_group() {
        let peer =
            |user: u32, groups: &[u32]| Peer { user: Uid::from_raw(user), process: None, groups: groups.to_vec() };
        let door =
            |group: Option<u32>| Door { path: "/s".into(), group: group.map(Gid::from_raw), is_for_looking: false };
        let own = Uid::effective().as_raw();
        let stranger = own + 4711;
        for (peer, group, may) in [
            (peer(0, &[0]), None, true),
            (peer(own, &[0]), None, true),
            (peer(stranger, &[0]), None, false),
            (peer(stranger, &[7]), None, false),
            (peer(stranger, &[5, 7]), Some(7), true),
            (peer(stranger, &[7, 5]), Some(5), true),
            (peer(stranger, &[5]), Some(7), false),
            (peer(stranger, &[]), Some(7), false),
        ] {
            assert_eq!(peer.may_enter(&door(group)), may, "{peer:?} {group:?}");
        }
    }

    #[tokio::test]
    async fn who_hangs_up_and_asks_again_has_two_requests_that_wait() {
        let go = Arc::new(Notify::new());
        let answer = {
            let go = go.clone();
            async move || go.notified().await
        };
        let door = Arc::new(Door { path: "/s".into(), group: Some(Gid::from_raw(7)), is_for_looking: true });
        let requests = Quota::new(Most { of_all: 9, of_others: 9, of_one: 2 });
        let peer = Peer { user: Uid::from_raw(Uid::effective().as_raw() + 4711), process: None, groups: vec![7] };
        let visitor = Visitor { peer, door, requests: requests.clone() };
        let router = Router::new().route("/", get(answer)).layer(middleware::from_fn(admit)).layer(Extension(visitor));
        let service = TowerToHyperService::new(router);
        let ask = || service.call(Request::new(Body::empty()));
        for _ in 0..2 {
            // The client is gone before the answer comes.
            assert!(tokio::time::timeout(Duration::from_millis(20), ask()).await.is_err());
        }
        assert_eq!(ask().await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        go.notify_waiters();
        let done = async {
            while requests.take(Uid::from_raw(Uid::effective().as_raw() + 4711)).is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), done).await.expect("what was answered waits no more");
    }

    #[tokio::test]
    async fn the_kernel_says_who_is_at_the_other_end() {
        let (here, _there) = UnixStream::pair().unwrap();
        let peer = Peer::of(&here).unwrap();
        assert_eq!(peer.user, Uid::effective());
        assert!(peer.is_in(Gid::effective()));
    }
}
