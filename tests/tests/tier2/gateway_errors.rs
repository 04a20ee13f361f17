//! What the gateway says of a packet that does not go on: how much of it is quoted, and the checksum of that.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::headers::{Headers, is_header_sound, is_transport_sound, leave_checksum_to_device};
use netbpf_tests::link::Link;
use netbpf_tests::packet::{IcmpError, icmp};
use netbpf_tests::place::set_hops;
use netbpf_tests::told::{listen_for_errors, next_error};
use netbpf_tests::transfer::transfer;
use netbpf_tests::version::Version;
use netbpf_tests::vnet::{LeftSum, VnetLink};
use netbpf_tests::wait::soon;

use crate::lab::{Attacker, Container, Lab, Offloads};

const ETHERNET: usize = 14;
const LONG: [u8; 1400] = [7; 1400];

/// How long an error may be, headers included (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4).
fn longest(version: Version) -> usize {
    match version {
        Version::V4 => 576,
        Version::V6 => 1280,
    }
}

/// The next frame on a link that holds this error.
fn next(link: &Link, what: IcmpError) -> Option<Vec<u8>> {
    link.find(soon(), |frame| {
        let headers = Headers::read(frame)?;
        let message = frame.get(headers.transport)?;
        let is_it = headers.protocol == icmp(headers.source) && message[..2] == what.kind_and_code(headers.source);
        is_it.then(|| frame.to_vec())
    })
}

/// What a frame with an error quotes, which is as long as may be and right.
#[track_caller]
fn quoted(frame: &[u8]) -> &[u8] {
    assert!(is_header_sound(frame) && is_transport_sound(frame), "{frame:02x?}");
    let headers = Headers::read(frame).expect("IP");
    assert_eq!(headers.transport.end - ETHERNET, longest(Version::of(headers.source)));
    &frame[headers.transport.start + 8..headers.transport.end]
}

fn what_the_gateway_says_of_a_long_packet_quotes_as_much_of_it_as_an_error_may<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let attacker = Attacker::new(&lab);
    let nobody = SocketAddr::new(lab.nth(0x99), 90);
    let mut frame = attacker.to_gateway().udp(attacker.container.at(20_000), nobody, &LONG);
    let check = |frame: &[u8]| {
        let error = next(&attacker.link, IcmpError::HOST_UNREACHABLE).expect("the gateway says so");
        let headers = Headers::read(&error).expect("IP");
        assert_eq!((headers.source, headers.destination), (lab.gateway(), attacker.container.ip));
        let quote = quoted(&error);
        assert_eq!(quote, &frame[ETHERNET..][..quote.len()]);
    };
    attacker.link.send(&frame);
    check(&frame);
    // As the container's own stack has it: the device is to sum up what is left of the packet.
    leave_checksum_to_device(&mut frame);
    let start = Headers::read(&frame).expect("a header").transport.start as u16;
    VnetLink::open(&attacker.container.place, "eth0").send(&frame, LeftSum { start, offset: 6 });
    check(&frame);
}

fn a_process_is_told_that_nobody_has_an_address_whoever_sums_up_what_it_has_sent<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let nobody = SocketAddr::new(lab.nth(0x99), 90);
    // The container takes the gateway for who has the address.
    let mac = netbpf_common::wire::Mac::new(lab.gateway_mac(&c1)).to_string();
    lab.ip(&c1.place, &format!("neigh replace {} lladdr {mac} dev eth0 nud permanent", nobody.ip()));
    for sums in ["on", "off"] {
        c1.place.command("ethtool", &["-K", "eth0", "tx", sums]);
        for payload in [&LONG[..], &LONG[..1]] {
            let socket = c1.place.any_udp();
            listen_for_errors(&socket);
            socket.send_to(payload, nobody).expect("sent");
            let told = next_error(&socket, soon()).expect("an error");
            let kind = IcmpError::HOST_UNREACHABLE.kind_and_code(c1.ip);
            assert_eq!(([told.kind, told.code], told.offender), (kind, Some(lab.gateway())), "{sums}");
        }
        let refused = c1.place.connect(nobody).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::HostUnreachable), "{sums}");
    }
}

fn a_stream_of_large_segments_is_told_what_fits_with_the_beginning_of_one_of_them<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    lab.host.command("ip", &["link", "set", "dev", &lab.uplink(), "mtu", "1400"]);
    let outside = lab.ext.listen(lab.everywhere(90)).expect("listening");
    // How much goes out at once is for the kernel's congestion control to say: the first may be one segment alone.
    let is_large = (0..10).any(|_| {
        lab.ip(&c1.place, "route flush cache");
        told_of_a_stream(&lab, &c1, &outside) > 1500 + ETHERNET
    });
    assert!(is_large, "segments that the device was to make");
}

/// Sends a stream that does not fit; how long the frame was that the gateway's error is about, whose beginning it quotes.
fn told_of_a_stream(lab: &Lab, c1: &Container, outside: &TcpListener) -> usize {
    let client = c1.place.connect(lab.at_ext(90)).expect("connected");
    let (server, _) = outside.accept().expect("a connection waits");
    server.set_read_timeout(Some(soon())).expect("a timeout");
    let inside = Link::open(&c1.place, "eth0");
    transfer(&client, &server, 1 << 20).expect("it arrives");
    let mut sent: Vec<Vec<u8>> = Vec::new();
    let what = IcmpError::fragmentation_needed(1400);
    let error = inside.find(soon(), |frame| {
        let headers = Headers::read(frame)?;
        if headers.source == c1.ip {
            sent.push(frame.to_vec());
        }
        let message = &frame[headers.transport];
        let is_it = headers.protocol == icmp(headers.source) && message[..2] == what.kind_and_code(headers.source);
        is_it.then(|| frame.to_vec())
    });
    let error = error.expect("the gateway says what fits");
    let quote = quoted(&error);
    sent.iter().find(|frame| frame[ETHERNET..].starts_with(quote)).expect("it quotes what was sent").len()
}

fn somebody_outside_is_told_whoever_sums_up_what_it_has_sent<F: TestFamily>() {
    for offloads in [Offloads::On, Offloads::HostTxChecksumOff, Offloads::Off] {
        let lab = Lab::new::<F>();
        let _c1 = lab.container("c1", &["-p", "5353:53/udp", "-p", "8080:80"]);
        lab.offloads(offloads);
        let wire = lab.ext_link();
        for payload in [&LONG[..], &LONG[..1]] {
            let socket = lab.ext.any_udp();
            listen_for_errors(&socket);
            set_hops(&socket, 1);
            socket.send_to(payload, lab.at_host(5353)).expect("sent");
            let error = next(&wire, IcmpError::TIME_EXCEEDED).expect("on the wire");
            // A veth with offloads leaves the quoted checksum unwritten, for which the error's own makes up.
            let is_written = offloads != Offloads::On;
            assert!(
                is_header_sound(&error) && (!is_written || is_transport_sound(&error)),
                "{offloads:?}: {error:02x?}"
            );
            let told = next_error(&socket, soon()).unwrap_or_else(|| panic!("{offloads:?}: nobody is told"));
            let kind = IcmpError::TIME_EXCEEDED.kind_and_code(lab.ext_ip);
            assert_eq!(([told.kind, told.code], told.offender), (kind, Some(lab.host_ip)), "{offloads:?}");
        }
    }
}

for_both!(
    what_the_gateway_says_of_a_long_packet_quotes_as_much_of_it_as_an_error_may,
    a_process_is_told_that_nobody_has_an_address_whoever_sums_up_what_it_has_sent,
    a_stream_of_large_segments_is_told_what_fits_with_the_beginning_of_one_of_them,
    somebody_outside_is_told_whoever_sums_up_what_it_has_sent,
);
