//! What a hook is given, as the paths see it: a TC skb and the ways it can leave, and the address a
//! socket is called with. With `maps` all that has unsafe code.
//!
//! Soundness: contexts are only ever made by the kernel, which passes a valid `__sk_buff` or
//! `bpf_sock_addr`; fields are read as the verifier rewrites them. Packet bytes are touched only between
//! `data` and `data_end`, which are read anew for every access, since helpers move them.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
    bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1, bpf_sock, bpf_sock_addr,
};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_csum_update, bpf_get_netns_cookie, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh,
    bpf_redirect_peer, bpf_set_retval, bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_proto,
    bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
};
use aya_ebpf::programs::{SockAddrContext, TcContext};
use bytemuck::Pod;
use netbpf_common::abi::{HELD_LEN, HeldFrame, NextHop, Transport};
use netbpf_common::path::{Family, Packet, V4, V6, World as _};
use netbpf_common::wire::{Address as _, Be16, Be32, Checksum, Ethernet, V4Addr, V6Addr, checksum::Delta};

use crate::maps::Maps;

/// Addressed to the device it came in by (include/uapi/linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// Longest headers that are always read: Ethernet, IPv4 with options, TCP without. A SYN, of which the options are read, is
/// never spread over pages.
const HEADERS: u32 = 14 + 60 + 20;

/// BPF_F_IPV6 of `bpf_l4_csum_replace`: the header has no checksum that makes up for the addresses.
const IPV6: u64 = 1 << 7;

/// [`IPV6`] where the kernel knows it, which the agent probes before it loads the programs; else zero.
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
static IPV6_CHECKSUM_FLAG: u64 = 0;

#[inline(always)]
fn ipv6_flag() -> u64 {
    // SAFETY: a static; volatile, since the agent sets it in the object.
    unsafe { (&raw const IPV6_CHECKSUM_FLAG).read_volatile() }
}

/// A TC skb.
pub(crate) struct Skb {
    skb: *mut __sk_buff,
}

impl Skb {
    /// The packet of a hook, its headers in reach.
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        let skb = Self { skb: ctx.as_ptr().cast() };
        skb.pull(HEADERS);
        skb
    }

    #[inline(always)]
    fn pull(&self, len: u32) {
        let (data, end) = self.bounds();
        let want = self.frame_len().min(len);
        if data + want as usize > end {
            // SAFETY: the skb is valid; on failure the bounds stay, and reads beyond them fail.
            unsafe { bpf_skb_pull_data(self.skb, want) };
        }
    }

    /// Takes a frame that was addressed to another MAC for our own: one between neighbours, which
    /// kernels before 6.15 would deliver as PACKET_OTHERHOST and drop.
    #[inline(always)]
    pub(crate) fn claim(&mut self) {
        if !self.is_for_us() {
            // SAFETY: the skb is valid.
            unsafe { bpf_skb_change_type(self.skb, PACKET_HOST) };
        }
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the skb is valid.
        unsafe { ((*self.skb).data as usize, (*self.skb).data_end as usize) }
    }

    #[inline(always)]
    fn pointer<T>(&self, at: u32) -> Option<*mut T> {
        let (data, end) = self.bounds();
        let start = data + at as usize;
        if start + size_of::<T>() > end { None } else { Some(start as *mut T) }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn frame_len(&self) -> u32 {
        // SAFETY: the skb is valid.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: the skb is valid.
        unsafe { (*self.skb).gso_size }
    }

    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        // SAFETY: the skb is valid.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn is_for_us(&self) -> bool {
        // SAFETY: the skb is valid.
        unsafe { (*self.skb).pkt_type == PACKET_HOST }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the skb is valid.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: the skb is valid.
        unsafe { (*self.skb).ingress_ifindex }
    }

    #[inline(always)]
    fn reach(&mut self, len: u32) {
        self.pull(len);
    }

    #[inline(always)]
    fn read<T: Pod>(&self, at: u32) -> Option<T> {
        let pointer = self.pointer::<T>(at)?;
        // SAFETY: inside the packet; any bytes are a T. The machines BPF runs on load unaligned
        // words, and an unaligned read in the BPF target's sense would be one byte at a time.
        Some(unsafe { *pointer })
    }

    #[inline(always)]
    fn write<T: Pod>(&mut self, at: u32, header: T) -> Option<()> {
        let pointer = self.pointer::<T>(at)?;
        // SAFETY: as in `read`; the kernel has made the skb's head private to a program that writes.
        unsafe { *pointer = header };
        Some(())
    }

    #[inline(always)]
    fn update_checksum<F: Family>(
        &mut self,
        l4: u32,
        checksum: Checksum,
        addresses: Delta,
        ports: Delta,
    ) -> Option<()> {
        let at = l4 + checksum.at;
        let flags = if checksum.optional { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let update = |delta: Delta, flags: u64| {
            // SAFETY: the skb is valid; an offset outside makes the helper fail.
            let result = unsafe { bpf_l4_csum_replace(self.skb, at, 0, u64::from(delta.raw()), flags) };
            if result < 0 { None } else { Some(()) }
        };
        if checksum.pseudo_header && addresses != Delta::NONE {
            let flags = flags | u64::from(BPF_F_PSEUDO_HDR);
            if F::HEADER_HAS_CHECKSUM {
                update(addresses, flags)?;
            } else {
                let own = ipv6_flag();
                update(addresses, flags | own)?;
                if own == 0 {
                    // The kernel has taken a header with a checksum for granted, which makes up for the addresses in the
                    // sum of the whole packet (net/core/utils.c, inet_proto_csum_replace_by_diff). It fails where the
                    // device has left no such sum, and there is nothing to put right.
                    // SAFETY: the skb is valid.
                    unsafe { bpf_csum_update(self.skb, addresses.raw()) };
                }
            }
        }
        if ports != Delta::NONE {
            update(ports, flags)?;
        }
        Some(())
    }

    #[inline(always)]
    fn send_copy(&mut self, ifindex: u32) -> Option<()> {
        // SAFETY: the skb is valid.
        let result = unsafe { bpf_clone_redirect(self.skb, ifindex, 0) };
        if result < 0 { None } else { Some(()) }
    }

    #[inline(always)]
    fn save(&self, copy: &mut HeldFrame) -> Option<()> {
        let len = self.frame_len();
        if len == 0 || len > HELD_LEN as u32 {
            return None;
        }
        copy.len = len;
        // SAFETY: the skb is valid, and the copy has room for so many bytes.
        let result = unsafe { bpf_skb_load_bytes(self.skb.cast(), 0, copy.bytes.as_mut_ptr().cast(), len) };
        if result < 0 { None } else { Some(()) }
    }

    #[inline(always)]
    fn restore(&mut self, copy: &HeldFrame) -> Option<()> {
        let len = copy.len;
        if len == 0 || len > HELD_LEN as u32 {
            return None;
        }
        self.resize(len)?;
        // SAFETY: the skb is valid and as long as this, and so is the copy.
        let result = unsafe {
            bpf_skb_store_bytes(self.skb.cast(), 0, copy.bytes.as_ptr().cast(), len, u64::from(BPF_F_RECOMPUTE_CSUM))
        };
        if result < 0 { None } else { Some(()) }
    }

    #[inline(always)]
    fn receive_again(&mut self) -> Option<()> {
        // SAFETY: the skb is valid.
        let result = unsafe { bpf_clone_redirect(self.skb, self.ifindex(), u64::from(BPF_F_INGRESS)) };
        if result < 0 { None } else { Some(()) }
    }

    #[inline(always)]
    fn change_header<F: Family>(&mut self, header: &F::Header) -> Option<()> {
        // SAFETY: the skb is valid.
        let result = unsafe { bpf_skb_change_proto(self.skb, F::ETHERTYPE.raw(), 0) };
        if result < 0 {
            return None;
        }
        let (header, len) = (core::ptr::from_ref(header).cast(), size_of::<F::Header>() as u32);
        // SAFETY: the skb is valid, and the header as long as this.
        let result = unsafe {
            bpf_skb_store_bytes(self.skb.cast(), Ethernet::LEN, header, len, u64::from(BPF_F_RECOMPUTE_CSUM))
        };
        if result < 0 { None } else { Some(()) }
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> Option<()> {
        // SAFETY: the skb is valid.
        let result = unsafe { bpf_skb_change_tail(self.skb, len, 0) };
        if result < 0 { None } else { Some(()) }
    }

    #[inline(always)]
    fn insert_header(&mut self, len: u32) -> Option<()> {
        // SAFETY: the skb is valid.
        let result = unsafe { bpf_skb_adjust_room(self.skb, len as i32, BPF_ADJ_ROOM_MAC, 0) };
        if result < 0 { None } else { Some(()) }
    }
}

/// No header is read or written beyond this, in bytes: for the verifier, which does not know that what is taken off an offset
/// was in it.
const LONGEST: u32 = 0xfff;

/// A TC skb of a device without Ethernet headers (tun, WireGuard, PPP). Paths see it as a frame like
/// any other; it becomes one when its Ethernet header is written, which is before it goes anywhere else.
pub(crate) struct Bare {
    pub(crate) skb: Skb,
    framed: bool,
}

impl Bare {
    /// The packet of a hook, its headers in reach.
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        Self { skb: Skb::new(ctx), framed: false }
    }

    /// Offset in the skb of an offset in the frame.
    #[inline(always)]
    fn place(&self, at: u32) -> u32 {
        if self.framed { at } else { at.wrapping_sub(Ethernet::LEN) & LONGEST }
    }

    /// The header that an Ethernet device would have received.
    #[inline(always)]
    fn header(&self) -> Ethernet {
        // SAFETY: the skb is valid; the EtherType is in network order in the lower half.
        let ethertype = Be16::from_raw(unsafe { (*self.skb.skb).protocol } as u16);
        Ethernet { ethertype, ..Ethernet::default() }
    }
}

impl Packet for Bare {
    const HAS_ETHERNET: bool = false;

    #[inline(always)]
    fn frame_len(&self) -> u32 {
        self.skb.frame_len() + if self.framed { 0 } else { Ethernet::LEN }
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        self.skb.gso_size()
    }

    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        self.skb.has_vlan_tag()
    }

    #[inline(always)]
    fn is_for_us(&self) -> bool {
        self.skb.is_for_us()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.skb.ifindex()
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        self.skb.ingress_ifindex()
    }

    #[inline(always)]
    fn reach(&mut self, len: u32) {
        let len = self.place(len);
        self.skb.reach(len);
    }

    #[inline(always)]
    fn read<T: Pod>(&self, at: u32) -> Option<T> {
        if at == 0 && !self.framed {
            return bytemuck::try_cast(self.header()).ok();
        }
        self.skb.read(self.place(at))
    }

    #[inline(always)]
    fn write<T: Pod>(&mut self, at: u32, header: T) -> Option<()> {
        if at == 0 && !self.framed {
            // SAFETY: the skb is valid.
            if unsafe { bpf_skb_change_head(self.skb.skb, Ethernet::LEN, 0) } < 0 {
                return None;
            }
            self.framed = true;
        }
        self.skb.write(self.place(at), header)
    }

    #[inline(always)]
    fn update_checksum<F: Family>(
        &mut self,
        l4: u32,
        checksum: Checksum,
        addresses: Delta,
        ports: Delta,
    ) -> Option<()> {
        let l4 = self.place(l4);
        self.skb.update_checksum::<F>(l4, checksum, addresses, ports)
    }

    #[inline(always)]
    fn send_copy(&mut self, ifindex: u32) -> Option<()> {
        self.skb.send_copy(ifindex)
    }

    #[inline(always)]
    fn save(&self, copy: &mut HeldFrame) -> Option<()> {
        self.skb.save(copy)
    }

    #[inline(always)]
    fn restore(&mut self, copy: &HeldFrame) -> Option<()> {
        self.skb.restore(copy)
    }

    #[inline(always)]
    fn receive_again(&mut self) -> Option<()> {
        self.skb.receive_again()
    }

    #[inline(always)]
    fn change_header<F: Family>(&mut self, header: &F::Header) -> Option<()> {
        // Without its Ethernet header the kernel would take it for something else.
        if self.framed { self.skb.change_header::<F>(header) } else { None }
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> Option<()> {
        let len = self.place(len);
        self.skb.resize(len)
    }

    #[inline(always)]
    fn insert_header(&mut self, len: u32) -> Option<()> {
        self.skb.insert_header(len)
    }
}

/// Into the namespace behind a host-side device.
#[inline(always)]
pub(crate) fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: plain numbers; the kernel drops the packet if there is no such device.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Out of a device, or into it as if it had come from outside.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32, ingress: bool) -> i32 {
    let flags = if ingress { u64::from(BPF_F_INGRESS) } else { 0 };
    // SAFETY: plain numbers; the kernel drops the packet if there is no such device.
    unsafe { bpf_redirect(ifindex, flags) as i32 }
}

/// Out of a device to a neighbour that the kernel resolves.
#[inline(always)]
pub(crate) fn redirect_neighbour(ifindex: u32, next_hop: NextHop) -> i32 {
    let mut neighbour = bpf_redir_neigh {
        nh_family: next_hop.family,
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: next_hop.address.map(|word| word.raw()) },
    };
    // SAFETY: the struct lives on the stack and has the size that is named.
    unsafe { bpf_redirect_neigh(ifindex, &raw mut neighbour, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

/// The call of an IPv4 socket.
pub(crate) type Sock4 = Sock<false>;
/// The call of an IPv6 socket.
pub(crate) type Sock6 = Sock<true>;

/// A socket's call with an address: connect, sendmsg, recvmsg, getpeername or bind.
pub(crate) struct Sock<const IS_V6: bool> {
    call: *mut bpf_sock_addr,
}

/// A family as calls have its addresses.
pub(crate) trait Called: Family {
    /// The address of the call, if it is of this family: of an IPv6 socket IPv4 addresses are v4-mapped (RFC 4291 section
    /// 2.5.5.2).
    fn address<const IS_V6: bool>(sock: &Sock<IS_V6>) -> Option<Self::Addr>;
    /// Changes the address of such a call.
    fn set_address<const IS_V6: bool>(sock: &Sock<IS_V6>, address: Self::Addr);
    /// The address that the socket is bound to.
    fn bound(socket: &bpf_sock) -> Self::Addr;
}

/// What stands before a v4-mapped address.
const MAPPED: [u32; 3] = [0, 0, Be32::new(0xffff).raw()];

impl Called for V4 {
    #[inline(always)]
    fn address<const IS_V6: bool>(sock: &Sock<IS_V6>) -> Option<V4Addr> {
        if !IS_V6 {
            // SAFETY: the call is valid, and of an IPv4 socket.
            return Some(V4Addr(Be32::from_raw(unsafe { (&raw const (*sock.call).user_ip4).read_volatile() })));
        }
        let [a, b, c, d] = sock.words();
        ([a, b, c] == MAPPED).then(|| V4Addr(Be32::from_raw(d)))
    }

    #[inline(always)]
    fn set_address<const IS_V6: bool>(sock: &Sock<IS_V6>, address: V4Addr) {
        // SAFETY: the call is valid, and of a socket of this family; the v4-mapped prefix is there.
        unsafe {
            if IS_V6 {
                (&raw mut (*sock.call).user_ip6[3]).write_volatile(address.0.raw());
            } else {
                (&raw mut (*sock.call).user_ip4).write_volatile(address.0.raw());
            }
        }
    }

    #[inline(always)]
    fn bound(socket: &bpf_sock) -> V4Addr {
        V4Addr(Be32::from_raw(socket.src_ip4))
    }
}

impl Called for V6 {
    #[inline(always)]
    fn address<const IS_V6: bool>(sock: &Sock<IS_V6>) -> Option<V6Addr> {
        let [a, b, c, d] = sock.words();
        ([a, b, c] != MAPPED).then(|| V6Addr([a, b, c, d].map(Be32::from_raw)))
    }

    #[inline(always)]
    fn set_address<const IS_V6: bool>(sock: &Sock<IS_V6>, address: V6Addr) {
        for (i, word) in address.0.into_iter().enumerate() {
            // SAFETY: the call is valid, and of an IPv6 socket. Word by word, as they are read.
            unsafe { (&raw mut (*sock.call).user_ip6[i]).write_volatile(word.raw()) };
        }
    }

    #[inline(always)]
    fn bound(socket: &bpf_sock) -> V6Addr {
        V6Addr(socket.src_ip6.map(Be32::from_raw))
    }
}

impl<const IS_V6: bool> Sock<IS_V6> {
    /// The call of a hook.
    #[inline(always)]
    pub(crate) fn new(ctx: &SockAddrContext) -> Self {
        Self { call: ctx.sock_addr }
    }

    /// The maps, seen from this hook.
    #[inline(always)]
    pub(crate) fn maps(&self) -> Maps {
        Maps::new(self.call.cast())
    }

    /// Whether the socket belongs to the instance's host namespace.
    #[inline(always)]
    pub(crate) fn is_of(&self, maps: &Maps) -> bool {
        // SAFETY: the context is the hook's.
        let cookie = unsafe { bpf_get_netns_cookie(self.call.cast()) };
        cookie == maps.config().netns_cookie
    }

    /// Whether the call names all addresses of all families: a dual-stack socket that is bound to `::` takes IPv4 too. (Of a
    /// socket that is for IPv6 alone no hook can tell.)
    #[inline(always)]
    pub(crate) fn is_for_all(&self) -> bool {
        IS_V6 && self.words() == [0; 4]
    }

    /// The call's IPv6 address, in network order.
    #[inline(always)]
    fn words(&self) -> [u32; 4] {
        // SAFETY: the call is valid, and of an IPv6 socket. The words are read one by one, which is
        // what the verifier knows how to translate.
        let word = |i: usize| unsafe { (&raw const (*self.call).user_ip6[i]).read_volatile() };
        [word(0), word(1), word(2), word(3)]
    }

    /// The port of the call, in host order.
    #[inline(always)]
    pub(crate) fn port(&self) -> u16 {
        // SAFETY: the call is valid; the port lies in the first two bytes, in network order.
        Be16::from_raw(unsafe { (&raw const (*self.call).user_port).read_volatile() } as u16).get()
    }

    /// The transport of the socket.
    #[inline(always)]
    pub(crate) fn transport(&self) -> Option<Transport> {
        // SAFETY: the call is valid.
        Transport::from_protocol(unsafe { (&raw const (*self.call).protocol).read_volatile() } as u8)
    }

    /// Whether the socket is bound to a loopback address of this family.
    #[inline(always)]
    pub(crate) fn is_bound_to_loopback<F: Called>(&self) -> bool {
        // SAFETY: the call is valid, and a socket that is there is readable for the run of the hook.
        unsafe {
            let socket = (*self.call).__bindgen_anon_1.sk;
            !socket.is_null() && F::bound(&*socket).is_loopback()
        }
    }

    /// Lets the call fail with "Address already in use".
    #[inline(always)]
    pub(crate) fn fail_address_in_use(&self) {
        const EADDRINUSE: i32 = 98;
        // SAFETY: plain number.
        unsafe { bpf_set_retval(-EADDRINUSE) };
    }
}
