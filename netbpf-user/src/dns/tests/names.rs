//! Names of containers, asked for by real resolvers.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hickory_proto::rr::{Name, RecordType};
use tokio::task::JoinSet;

use super::client::Client;
use super::{Member, Network, World, port, query};
use crate::dns::Counts;

#[tokio::test]
async fn a_real_resolver_finds_containers_and_their_names_over_udp_and_tcp() {
    let world = World::new().await;
    for over_tcp in [false, true] {
        let resolver = world.client(2).await.resolver(over_tcp);
        for name in ["api", "API", "api.front."] {
            let found: Vec<IpAddr> = resolver.lookup_ip(name).await.unwrap().iter().collect();
            assert_eq!(found, [world.address(3)], "{name}");
        }
        let mut all: Vec<IpAddr> = resolver.lookup_ip("app.").await.unwrap().iter().collect();
        all.sort();
        assert_eq!(all, [world.address(3), world.address(4)]);
    }
    // That resolver knows by itself what a loopback address is.
    let (client, reverse) = (world.client(2).await, Name::from(world.address(3)).to_ascii());
    assert_eq!(client.look_up(&reverse, RecordType::PTR).await, "NoError api.front.");
    assert_eq!(client.connect().await.look_up(&reverse, RecordType::PTR).await.unwrap(), "NoError api.front.");
    assert_eq!(world.server.counts(), Counts { answered: world.server.counts().answered, ..Counts::default() });
}

#[tokio::test]
async fn a_name_without_the_asked_type_exists_all_the_same() {
    let world = World::new().await;
    let (client, resolver) = (world.client(2).await, world.client(2).await.resolver(false));
    for kind in [RecordType::AAAA, RecordType::MX, RecordType::SRV, RecordType::HTTPS, RecordType::NS] {
        assert_eq!(client.look_up("web", kind).await, "NoError", "{kind}");
    }
    let error = resolver.ipv6_lookup("web.").await.unwrap_err();
    assert!(error.is_no_records_found() && !error.is_nx_domain(), "{error}");
}

#[tokio::test]
async fn each_holder_of_an_alias_is_named_first_in_its_turn() {
    let world = World::new().await;
    let client = world.client(2).await;
    let (one, two) = (world.address(3), world.address(4));
    for expected in [format!("{one} {two}"), format!("{two} {one}"), format!("{one} {two}")] {
        assert_eq!(client.look_up("app", RecordType::A).await, format!("NoError {expected}"));
        assert_eq!(client.look_up("app", RecordType::AAAA).await, "NoError");
    }
}

#[tokio::test]
async fn who_is_no_member_of_the_network_hears_nothing() {
    let mut world = World::new().await;
    let back = Network {
        name: "back".into(),
        gateways: vec![world.address(129)],
        members: vec![world.member("db", 130, &[])],
        ..Network::default()
    };
    world.send(vec![world.front(), back]).await;
    let member = world.client(2).await;
    // One that has no container, the gateway itself, and a member of another network.
    for stranger in [9, 1, 130] {
        let stranger = world.client(stranger).await;
        for name in ["web", "example.org"] {
            stranger.send(&query(name, RecordType::A).to_vec().unwrap()).await;
        }
        stranger.send(b"no message").await;
        let mut connection = stranger.connect().await;
        assert_eq!(connection.look_up("web", RecordType::A).await, None);
        // Answers are sent in the order of the queries: one to the stranger would be there by now.
        member.look_up("web", RecordType::A).await;
        assert!(stranger.is_silent());
    }
    assert_eq!(world.server.counts(), Counts { answered: 3, strangers: 12, ..Counts::default() });
}

#[tokio::test]
async fn ipv6_is_answered_like_ipv4() {
    let mut world = World::new().await;
    let loopback = IpAddr::from(Ipv6Addr::LOCALHOST);
    let network = Network {
        name: "six".into(),
        gateways: vec![loopback],
        subnets: vec!["::/96".parse().unwrap()],
        members: vec![Member { container: "web".into(), addresses: vec![loopback], ..Member::default() }],
        ..Network::default()
    };
    let status = world.send(vec![network]).await;
    assert_eq!(status.problems, []);
    let client = Client::new(loopback, SocketAddr::new(loopback, port())).await;
    assert_eq!(client.look_up("web", RecordType::AAAA).await, "NoError ::1");
    assert_eq!(client.connect().await.look_up("web.six", RecordType::AAAA).await.unwrap(), "NoError ::1");
    let reverse = |address: Ipv6Addr| Name::from(IpAddr::from(address)).to_ascii();
    assert_eq!(client.look_up(&reverse(Ipv6Addr::LOCALHOST), RecordType::PTR).await, "NoError web.six.");
    assert_eq!(client.look_up(&reverse(Ipv6Addr::from_bits(9)), RecordType::PTR).await, "NXDomain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_ask_at_once_get_their_own_answers() {
    let world = World::new().await;
    let mut tasks = JoinSet::new();
    for number in 0..60 {
        let (client, web, api) = (world.client(2 + number % 3).await, world.address(2), world.address(3));
        tasks.spawn(async move {
            let mut connection = client.connect().await;
            for _ in 0..20 {
                assert_eq!(client.look_up("web", RecordType::A).await, format!("NoError {web}"));
                assert_eq!(connection.look_up("api", RecordType::A).await.unwrap(), format!("NoError {api}"));
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(world.server.counts(), Counts { answered: 2400, ..Counts::default() });
}
