//! What is decided on a query, without a socket.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{DNSClass, Name, RecordType};

use crate::dns::decide::{Decision, decide};
use crate::dns::index::Index;
use crate::dns::message::Transport;
use crate::dns::{Member, Network, Snapshot};

fn member(container: &str, addresses: &[&str], aliases: &[&str]) -> Member {
    Member {
        container: container.into(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        aliases: aliases.iter().map(ToString::to_string).collect(),
        ..Member::default()
    }
}

fn network(name: &str, number: u8, members: Vec<Member>) -> Network {
    let addresses = |texts: [String; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
    Network {
        name: name.into(),
        gateways: addresses([format!("10.{number}.0.1"), format!("fd0{number}::1")]),
        subnets: [format!("10.{number}.0.0/16"), format!("fd0{number}::/64")].map(|net| net.parse().unwrap()).into(),
        members,
        ..Network::default()
    }
}

/// `web` is in all three but `other`; `db` in an internal network alone.
fn snapshot() -> Arc<Snapshot> {
    let web = Member {
        short_id: Some("0123456789ab".into()),
        hostname: Some("www.example.org".into()),
        ..member("Web", &["10.1.0.2", "fd01::2"], &["app", "web"])
    };
    let own = Member { upstreams: vec!["10.9.9.9".parse().unwrap()], ..member("own", &["10.1.0.4"], &[]) };
    let front = vec![web, member("api_1", &["10.1.0.3"], &["app"]), own, member("six", &["fd01::6"], &["store"])];
    let back = vec![member("Web", &["10.2.0.2"], &[]), member("db", &["10.2.0.3", "fd02::3"], &["store"])];
    let other = vec![member("secret", &["10.3.0.2"], &["app"])];
    let back = Network { is_internal: true, ..network("back", 2, back) };
    let networks = vec![network("front", 1, front), back, network("other.net", 3, other)];
    Arc::new(Snapshot { generation: 1, networks })
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    let labels = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes);
    message.add_query(Query::query(Name::from_labels(labels).unwrap(), kind));
    message
}

fn shown(decision: Decision) -> String {
    match decision {
        Decision::Ignore(count) => format!("ignored: {count:?}"),
        Decision::Forward(forward) => format!("forward {} {:?}", forward.container, forward.upstreams),
        Decision::Answer(_, answer) => {
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!((answer.id, answer.message_type), (7, MessageType::Response));
            let data = answer.answers.iter().map(|record| record.data.to_string());
            let code = format!("{:?}", answer.response_code);
            [code].into_iter().chain(data).collect::<Vec<_>>().join(" ")
        }
    }
}

fn asked(index: &Index, from: &str, name: &str, kind: RecordType) -> String {
    let source: IpAddr = from.parse().unwrap();
    let gateway = match source {
        IpAddr::V4(source) => [source.octets()[0], source.octets()[1], 0, 1].into(),
        IpAddr::V6(source) => IpAddr::from([source.segments()[0], 0, 0, 0, 0, 0, 0, 1]),
    };
    shown(decide(index, gateway, source, &query(name, kind).to_vec().unwrap(), Transport::Udp))
}

#[test]
fn names_are_those_of_the_networks_that_the_asker_is_in() {
    use RecordType::{A, AAAA, ANY, AXFR, HTTPS, MX, PTR, SOA, TXT};
    let [api, web, db, v6] = ["10.1.0.3", "10.1.0.2", "10.2.0.3", "fd01::2"];
    let rows = [
        ("the name of a container", api, "web", A, "NoError 10.1.0.2"),
        ("its other family", api, "web", AAAA, "NoError fd01::2"),
        ("both", api, "web", ANY, "NoError 10.1.0.2 fd01::2"),
        ("asked over IPv6", v6, "api_1", A, "NoError 10.1.0.3"),
        ("whatever the case", api, "wEB", A, "NoError 10.1.0.2"),
        ("its short id", api, "0123456789AB", A, "NoError 10.1.0.2"),
        ("its hostname, dots and all", api, "www.example.org", AAAA, "NoError fd01::2"),
        ("its name in the network's domain", api, "web.front", A, "NoError 10.1.0.2"),
        ("oneself", api, "api_1", A, "NoError 10.1.0.3"),
        ("a family that it has not", api, "api_1", AAAA, "NoError"),
        ("a type that nobody has", api, "web", MX, "NoError"),
        ("another", api, "web", HTTPS, "NoError"),
        ("a type of a hostname", api, "www.example.org", TXT, "NoError"),
        ("a name of another network", api, "db", A, "forward api_1 []"),
        ("a name of another network in its domain", api, "db.back", A, "forward api_1 []"),
        ("a network that the asker is not in", api, "secret.other.net", A, "forward api_1 []"),
        ("below a container", api, "x.web", A, "forward api_1 []"),
        ("a network alone", api, "front", A, "forward api_1 []"),
        ("no such name in a network's domain", api, "nobody.front", A, "forward api_1 []"),
        ("a single label", api, "nobody", A, "forward api_1 []"),
        ("the root", api, "", SOA, "forward api_1 []"),
        ("the world", api, "example.org", A, "forward api_1 []"),
        ("a zone of the world", api, "example.org", AXFR, "NotImp"),
        ("servers of its own", "10.1.0.4", "example.org", A, "forward own [10.9.9.9]"),
        ("in several networks: the first", web, "api_1", A, "NoError 10.1.0.3"),
        ("in several networks: the second", web, "db", A, "NoError 10.2.0.3"),
        ("in several networks: asked by the second", "10.2.0.2", "api_1", A, "NoError 10.1.0.3"),
        ("in several networks: to the world", "10.2.0.2", "example.org", A, "forward Web []"),
        ("the same name in two: the one asked through", web, "web", A, "NoError 10.1.0.2"),
        ("the same name in two: asked by the second", "10.2.0.2", "web", A, "NoError 10.2.0.2"),
        ("the same name in two: a family of the other", "10.2.0.2", "web", AAAA, "NoError fd01::2"),
        ("the same alias in two: the first", web, "store", AAAA, "NoError fd01::6"),
        ("the same alias in two: the one with the family", web, "store", A, "NoError 10.2.0.3"),
        ("the same alias in two: by its domain", web, "STORE.back", AAAA, "NoError fd02::3"),
        ("internal alone: who is there", db, "web", A, "NoError 10.2.0.2"),
        ("internal alone: who has not that family", db, "web", AAAA, "NoError"),
        ("internal alone: the world", db, "example.org", A, "NXDomain"),
        ("internal alone: a single label", db, "api_1", AAAA, "NXDomain"),
        ("an address", api, "2.0.1.10.in-addr.arpa", PTR, "NoError Web.front."),
        ("an address, whatever the case", api, "2.0.1.10.IN-ADDR.arpa", PTR, "NoError Web.front."),
        ("an address, another type", api, "2.0.1.10.in-addr.arpa", TXT, "NoError"),
        ("an address of another network", api, "3.0.2.10.in-addr.arpa", PTR, "NXDomain"),
        ("an address of another network of the asker", web, "3.0.2.10.in-addr.arpa", PTR, "NoError db.back."),
        ("an address that is free", api, "9.9.1.10.in-addr.arpa", PTR, "NXDomain"),
        ("the gateway", api, "1.0.1.10.in-addr.arpa", PTR, "NXDomain"),
        ("an address of the world", api, "8.8.8.8.in-addr.arpa", PTR, "forward api_1 []"),
        ("no whole address", api, "1.10.in-addr.arpa", PTR, "forward api_1 []"),
        ("no address", api, "x.0.1.10.in-addr.arpa", PTR, "forward api_1 []"),
        ("the gateway itself", "10.1.0.1", "web", A, "ignored: Strangers"),
        ("from nowhere", "10.1.0.99", "web", A, "ignored: Strangers"),
    ];
    let index = Index::new(&snapshot(), &Index::default());
    for (what, from, name, kind, expected) in rows {
        assert_eq!(asked(&index, from, name, kind), expected, "{what}: {name} from {from}");
    }
    let reverse = |address: &str| Name::from(address.parse::<IpAddr>().unwrap()).to_ascii();
    assert_eq!(asked(&index, api, &reverse("fd01::2"), PTR), "NoError Web.front.");
    assert_eq!(asked(&index, api, &reverse("fd01::99"), PTR), "NXDomain");
    assert_eq!(asked(&index, api, &reverse("2001:db8::1"), PTR), "forward api_1 []");
}

#[test]
fn a_member_of_one_network_is_a_stranger_at_the_gateway_of_another() {
    let index = Index::new(&snapshot(), &Index::default());
    let query = query("secret", RecordType::A).to_vec().unwrap();
    for source in ["10.1.0.2", "10.2.0.2"] {
        let decision = decide(&index, "10.3.0.1".parse().unwrap(), source.parse().unwrap(), &query, Transport::Tcp);
        assert_eq!(shown(decision), "ignored: Strangers");
    }
}

#[test]
fn holders_of_an_alias_are_named_in_turn_by_each_family_and_name_for_itself() {
    let mut snapshot = (*snapshot()).clone();
    let mut index = Index::new(&Arc::new(snapshot.clone()), &Index::default());
    let [one, two] = ["NoError 10.1.0.2 10.1.0.3", "NoError 10.1.0.3 10.1.0.2"];
    for expected in [one, two, one] {
        assert_eq!(asked(&index, "10.1.0.3", "app", RecordType::A), expected);
        assert_eq!(asked(&index, "10.1.0.3", "app", RecordType::AAAA), "NoError fd01::2");
        assert_eq!(asked(&index, "10.1.0.3", "web", RecordType::A), "NoError 10.1.0.2");
    }
    // A change elsewhere does not begin anew.
    snapshot.networks.remove(2);
    index = Index::new(&Arc::new(snapshot.clone()), &index);
    assert_eq!(asked(&index, "10.1.0.3", "app", RecordType::A), two);
    // One in the same network is seen, and begins nothing anew either.
    snapshot.networks[0].members.push(member("late", &["10.1.0.7"], &["store"]));
    index = Index::new(&Arc::new(snapshot), &index);
    assert_eq!(asked(&index, "10.1.0.7", "late", RecordType::A), "NoError 10.1.0.7");
    assert_eq!(asked(&index, "10.1.0.3", "app", RecordType::A), one);
}

#[test]
fn names_that_are_none_in_dns_do_no_harm() {
    let long = "x".repeat(64);
    let members = vec![member(&long, &["10.1.0.2"], &["", ".", "a..b", "fine."]), member("b", &["10.1.0.3"], &[])];
    let snapshot = Arc::new(Snapshot { generation: 1, networks: vec![network("n.", 1, members)] });
    let index = Index::new(&snapshot, &Index::default());
    assert_eq!(asked(&index, "10.1.0.2", "b", RecordType::A), "NoError 10.1.0.3");
    assert_eq!(asked(&index, "10.1.0.2", "", RecordType::A), format!("forward {long} []"));
    assert_eq!(asked(&index, "10.1.0.2", "2.0.1.10.in-addr.arpa", RecordType::PTR), "NoError");
}

#[test]
fn what_is_no_query_is_refused_or_dropped() {
    let index = Index::new(&snapshot(), &Index::default());
    let decide = |bytes: &[u8]| {
        shown(decide(&index, "10.1.0.1".parse().unwrap(), "10.1.0.2".parse().unwrap(), bytes, Transport::Udp))
    };
    let bytes = |message: &Message| message.to_vec().unwrap();
    let mut message = query("web", RecordType::A);
    let whole = bytes(&message);
    assert_eq!(decide(&whole), "NoError 10.1.0.2");
    for cut in 0..12 {
        assert_eq!(decide(&whole[..cut]), "ignored: Malformed", "{cut} bytes");
    }
    for cut in 12..whole.len() {
        assert_eq!(decide(&whole[..cut]), "FormErr", "{cut} bytes");
    }
    message.add_query(Query::query(Name::root(), RecordType::A));
    assert_eq!(decide(&bytes(&message)), "FormErr");
    message.queries.clear();
    assert_eq!(decide(&bytes(&message)), "FormErr");
    message.metadata.op_code = OpCode::Update;
    assert_eq!(decide(&bytes(&message)), "NotImp");
    message.metadata.message_type = MessageType::Response;
    assert_eq!(decide(&bytes(&message)), "ignored: Malformed");
    let mut chaos = query("web", RecordType::TXT);
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(decide(&bytes(&chaos)), "forward Web []");
}

#[test]
fn no_bytes_make_it_panic() {
    let index = Index::new(&snapshot(), &Index::default());
    let mut whole = query("2.0.1.10.in-addr.arpa", RecordType::PTR);
    whole.set_edns(hickory_proto::op::Edns::new());
    let whole = whole.to_vec().unwrap();
    for at in 0..whole.len() {
        for byte in 0..=255 {
            let mut damaged = whole.clone();
            damaged[at] = byte;
            decide(&index, "10.1.0.1".parse().unwrap(), "10.1.0.2".parse().unwrap(), &damaged, Transport::Udp);
        }
    }
}
