//! One container that asks too much.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::upstream::{Upstream, answer};
use super::{NEVER, World, query};
use crate::dns::Counts;

#[tokio::test]
async fn queries_in_flight_of_one_container_leave_room_for_those_of_another() {
    let world = World::with(|options| {
        options.in_flight_per_container = 2;
        options.in_flight = 3;
        options.patience = NEVER;
        options.deadline = NEVER;
    })
    .await;
    let mut upstream = Upstream::silent(world.address(200)).await;
    world.resolvers(&[world.address(200)]);
    let (greedy, modest, late) = (world.client(2).await, world.client(3).await, world.client(4).await);
    for _ in 0..2 {
        greedy.send(&query("example.org", RecordType::TXT).to_vec().unwrap()).await;
    }
    let held = upstream.wait(2).await;
    assert_eq!(greedy.look_up("example.org", RecordType::TXT).await, "ServFail");
    assert_eq!(greedy.connect().await.look_up("example.org", RecordType::TXT).await.unwrap(), "ServFail");
    assert_eq!(greedy.look_up("web", RecordType::A).await, format!("NoError {}", world.address(2)));

    modest.send(&query("example.org", RecordType::TXT).to_vec().unwrap()).await;
    let modest_query = upstream.wait(3).await.pop().unwrap();
    assert_eq!(late.look_up("example.org", RecordType::TXT).await, "ServFail", "all are in use");

    upstream.send(&answer(&modest_query, ResponseCode::NoError, &["modest"]), modest_query.source).await;
    assert_eq!(super::shown(&modest.receive().await), "NoError modest");
    upstream.send(&answer(&held[0], ResponseCode::NoError, &["greedy"]), held[0].source).await;
    assert_eq!(super::shown(&greedy.receive().await), "NoError greedy");
    greedy.send(&query("example.org", RecordType::TXT).to_vec().unwrap()).await;
    upstream.wait(4).await;
    assert_eq!(world.server.counts(), Counts { answered: 1, forwarded: 2, limited: 3, ..Counts::default() });
}

#[tokio::test]
async fn connections_of_one_container_leave_room_for_those_of_another() {
    let world = World::with(|options| {
        options.connections_per_container = 2;
        options.connections = 3;
        options.idle = NEVER;
    })
    .await;
    let (greedy, modest, late) = (world.client(2).await, world.client(3).await, world.client(4).await);
    let expected = Some(format!("NoError {}", world.address(2)));
    let (mut one, mut two) = (greedy.connect().await, greedy.connect().await);
    assert_eq!(one.look_up("web", RecordType::A).await, expected);
    assert_eq!(two.look_up("web", RecordType::A).await, expected);
    assert_eq!(greedy.connect().await.look_up("web", RecordType::A).await, None);
    let mut three = modest.connect().await;
    assert_eq!(three.look_up("web", RecordType::A).await, expected);
    assert_eq!(late.connect().await.look_up("web", RecordType::A).await, None);
    assert_eq!(one.look_up("web", RecordType::A).await, expected, "those that were there go on");
}

#[tokio::test]
async fn a_connection_that_is_idle_is_closed_but_not_one_that_waits_for_an_answer() {
    let world = World::with(|options| {
        options.idle = Duration::from_millis(50);
        options.deadline = NEVER;
    })
    .await;
    let upstream = Upstream::new(world.address(200), |seen| {
        // Longer than a connection may be idle.
        std::thread::sleep(Duration::from_millis(200));
        vec![answer(seen, ResponseCode::NoError, &["late"])]
    })
    .await;
    world.resolvers(&[world.address(200)]);
    let client = world.client(2).await;
    assert_eq!(client.connect().await.receive().await, None);
    let mut connection = client.connect().await;
    assert_eq!(connection.look_up("example.org", RecordType::TXT).await.unwrap(), "NoError late");
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(connection.receive().await, None);
}

#[tokio::test]
async fn a_connection_that_speaks_no_dns_is_closed() {
    let world = World::new().await;
    let mut connection = world.client(2).await.connect().await;
    connection.send(b"GET / HTTP/1.0").await;
    assert_eq!(super::shown(&connection.receive().await.unwrap()), "NotImp");
    connection.send(b"").await;
    assert_eq!(connection.receive().await, None);
}
