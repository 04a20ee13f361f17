//! Upstream servers that are slow, silent, unwilling or not there.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::upstream::{Upstream, answer};
use super::{World, query, shown};
use crate::dns::Counts;

const TXT: RecordType = RecordType::TXT;

#[tokio::test]
async fn a_server_that_is_silent_is_followed_by_the_next() {
    let world = World::with(|options| options.patience = Duration::from_millis(50)).await;
    let silent = Upstream::silent(world.address(200)).await;
    let _next = Upstream::named(world.address(201), "two").await;
    world.resolvers(&[world.address(200), world.address(201)]);
    assert_eq!(world.client(2).await.look_up("example.org", TXT).await, "NoError two");
    assert_eq!(silent.seen().len(), 1);
}

#[tokio::test]
async fn a_slow_server_is_still_listened_to_when_the_next_is_asked() {
    for next_fails in [false, true] {
        let world = World::with(|options| options.patience = Duration::from_millis(50)).await;
        let slow = Upstream::silent(world.address(200)).await;
        let mut next = Upstream::new(world.address(201), move |seen| {
            next_fails.then(|| answer(seen, ResponseCode::ServFail, &[])).into_iter().collect()
        })
        .await;
        world.resolvers(&[world.address(200), world.address(201)]);
        let client = world.client(2).await;
        client.send(&query("example.org", TXT).to_vec().unwrap()).await;
        next.wait(1).await;
        let late = slow.seen().pop().unwrap();
        slow.send(&answer(&late, ResponseCode::NoError, &["late"]), late.source).await;
        assert_eq!(shown(&client.receive().await), "NoError late");
    }
}

#[tokio::test]
async fn a_server_that_fails_or_is_not_there_is_followed_by_the_next_at_once() {
    // Whoever waits for a silent server here waits for ever.
    let world = World::with(|options| {
        options.patience = super::NEVER * 4;
        options.deadline = super::NEVER * 16;
    })
    .await;
    let [nobody, good] = [200, 201].map(|last| world.address(last));
    let _good = Upstream::named(good, "good").await;
    let client = world.client(2).await;
    for (last, code) in [(202, ResponseCode::ServFail), (203, ResponseCode::Refused), (204, ResponseCode::NotImp)] {
        let bad = Upstream::new(world.address(last), move |seen| vec![answer(seen, code, &[])]).await;
        world.resolvers(&[world.address(last), nobody, good]);
        assert_eq!(client.look_up("example.org", TXT).await, "NoError good");
        let over_tcp = client.connect().await.look_up("example.org", TXT).await;
        assert_eq!(over_tcp.unwrap(), "NoError good");
        assert_eq!(bad.seen().len(), 2, "{code}");
    }
}

#[tokio::test]
async fn when_all_fail_the_asker_is_told_so() {
    let world = World::with(|options| {
        options.patience = Duration::from_millis(20);
        options.deadline = Duration::from_millis(200);
    })
    .await;
    let client = world.client(2).await;
    // Nobody is anywhere.
    world.resolvers(&[world.address(200)]);
    assert_eq!(client.look_up("example.org", TXT).await, "ServFail");
    // Who is there says nothing.
    let silent = Upstream::silent(world.address(200)).await;
    assert_eq!(client.look_up("example.org", TXT).await, "ServFail");
    assert_eq!(silent.seen().len(), 2, "a datagram can be lost");
    let over_tcp = client.connect().await.look_up("example.org", TXT).await;
    assert_eq!(over_tcp.unwrap(), "ServFail");
    assert_eq!(silent.seen().len(), 3);
    // What a server said of its failure is passed on.
    let _bad = Upstream::new(world.address(201), |seen| vec![answer(seen, ResponseCode::Refused, &["why"])]).await;
    world.resolvers(&[world.address(201), world.address(200)]);
    assert_eq!(client.look_up("example.org", TXT).await, "Refused why");
    // The server itself is nobody to ask, whoever answers there.
    let _itself = Upstream::named(world.address(1), "itself").await;
    world.resolvers(&[world.address(1)]);
    assert_eq!(client.look_up("example.org", TXT).await, "ServFail");
    assert_eq!(world.server.counts(), Counts { forwarded: 1, failed: 4, ..Counts::default() });
}

#[tokio::test]
async fn a_lost_datagram_is_sent_again_when_there_is_one_server() {
    let world = World::with(|options| options.patience = Duration::from_millis(50)).await;
    let lost = std::sync::atomic::AtomicBool::new(false);
    let _upstream = Upstream::new(world.address(200), move |seen| {
        let is_first = !lost.swap(true, std::sync::atomic::Ordering::Relaxed);
        if is_first { Vec::new() } else { vec![answer(seen, ResponseCode::NoError, &["again"])] }
    })
    .await;
    world.resolvers(&[world.address(200)]);
    assert_eq!(world.client(2).await.look_up("example.org", TXT).await, "NoError again");
}
