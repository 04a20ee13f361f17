//! Where netbpf is meant to differ from conntrack and Docker's rules, and why.

use netbpf_tests::version::Version;

use super::record::{Difference, SILENT};
use super::stage::QUIET_INSIDE;

/// A difference that is meant.
pub(super) struct Meant {
    pub(super) name: &'static str,
    /// The families in which it shows.
    pub(super) families: &'static [Version],
    /// Why netbpf does it its way.
    pub(super) reason: &'static str,
    /// Beginnings of the names of the exchanges in which it shows.
    pub(super) about: &'static [&'static str],
    pub(super) is: fn(&Difference) -> bool,
}

impl Meant {
    pub(super) fn explains(&self, difference: &Difference) -> bool {
        self.about.iter().any(|about| difference.exchange.starts_with(about)) && (self.is)(difference)
    }
}

const BOTH: &[Version] = &[Version::V4, Version::V6];
const V4: &[Version] = &[Version::V4];
const V6: &[Version] = &[Version::V6];

/// All of them.
pub(super) const MEANT: &[Meant] = &[
    Meant {
        name: "nothing leaves with a container's address",
        families: BOTH,
        reason: "what conntrack calls invalid is not translated and passes Docker's rules as it is; netbpf translates all \
                 that it lets out, and leaves the judgement of windows, flags and checksums to the receiver",
        about: &[
            "segment, ",
            "frame, masqueraded: udp with a wrong checksum",
            "frame, masqueraded: a UDP length within the packet",
            "frame, masqueraded: no next header",
            "frame, masqueraded: a SYN",
            "frame, masqueraded: a ACK",
            "frame, masqueraded: a RST",
            "frame, masqueraded: sctp",
        ],
        is: is_untranslated,
    },
    Meant {
        name: "segments out of order reach the receiver",
        families: BOTH,
        reason: "netbpf keeps no windows and no handshake: the receiver's TCP judges (RFC 9293, RFC 5961). Conntrack \
                 takes such a segment from the container, and the host answers it with a reset in the container's name",
        about: &["segment, "],
        is: |it| {
            let point_is_known = !it.exchange.contains(", nothing: ");
            point_is_known
                && (is_new(it, "tcp ext:", " > c1:") || it.netbpf == SILENT && is_reset_of_host(&it.nftables))
        },
    },
    Meant {
        name: "a reset or a SYN-ACK opens nothing",
        families: BOTH,
        reason: "netbpf drops what answers nothing (`no-flow`); Docker's rules let it out with the container's address",
        about: &["segment, Published, nothing: ", "segment, Masqueraded, nothing: "],
        is: |it| it.netbpf == SILENT && it.nftables.starts_with("tcp c1:"),
    },
    Meant {
        name: "no connection is picked up midway from outside",
        families: BOTH,
        reason: "a published port is opened by a SYN; conntrack takes any ACK as the middle of a connection it has missed \
                 (nf_conntrack_tcp_loose) and leads it in, where netbpf lets the host's stack answer with a reset",
        about: &["segment, Published, nothing: ACK", "segment, Published, nothing: data"],
        is: |it| {
            let is_led_in = it.netbpf == SILENT && it.nftables.starts_with("tcp ext:");
            is_led_in || it.nftables == SILENT && is_reset_of_host(&it.netbpf)
        },
    },
    Meant {
        name: "a SYN with a FIN is a SYN",
        families: BOTH,
        reason: "RFC 9293 lets it open a connection, and the receiver may refuse it; conntrack calls it invalid",
        about: &["segment, Published, nothing: SYN-FIN"],
        is: |it| is_new(it, "tcp ext:", " > c1:") || it.netbpf == SILENT && is_reset_of_host(&it.nftables),
    },
    Meant {
        name: "a server calls back from its published port",
        families: BOTH,
        reason: "a closed connection keeps its translation for a while, also for a new one the other way round; conntrack \
                 makes a new one, under the container's own port",
        about: &["segment, Published, closed: SYN of the responder"],
        is: |it| {
            let is_from =
                |seen: &str, port| seen.starts_with(&format!("tcp host:{port} > ext:")) && seen.contains(" [S] ");
            is_from(&it.netbpf, 8090) && is_from(&it.nftables, QUIET_INSIDE)
        },
    },
    Meant {
        name: "own errors quote eight bytes",
        families: V4,
        reason: "RFC 792 asks for no more, and a packet can be cut in place; Linux quotes what fits into 576 bytes",
        about: &["frame, masqueraded: udp with ttl ", "frame, published: udp with ttl "],
        is: |it| it.netbpf == it.nftables.replace(" 10 bytes>", ">") && it.netbpf.contains(" type 11 code 0 "),
    },
    Meant {
        name: "own errors quote the ports and little more",
        families: V6,
        reason: "RFC 4443 section 2.4 wants as much as fits into 1280 bytes, whose sum is in the checksum, and a program adds up \
                 124 at the most: 28 behind the header, whole words. Who has sent the packet knows it by that",
        about: &["frame, masqueraded: udp with ttl ", "frame, published: udp with ttl "],
        is: |it| it.netbpf == it.nftables.replace(" 10 bytes>", ">") && it.netbpf.contains(" type 3 code 0 "),
    },
    Meant {
        name: "checksums are the receiver's affair",
        families: BOTH,
        reason: "a translation changes a checksum by a difference, so that a wrong one stays wrong and the receiver \
                 counts it; conntrack adds up every packet and leaves wrong ones to the host",
        about: &["frame, published: "],
        is: |it| {
            // A checksum of IPv6, which is that of the uncut datagram there.
            let is_sum_wrong =
                ["wrong checksum", "UDP length within the packet"].iter().any(|what| it.exchange.ends_with(what));
            let is_damaged = is_sum_wrong && it.netbpf.contains("BAD CHECKSUM")
                || it.exchange.ends_with("wrong IP checksum") && it.netbpf.contains("BAD IP CHECKSUM");
            is_damaged && it.nftables == SILENT
        },
    },
    Meant {
        name: "IP options are not translated",
        families: V4,
        reason: "source routes lead past the checks, and nothing that containers run needs any of the others \
                 (`ip-option`); from outside the host's stack has the packet, where nobody listens",
        about: &["frame, published: ", "frame, masqueraded: ", "frame, between containers: "],
        is: |it| {
            let has_options = it.exchange.ends_with("record route") || it.exchange.ends_with("source route");
            has_options && (it.netbpf == SILENT || it.netbpf.starts_with("icmp host > ext type 3 code 3"))
        },
    },
    Meant {
        name: "an echo reply opens nothing",
        families: BOTH,
        reason: "netbpf drops it (`no-flow`); conntrack calls it invalid and Docker's rules let it pass, towards \
                 the world with the container's address",
        about: &["frame, masqueraded: an echo reply", "frame, between containers: an echo reply"],
        is: |it| it.netbpf == SILENT && it.nftables.starts_with("icmp c1 > "),
    },
    Meant {
        name: "a reply that the host may have asked for keeps its hops",
        families: BOTH,
        reason: "nothing tells whose identifier it bears: the host gets it as it came, and the container a copy of that",
        about: &["frame, masqueraded: an echo request", "frame, masqueraded: an ICMP timestamp request"],
        is: |it| it.aspect == "comes back" && it.netbpf.replace(" ttl 64", " ttl 63") == it.nftables,
    },
    Meant {
        name: "headers are whole",
        families: BOTH,
        reason: "netbpf drops a packet whose lengths do not fit (`malformed`) wherever it comes by; conntrack calls it \
                 invalid and Docker's rules let it pass, towards the world with the container's address",
        about: &["frame, masqueraded: ", "frame, between containers: "],
        is: |it| {
            let what = ["udp cut in", "an IP length within", "an IP length of 0", "a UDP length", "a TCP header"];
            let is_damaged = what.iter().any(|what| it.exchange.contains(&format!(": {what}")));
            is_damaged && it.netbpf == SILENT && it.nftables.contains(" c1:")
        },
    },
    Meant {
        name: "no container speaks for another",
        families: BOTH,
        reason: "netbpf compares the source address with the container's (`spoofed-address`); on a bridge anybody may \
                 take a neighbour's",
        about: &["frame, from c1 as c2 to ext"],
        is: |it| it.netbpf == SILENT,
    },
    Meant {
        name: "127.0.0.1 on the wire is a martian",
        families: V4,
        reason: "Docker needs `route_localnet` to lead 127.0.0.1 to containers, and with it takes such packets from \
                 containers; netbpf leads at connect() and needs no such packet",
        about: &["frame, from c1 to loopback"],
        is: |it| it.netbpf == SILENT,
    },
    Meant {
        name: "::1 on the wire is a martian",
        families: V6,
        reason: "RFC 4291 section 2.5.3 has it dropped. The rules are asked on the bridge, before the host's IPv6 looks at the \
                 address, and lead to the published port",
        about: &["frame, from c1 to loopback"],
        is: |it| it.netbpf == SILENT && it.aspect == "comes back" && it.nftables.starts_with("udp gateway:"),
    },
    Meant {
        name: "sources are checked",
        families: V6,
        reason: "Linux filters by reverse paths in IPv4 alone, and Docker's rules do not in IPv6; netbpf takes nothing from a \
                 container but under its own address (`spoofed-address`), and nothing from outside as a container or the host",
        about: &["frame, from outside as ", "frame, from c1 as the host to ext", "frame, from c1 as a stranger to ext"],
        is: |it| it.netbpf == SILENT && it.nftables.starts_with("udp "),
    },
    Meant {
        name: "stops on the way are not visited",
        families: V6,
        reason: "a routing header leads past the checks as source routes do (`ip-option`; RFC 5095 forbids type 0); from \
                 outside the host's stack has the packet, and refuses it",
        about: &["frame, published: udp with a routing header", "frame, masqueraded: ", "frame, between containers: "],
        is: |it| {
            let has_stop = it.exchange.ends_with("udp with a routing header with a stop");
            has_stop && (it.netbpf == SILENT || it.netbpf.starts_with("icmp host > ext type 4 code 0"))
        },
    },
    Meant {
        name: "nothing but the payload is behind a fragment header",
        families: V6,
        reason: "what stands there is missing from the later fragments, so that none can be told by it (`extension-headers`); \
                 conntrack puts the packet together. From outside the host's stack has it, where nobody listens",
        about: &["frame, published: udp with options", "frame, masqueraded: ", "frame, between containers: "],
        is: |it| {
            let has_options = it.exchange.ends_with("udp with options behind a fragment header");
            has_options && (it.netbpf == SILENT || it.netbpf.starts_with("icmp host > ext type 1 code 4"))
        },
    },
    Meant {
        name: "an atomic fragment stays one",
        families: V6,
        reason: "conntrack puts it together and takes its header off with that; netbpf leaves it to the receiver (RFC 6946)",
        about: &["frame, published: ", "frame, masqueraded: ", "frame, between containers: "],
        is: |it| {
            let is_atomic = it.exchange.ends_with("udp with an atomic fragment");
            is_atomic && it.netbpf.strip_suffix(" with extension headers") == Some(&it.nftables)
        },
    },
    Meant {
        name: "240.0.0.0/4 is nowhere",
        families: V4,
        reason: "reserved (RFC 1112): Linux forwards it nevertheless",
        about: &["frame, from c1 to nowhere"],
        is: |it| it.netbpf == SILENT,
    },
    Meant {
        name: "an error about nothing goes nowhere",
        families: BOTH,
        reason: "netbpf drops an ICMP error of a container that is about no flow (`icmp-error`); Docker's rules let it out \
                 with the container's address",
        about: &["quote, no flow"],
        is: |it| it.netbpf == SILENT && it.nftables.starts_with("icmp c1 > ext"),
    },
    Meant {
        name: "there is no wire between containers",
        families: BOTH,
        reason: "devices of containers, and the host's towards them, take 65535 bytes, so that nothing is cut up that stays on \
                 the machine; Docker's bridge and devices have 1500",
        about: &[
            "error for c1 about a closed port of c2",
            "error for c1 about nobody",
            "error for the host about a closed port of c1",
        ],
        is: |it| it.aspect == "the MTU of the way" && it.netbpf == "65535" && it.nftables == "1500",
    },
    Meant {
        name: "the host's own clients go by a device",
        families: V6,
        reason: "connect() is led to an address behind netbpf0, whose MTU is that of the containers; with nftables the \
                 socket believes in the MTU of lo",
        about: &["error for the host about a published port without listener"],
        is: |it| {
            // That of lo, which IPv4 cannot use up.
            it.aspect == "the MTU of the way" && it.netbpf == "65535" && it.nftables == "65536"
        },
    },
    Meant {
        name: "the host fragments nothing",
        families: V4,
        reason: "BPF cannot: what is too large for the way out is answered with the size that fits, whatever \
                 don't-fragment says, and the container fragments from then on",
        about: &["narrow wire, c1 to ext, always in fragments"],
        is: |it| {
            it.netbpf == SILENT || it.aspect.ends_with(": c1 is told") || it.aspect.ends_with("the MTU of the way")
        },
    },
    Meant {
        name: "the error queue tells virtual addresses",
        families: BOTH,
        reason: "a socket of the host that was led at sendmsg() hears of an error from the virtual address: of the names that \
                 recvmsg() gives, netbpf can change all but those of MSG_ERRQUEUE, where the kernel asks no hook",
        about: &["error for the host about a published port without listener"],
        is: |it| it.aspect == "told" && it.netbpf.replace("virtual host", "host") == it.nftables,
    },
    Meant {
        name: "source quench is forgotten",
        families: V4,
        reason: "RFC 6633 deprecates it, and it was used to slow others down; Linux translates it and ignores it",
        about: &["quote, Published", "quote, Masqueraded"],
        is: |it| it.exchange.contains(": type 4 code 0 ") && it.aspect == "arrives" && it.netbpf == SILENT,
    },
    Meant {
        name: "what is translated is answered",
        families: BOTH,
        reason: "SCTP with a wrong checksum leaves translated, and ext says that it has no such protocol; what left with \
                 the container's address was answered to nobody",
        about: &["frame, masqueraded: sctp"],
        is: |it| {
            let is_told = ["3 code 2 ", "4 code 1 "].map(|what| format!("icmp ext > c1 type {what}"));
            it.aspect == "comes back" && it.nftables == SILENT && is_told.iter().any(|told| it.netbpf.starts_with(told))
        },
    },
    Meant {
        name: "tiny first fragments are lost",
        families: BOTH,
        reason: "no stack makes one, and filters have been passed by them (RFC 1858, `tiny-fragment`); conntrack puts the \
                 segment together",
        about: &["fragments, published: a SYN with its flags", "fragments, masqueraded: a SYN with its flags"],
        is: |it| it.netbpf == SILENT,
    },
    Meant {
        name: "a first fragment goes at once",
        families: BOTH,
        reason: "nobody waits for the others: the one that overlaps it is lost (RFC 3128, `overlapping-fragment`), and the \
                 receiver has nothing to put together",
        about: &["fragments, published: a SYN whose second", "fragments, masqueraded: a SYN whose second"],
        is: |it| it.nftables == SILENT && it.netbpf.contains(" first of fragments") && !it.netbpf.contains(" | "),
    },
    Meant {
        name: "fragments go as they come",
        families: BOTH,
        reason: "conntrack puts datagrams together and cuts them again, so that they leave in order and whole; netbpf \
                 translates each as it is, and the receiver puts them together",
        about: &["fragments, "],
        is: |it| it.aspect == "frames",
    },
];

/// Whether nftables lets out with the container's address what netbpf translates, and is otherwise the same.
fn is_untranslated(it: &Difference) -> bool {
    let (Some((ours, our_rest)), Some((theirs, their_rest))) =
        (it.netbpf.split_once(" > "), it.nftables.split_once(" > "))
    else {
        return false;
    };
    let sender = |head: &str| head.split([' ', ':']).filter(|word| matches!(*word, "host" | "c1")).count() == 1;
    let is_of = |head: &str, name| sender(head) && head.split([' ', ':']).any(|word| word == name);
    is_of(ours, "host") && is_of(theirs, "c1") && our_rest == their_rest
}

/// Whether netbpf alone lets one packet between these through.
fn is_new(it: &Difference, from: &str, to: &str) -> bool {
    it.nftables == SILENT && it.netbpf.starts_with(from) && it.netbpf.contains(to) && !it.netbpf.contains(" | ")
}

/// Whether the host's own stack has sent a reset and nothing else.
fn is_reset_of_host(seen: &str) -> bool {
    seen.starts_with("tcp host:") && (seen.contains(" [R] ") || seen.contains(" [RA] ")) && !seen.contains(" | ")
}
