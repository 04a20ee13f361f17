//! From bytes to what identifies a flow.

use super::{Family, Ip, Packet, verdict::Outcome};
use crate::abi::{DropReason, FlowKey, Scope};
use crate::wire::{Be16, Ethernet, IcmpV4, Kind, L4, Ports, Tcp, protocol};

/// An IP packet as the paths see it.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<F: Family> {
    /// The Ethernet header.
    pub ethernet: Ethernet,
    /// The IP header.
    pub ip: Ip<F::Addr>,
    /// The transport header.
    pub l4: L4,
}

impl<F: Family> Parsed<F> {
    /// Offset of the transport header in the frame, in bytes.
    #[inline(always)]
    pub fn l4_at(&self) -> u32 {
        Ethernet::LEN + self.ip.header_len
    }

    /// The key of the packet's flow.
    #[inline(always)]
    pub fn key(&self, scope: Scope) -> FlowKey<F::Addr> {
        let Ports { sport, dport } = self.l4.ports;
        FlowKey::new(scope, self.ip.proto, self.ip.src, sport, self.ip.dst, dport)
    }

    /// Length of the largest IP packet this becomes on a wire: of one segment if it is GSO.
    #[inline(always)]
    pub fn segment_len(&self, gso_size: u32) -> u32 {
        if gso_size == 0 { self.ip.total_len } else { self.ip.header_len + u32::from(self.l4.header_len) + gso_size }
    }
}

/// Reads the headers behind an Ethernet header. Ports of a fragment are not read, since only the
/// first has them: its transport is [`Kind::Other`].
#[inline(always)]
pub fn parse<F: Family, P: Packet>(packet: &P, ethernet: Ethernet) -> Outcome<Parsed<F>> {
    let ip = F::parse(packet, Ethernet::LEN)?;
    let l4 = if ip.is_fragment { L4::new(Kind::Other, Ports::default()) } else { transport::<F, P>(packet, &ip)? };
    Ok(Parsed { ethernet, ip, l4 })
}

#[inline(always)]
fn transport<F: Family, P: Packet>(packet: &P, ip: &Ip<F::Addr>) -> Outcome<L4> {
    let at = Ethernet::LEN + ip.header_len;
    let payload = ip.total_len - ip.header_len;
    let need = |len: u32| if payload < len { Err(DropReason::Malformed) } else { Ok(()) };
    match ip.proto {
        protocol::TCP => {
            need(Tcp::LEN)?;
            let ports = packet.read(at).ok_or(DropReason::Malformed)?;
            let control: Be16 = packet.read(at + Tcp::CONTROL_AT).ok_or(DropReason::Malformed)?;
            let header_len = (control.get() >> 12) * 4;
            Ok(L4 { tcp_flags: control.get() as u8, header_len, ..L4::new(Kind::Tcp, ports) })
        }
        protocol::UDP => {
            need(8)?;
            Ok(L4::new(Kind::Udp, packet.read(at).ok_or(DropReason::Malformed)?))
        }
        protocol::SCTP => {
            need(12)?;
            Ok(L4::new(Kind::Sctp, packet.read(at).ok_or(DropReason::Malformed)?))
        }
        proto if proto == F::ICMP => {
            need(IcmpV4::LEN)?;
            let icmp: IcmpV4 = packet.read(at).ok_or(DropReason::Malformed)?;
            if icmp.kind == F::ECHO_REQUEST {
                Ok(L4::new(Kind::EchoRequest, Ports { sport: icmp.id, dport: Be16::ZERO }))
            } else if icmp.kind == F::ECHO_REPLY {
                Ok(L4::new(Kind::EchoReply, Ports { sport: Be16::ZERO, dport: icmp.id }))
            } else {
                Ok(L4::new(Kind::Icmp, Ports::default()))
            }
        }
        _ => Ok(L4::new(Kind::Other, Ports::default())),
    }
}
