//! A socket's call with an address.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use netbpf_common::abi::Transport;
use netbpf_common::path::{Family, V4, V6, World as _};
use netbpf_common::wire::{Address as _, Be16, Be32, V4Addr, V6Addr};

use crate::maps::Maps;

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
