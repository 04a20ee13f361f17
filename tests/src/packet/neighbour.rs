//! Who has an address: ARP and neighbour discovery.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType};

use super::{Ethernet, Mac};

/// The hop limit that shows that no router has passed a message on (RFC 4861).
pub const ON_LINK: u8 = 255;

impl Ethernet {
    /// "Who has `target`? Tell `sender`."
    pub fn arp_request(self, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        self.arp(ArpOperation::REQUEST, self.from, sender, [0; 6], target)
    }

    /// "`sender` is at this frame's source address", said to `target`.
    pub fn arp_reply(self, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        self.arp(ArpOperation::REPLY, self.from, sender, self.to, target)
    }

    /// An ARP packet that says whatever it likes.
    pub fn arp(
        self,
        operation: ArpOperation,
        sender_mac: Mac,
        sender: Ipv4Addr,
        target_mac: Mac,
        target: Ipv4Addr,
    ) -> Vec<u8> {
        let packet = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            operation,
            &sender_mac,
            &sender.octets(),
            &target_mac,
            &target.octets(),
        );
        let builder = self.builder().arp(packet.expect("addresses of equal lengths"));
        let mut frame = Vec::with_capacity(builder.size());
        builder.write(&mut frame).expect("a Vec takes all");
        frame
    }

    /// "Who has `target`?", asked by `from` (RFC 4861 section 4.3).
    pub fn solicitation(self, from: IpAddr, to: IpAddr, ttl: u8, target: Ipv6Addr) -> Vec<u8> {
        const SOURCE_MAC: u8 = 1;
        let mut body = [&[0; 4][..], &target.octets()].concat();
        // Who has no address yet must not say where it is.
        if from != IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            body.extend([SOURCE_MAC, 1]);
            body.extend(self.from);
        }
        self.icmp_v6(from, to, ttl, 135, &body)
    }

    /// "`target` is at this frame's source address" (RFC 4861 section 4.4), with [`advertised`] flags.
    pub fn advertisement(self, from: IpAddr, to: IpAddr, flags: u8, target: Ipv6Addr) -> Vec<u8> {
        const TARGET_MAC: u8 = 2;
        let body = [&[flags, 0, 0, 0][..], &target.octets(), &[TARGET_MAC, 1], &self.from].concat();
        self.icmp_v6(from, to, ON_LINK, 136, &body)
    }
}

/// Flags of an advertisement.
pub mod advertised {
    /// The sender is a router.
    pub const ROUTER: u8 = 0x80;
    /// Somebody has asked.
    pub const SOLICITED: u8 = 0x40;
    /// What was known before is to be forgotten.
    pub const OVERRIDE: u8 = 0x20;
}

/// The group in which who has an address is asked, and its MAC address (RFC 4291 section 2.7.1, RFC 2464 section 7).
pub const fn solicited_node(address: Ipv6Addr) -> (IpAddr, Mac) {
    let [.., a, b, c] = address.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a as u16, (b as u16) << 8 | c as u16);
    (IpAddr::V6(group), [0x33, 0x33, 0xff, a, b, c])
}
