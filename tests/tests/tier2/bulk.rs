//! A lot of data through every path, every byte checked, whoever computes the checksums.

use std::net::SocketAddr;
use std::time::Duration;

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::place::Place;
use netbpf_tests::transfer::transfer;
use netbpf_tests::version::Version;
use netbpf_tests::wait::{poll, scaled};

use crate::lab::{Lab, Offloads};

const GIB: u64 = 1 << 30;

/// How long a transfer may stand still. TCP waits twice as long after each segment that was lost again (RFC 6298 section 5.5):
/// on a machine that works at other things, longer than a question takes to be answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// Both ways over one connection: the second direction runs in the half that the first has left open.
pub(crate) fn both_ways(from: &Place, to: SocketAddr, server: &Place, port: u16, bytes: u64) {
    // Another test's child has a copy of the listener before this one until it executes its program.
    let listener = poll(|| server.listen(server.version().everywhere(port)).ok()).expect("listening");
    let client = from.connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
    let (server, _) = listener.accept().expect("a connection waits");
    server.set_read_timeout(Some(scaled(PATIENCE))).expect("a timeout");
    server.set_write_timeout(Some(scaled(PATIENCE))).expect("a timeout");
    transfer(&client, &server, bytes).unwrap_or_else(|error| panic!("to {to}: {error}"));
    transfer(&server, &client, bytes).unwrap_or_else(|error| panic!("back from {to}: {error}"));
}

/// How much goes each way, out of what IPv4 is asked for: the time that it takes is the machine's, whatever the addresses.
const fn share(version: Version, bytes: u64) -> u64 {
    match version {
        Version::V4 => bytes,
        Version::V6 => bytes / 4,
    }
}

fn all_arrives<F: TestFamily>(offloads: Offloads, bytes: u64) {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let c2 = lab.container("c2", &[]);
    lab.offloads(offloads);
    let bytes = share(lab.version, bytes);
    let places = [&lab.ext, &lab.host, &c1.place, &c2.place];
    both_ways(&lab.ext, lab.at_host(8080), &c1.place, 80, bytes);
    both_ways(&c2.place, lab.at_ext(90), &lab.ext, 90, bytes);
    both_ways(&c2.place, c1.at(80), &c1.place, 80, bytes / 8);
    both_ways(&c2.place, lab.at_host(8080), &c1.place, 80, bytes / 8);
    both_ways(&c1.place, lab.at_host(8080), &c1.place, 80, bytes / 8);
    both_ways(&lab.host, lab.loopback(8080), &c1.place, 80, bytes / 8);
    both_ways(&c1.place, lab.at_gateway(90), &lab.host, 90, bytes / 8);
    for place in places {
        assert_eq!(checksum_errors(place), 0, "{}", place.namespace().name());
    }
}

/// Segments that arrived with a wrong checksum.
fn checksum_errors(place: &Place) -> u64 {
    // Of the thread: /proc/net would show the namespace of the process.
    let snmp = place.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).expect("readable");
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let names = lines.next().expect("a line of names").split(' ');
    let values = lines.next().expect("a line of values").split(' ');
    let (_, value) = names.zip(values).find(|(name, _)| *name == "InCsumErrors").expect("the kernel counts them");
    value.parse().expect("a number")
}

fn a_gibibyte_each_way_arrives_with_all_offloads_on<F: TestFamily>() {
    all_arrives::<F>(Offloads::On, GIB);
}

fn it_arrives_when_the_kernel_computes_checksums_at_the_uplink_as_a_nic_would<F: TestFamily>() {
    all_arrives::<F>(Offloads::HostTxChecksumOff, GIB);
}

fn it_arrives_with_all_offloads_off<F: TestFamily>() {
    all_arrives::<F>(Offloads::Off, GIB / 4);
}

for_both!(
    a_gibibyte_each_way_arrives_with_all_offloads_on,
    it_arrives_when_the_kernel_computes_checksums_at_the_uplink_as_a_nic_would,
    it_arrives_with_all_offloads_off,
);
