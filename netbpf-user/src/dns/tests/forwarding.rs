//! Queries that others answer.

use std::collections::BTreeSet;

use hickory_proto::op::{Edns, MessageType, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RecordType};

use super::upstream::{Seen, Upstream, answer, changed};
use super::{Network, World, query, shown};
use crate::dns::message::{Transport, set_id};

const TXT: RecordType = RecordType::TXT;

#[tokio::test]
async fn what_is_not_known_is_passed_on_byte_for_byte_both_ways() {
    let world = World::new().await;
    // Names in it are not compressed, and it ends in what nobody knows.
    let odd = |seen: &Seen| {
        let mut odd = seen.bytes.clone();
        odd[2] |= 0x80;
        odd[3] |= 0x30;
        odd.extend([0xde, 0xad]);
        vec![odd]
    };
    let upstream = Upstream::new(world.address(200), odd).await;
    world.resolvers(&[world.address(200)]);
    let client = world.client(2).await;
    let mut asked = query("eXample.org", RecordType::Unknown(65_399));
    asked.metadata.checking_disabled = true;
    let mut edns = Edns::new();
    edns.set_dnssec_ok(true).set_max_payload(4096);
    edns.options_mut().insert(EdnsOption::Unknown(65_001, b"whatever".to_vec()));
    asked.set_edns(edns);
    let sent = asked.to_vec().unwrap();
    let over_udp = client.ask(&asked).await;
    let mut connection = client.connect().await;
    connection.send(&sent).await;
    let over_tcp = connection.receive().await.unwrap();
    let seen = upstream.seen();
    assert_eq!(seen.iter().map(|seen| seen.transport).collect::<Vec<_>>(), [Transport::Udp, Transport::Tcp]);
    for (seen, received) in seen.iter().zip([over_udp, over_tcp]) {
        assert_eq!(seen.bytes[2..], sent[2..]);
        assert_eq!(received[2..], odd(seen)[0][2..]);
        assert_eq!(received[..2], sent[..2]);
    }
}

#[tokio::test]
async fn every_query_has_an_identifier_and_a_port_of_its_own() {
    let world = World::new().await;
    let upstream = Upstream::named(world.address(200), "one").await;
    world.resolvers(&[world.address(200)]);
    let client = world.client(2).await;
    let asked = query("example.org", TXT);
    for _ in 0..16 {
        assert_eq!(shown(&client.ask(&asked).await), "NoError one");
    }
    let seen = upstream.seen();
    let identifiers: BTreeSet<&[u8]> = seen.iter().map(|seen| &seen.bytes[..2]).collect();
    let ports: BTreeSet<u16> = seen.iter().map(|seen| seen.source.port()).collect();
    // Two may be the same by chance.
    assert!(identifiers.len() > 12 && ports.len() > 12, "{identifiers:?} {ports:?}");
}

#[tokio::test]
async fn only_the_answer_to_the_very_query_from_the_very_server_is_believed() {
    let world = World::new().await;
    let elsewhere = std::net::UdpSocket::bind((world.address(201), super::upstream_port())).unwrap();
    let _upstream = Upstream::new(world.address(200), move |seen| {
        let forged = answer(seen, ResponseCode::NoError, &["forged"]);
        elsewhere.send_to(&forged, seen.source).unwrap();
        let mut other_id = forged.clone();
        set_id(&mut other_id, [forged[0] ^ 1, forged[1]]);
        let other_name = changed(seen, |answer| answer.queries[0].name = Name::from_ascii("example.net.").unwrap());
        let other_type = changed(seen, |answer| answer.queries[0].query_type = RecordType::A);
        let no_answer = changed(seen, |answer| answer.metadata.message_type = MessageType::Query);
        let short = forged[..11].to_vec();
        let own = answer(seen, ResponseCode::NoError, &["own"]);
        vec![other_id, other_name, other_type, no_answer, short, Vec::new(), own]
    })
    .await;
    world.resolvers(&[world.address(200)]);
    assert_eq!(world.client(2).await.look_up("example.org", TXT).await, "NoError own");
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_an_answer() {
    let world = World::new().await;
    let _first = Upstream::new(world.address(200), |seen| vec![answer(seen, ResponseCode::NXDomain, &[])]).await;
    let second = Upstream::named(world.address(201), "two").await;
    world.resolvers(&[world.address(200), world.address(201)]);
    assert_eq!(world.client(2).await.look_up("nobody", TXT).await, "NXDomain");
    assert_eq!(second.seen().len(), 0);
}

#[tokio::test]
async fn a_truncated_answer_makes_the_asker_ask_by_tcp() {
    let world = World::new().await;
    let long = "x".repeat(200);
    let expected = long.clone();
    let upstream = Upstream::new(world.address(200), move |seen| match seen.transport {
        Transport::Udp => vec![changed(seen, |answer| answer.metadata.truncation = true)],
        Transport::Tcp => vec![answer(seen, ResponseCode::NoError, &[&*long; 250])],
    })
    .await;
    world.resolvers(&[world.address(200)]);
    let client = world.client(2).await;
    let answer = client.ask(&query("example.org", TXT)).await;
    assert!(answer[2] & 2 != 0, "the bit is passed on");
    let found = client.resolver(false).txt_lookup("example.org.").await.unwrap();
    let texts: Vec<String> = found.answers().iter().map(|record| record.data.to_string()).collect();
    assert_eq!(texts, vec![expected; 250]);
    let transports: Vec<Transport> = upstream.seen().iter().map(|seen| seen.transport).collect();
    assert_eq!(transports, [Transport::Udp, Transport::Udp, Transport::Tcp]);
}

#[tokio::test]
async fn an_answer_as_long_as_the_asker_takes_comes_whole() {
    let world = World::new().await;
    let _upstream =
        Upstream::new(world.address(200), |seen| vec![answer(seen, ResponseCode::NoError, &[&*"y".repeat(250); 15])])
            .await;
    world.resolvers(&[world.address(200)]);
    let mut asked = query("example.org", TXT);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    asked.set_edns(edns);
    let answer = world.client(2).await.ask(&asked).await;
    assert!(answer.len() > 3900 && shown(&answer).split(' ').count() == 16, "{} bytes", answer.len());
}

#[tokio::test]
async fn a_connection_does_not_wait_for_the_slowest_of_its_queries() {
    let world = World::with(|options| options.deadline = super::NEVER).await;
    let mut upstream = Upstream::new(world.address(200), |seen| {
        let is_slow = Name::from_ascii("slow.").unwrap();
        let asked = hickory_proto::op::Message::from_vec(&seen.bytes).unwrap();
        if asked.queries[0].name == is_slow { Vec::new() } else { vec![answer(seen, ResponseCode::NoError, &["fast"])] }
    })
    .await;
    world.resolvers(&[world.address(200)]);
    let mut connection = world.client(2).await.connect().await;
    connection.send(&query("slow", TXT).to_vec().unwrap()).await;
    upstream.wait(1).await;
    assert_eq!(connection.look_up("fast", TXT).await.unwrap(), "NoError fast");
    assert_eq!(connection.look_up("web", RecordType::A).await.unwrap(), format!("NoError {}", world.address(2)));
}

#[tokio::test]
async fn a_container_with_servers_of_its_own_asks_those() {
    let mut world = World::new().await;
    let hosts = Upstream::named(world.address(200), "host").await;
    let _own = Upstream::named(world.address(201), "own").await;
    world.resolvers(&[world.address(200)]);
    let mut front = world.front();
    front.members[0].upstreams = vec![world.address(201)];
    world.send(vec![front]).await;
    assert_eq!(world.client(2).await.look_up("example.org", TXT).await, "NoError own");
    assert_eq!(hosts.seen().len(), 0);
    assert_eq!(world.client(3).await.look_up("example.org", TXT).await, "NoError host");
}

#[tokio::test]
async fn nothing_leaves_an_internal_network() {
    let mut world = World::new().await;
    let upstream = Upstream::named(world.address(200), "leak").await;
    world.resolvers(&[world.address(200)]);
    let mut front = Network { is_internal: true, ..world.front() };
    front.members[0].upstreams = vec![world.address(200)];
    world.send(vec![front.clone()]).await;
    for last in [2, 3] {
        let client = world.client(last).await;
        for name in ["example.org", "nobody", "8.8.8.8.in-addr.arpa"] {
            assert_eq!(client.look_up(name, TXT).await, "NXDomain");
            assert_eq!(client.connect().await.look_up(name, TXT).await.unwrap(), "NXDomain");
        }
        assert_eq!(client.look_up("web", RecordType::A).await, format!("NoError {}", world.address(2)));
        let error = client.resolver(false).lookup_ip("example.org.").await.unwrap_err();
        assert!(error.is_nx_domain(), "{error}");
    }
    assert_eq!(upstream.seen().len(), 0);
    // With another network that has a way out, there is one.
    let back = Network { name: "back".into(), members: vec![world.member("web", 130, &[])], ..Network::default() };
    world.send(vec![front, back]).await;
    assert_eq!(world.client(2).await.look_up("example.org", TXT).await, "NoError leak");
    assert_eq!(world.client(3).await.look_up("example.org", TXT).await, "NXDomain");
}

#[tokio::test]
async fn reverse_lookups_of_our_addresses_stay_here() {
    let world = World::new().await;
    let upstream = Upstream::named(world.address(200), "world").await;
    world.resolvers(&[world.address(200)]);
    let client = world.client(2).await;
    let reverse = |last| Name::from(world.address(last)).to_ascii();
    assert_eq!(client.look_up(&reverse(99), RecordType::PTR).await, "NXDomain");
    assert_eq!(upstream.seen().len(), 0);
    // Not of the subnet any more.
    assert_eq!(client.look_up(&reverse(130), TXT).await, "NoError world");
}

#[tokio::test]
async fn the_resolvers_of_the_host_are_followed() {
    let world = World::new().await;
    let _one = Upstream::named(world.address(200), "one").await;
    let _two = Upstream::named(world.address(201), "two").await;
    let client = world.client(2).await;
    for (last, expected) in [(200, "NoError one"), (201, "NoError two"), (200, "NoError one")] {
        world.resolvers(&[world.address(last)]);
        assert_eq!(client.look_up("example.org", TXT).await, expected);
    }
}
