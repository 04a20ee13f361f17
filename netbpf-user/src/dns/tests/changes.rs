//! Networks and members that come and go.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use netbpf_common::abi::Transport;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::Client;
use super::upstream::Upstream;
use super::{NEVER, Network, World, port, query};
use crate::net::sockets::open_sockets;

/// Inodes of what listens at an address.
fn inodes(address: IpAddr) -> Vec<(Transport, u64)> {
    let all = open_sockets().unwrap().into_iter().filter(|open| (open.address, open.port) == (address, port()));
    all.map(|open| (open.transport, open.inode)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_query_is_lost_while_members_change() {
    let mut world = World::new().await;
    let before = inodes(world.address(1));
    let mut connection = world.client(2).await.connect().await;
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let (client, api) = (world.client(2).await, world.address(3));
        tasks.spawn(async move {
            for _ in 0..50 {
                assert_eq!(client.look_up("api", RecordType::A).await, format!("NoError {api}"));
            }
        });
    }
    let mut changes = 0;
    while !tasks.is_empty() {
        let mut front = world.front();
        if changes % 2 == 0 {
            front.members.extend((10..110).map(|last| world.member(&format!("c{last}"), last, &["app"])));
        }
        world.send(vec![front]).await;
        changes += 1;
        while let Some(done) = tasks.try_join_next() {
            done.unwrap();
        }
    }
    assert!(changes > 10, "{changes} changes in 1000 queries");
    assert_eq!(connection.look_up("web", RecordType::A).await.unwrap(), format!("NoError {}", world.address(2)));
    assert_eq!((inodes(world.address(1)), before.len()), (before, 2), "the sockets are the same");
    assert_eq!(world.server.counts().answered, 1001);
}

#[tokio::test]
async fn what_is_sent_is_known_when_its_generation_has_come() {
    let mut world = World::new().await;
    let client = world.client(2).await;
    for last in 10..60 {
        let mut front = world.front();
        front.members.push(world.member("late", last, &[]));
        world.send(vec![front]).await;
        assert_eq!(client.look_up("late", RecordType::A).await, format!("NoError {}", world.address(last)));
    }
}

#[tokio::test]
async fn sockets_come_and_go_with_their_networks() {
    // A query is sent once to a server that is silent.
    let mut world = World::with(|options| (options.patience, options.deadline) = (NEVER, NEVER * 4)).await;
    let (front, back) = (world.front(), Network { gateways: vec![world.address(129)], ..world.front() });
    let back = Network { name: "back".into(), members: vec![world.member("db", 130, &[])], ..back };
    let mut upstream = Upstream::silent(world.address(200)).await;
    world.resolvers(&[world.address(200)]);
    for round in 1..4 {
        let status = world.send(vec![front.clone(), back.clone()]).await;
        assert_eq!(status.served.iter().copied().collect::<Vec<_>>(), [world.address(1), world.address(129)]);
        assert_eq!(inodes(world.address(129)).len(), 2);
        // Whatever is still in flight.
        let client = Client::new(world.address(130), (world.address(129), port()).into()).await;
        let mut connection = client.connect().await;
        let asked = query("example.org", RecordType::A).to_vec().unwrap();
        client.send(&asked).await;
        connection.send(&asked).await;
        upstream.wait(round * 2).await;
        let status = world.send(vec![front.clone()]).await;
        assert_eq!((status.problems, inodes(world.address(129))), (vec![], vec![]), "closed by then");
        assert_eq!(connection.receive().await, None);
    }
    // What was known of a network goes with it.
    world.resolvers(&[world.address(201)]);
    assert_eq!(world.client(2).await.look_up("db.back", RecordType::A).await, "ServFail");
    let gateway = world.address(1);
    world.server.stop().await;
    assert_eq!(inodes(gateway), []);
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_and_tried_again_and_leaves_the_others_alone() {
    let mut world = World::with(|options| options.retry = Duration::from_millis(20)).await;
    let taken = world.address(129);
    let udp = UdpSocket::bind((taken, port())).unwrap();
    let tcp = TcpListener::bind((taken, port())).await.unwrap();
    let back = Network { name: "back".into(), gateways: vec![taken], ..Network::default() };
    let status = world.send(vec![back, world.front()]).await;
    assert_eq!(status.served.into_iter().collect::<Vec<_>>(), [world.address(1)]);
    for (problem, name) in status.problems.iter().zip(["udp", "tcp"]) {
        assert_eq!((&*problem.network, problem.gateway), ("back", taken));
        let (text, process) = (&problem.text, format!("process {} (", std::process::id()));
        for part in ["network back", &format!("{taken}:{}/{name}", port()), &process, "stop it"] {
            assert!(text.contains(part), "{part} in: {text}");
        }
    }
    assert_eq!(status.problems.len(), 2);
    let client = world.client(2).await;
    assert_eq!(client.look_up("web", RecordType::A).await, format!("NoError {}", world.address(2)));
    drop(tcp);
    world.wait(|status| status.problems.len() == 1).await;
    drop(udp);
    let status = world.wait(|status| status.problems.is_empty()).await;
    assert_eq!(status.served.len(), 2);
}

#[tokio::test]
async fn an_address_may_come_later_than_its_network() {
    let mut world = World::new().await;
    let later = ["198.51.100.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap());
    let network = Network { name: "later".into(), gateways: later.to_vec(), ..Network::default() };
    let status = world.send(vec![network]).await;
    assert_eq!((status.problems, status.served.into_iter().collect::<Vec<_>>()), (vec![], later.to_vec()));
}

#[tokio::test]
async fn a_server_that_is_dropped_or_told_nothing_any_more_closes_its_sockets() {
    let closed = async |gateway| {
        while !inodes(gateway).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let World { net, server, snapshots, files } = World::new().await;
    let gateway = IpAddr::from([127, net[0], net[1], 1]);
    assert_eq!(inodes(gateway).len(), 2);
    drop(server);
    timeout(NEVER, closed(gateway)).await.unwrap();
    drop((snapshots, files));

    let World { net, server, snapshots, .. } = World::new().await;
    let gateway = IpAddr::from([127, net[0], net[1], 1]);
    assert_eq!(inodes(gateway).len(), 2);
    drop(snapshots);
    timeout(NEVER, closed(gateway)).await.unwrap();
    server.stop().await;
}
