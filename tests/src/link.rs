//! Raw frames on a device.

use std::io::{self, Read};
use std::mem::size_of;
use std::time::{Duration, Instant};

use nix::libc;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::packet::Mac;
use crate::place::Place;
use crate::wait::poll;

/// Every protocol, in network order, as AF_PACKET has it.
const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();

/// Frames of one device, in and out.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
    /// MAC address of the device.
    pub mac: Mac,
    ifindex: u32,
}

impl Link {
    /// Opens a device; what it carries from now on can be read.
    ///
    /// # Panics
    /// When there is no such device.
    #[track_caller]
    pub fn open(place: &Place, device: &str) -> Self {
        let ifindex = number(place, device);
        let socket = bound(place, device);
        let json = place.command("ip", &["-json", "link", "show", "dev", device]);
        let links: serde_json::Value = serde_json::from_str(&json).expect("JSON of ip");
        let mac = links[0]["address"].as_str().expect("an Ethernet device has an address");
        Self { socket, mac: parse_mac(mac), ifindex }
    }

    /// Sends a frame as it is.
    ///
    /// # Panics
    /// When the device does not take it.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        taken(|| self.socket.send(frame));
    }

    /// Sends a frame, and tells the kernel that it is of this protocol, whatever it says itself.
    ///
    /// # Panics
    /// When the device does not take it.
    #[track_caller]
    pub fn send_as(&self, protocol: u16, frame: &[u8]) {
        let to = device_address(self.ifindex, protocol.to_be());
        taken(|| self.socket.send_to(frame, &to));
    }

    /// Reads frames until one is what is wanted, or the time is over.
    ///
    /// # Panics
    /// When the device goes away.
    pub fn find<T>(&self, time: Duration, mut wanted: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + time;
        let mut buffer = [0; 65_536];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(Some(left)).expect("a timeout");
            match (&self.socket).read(&mut buffer) {
                Ok(length) => {
                    if let Some(found) = wanted(&buffer[..length]) {
                        return Some(found);
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => panic!("cannot read frames: {error}"),
            }
        }
    }
}

/// Sends a frame again for as long as it is thrown away for want of room: every veth of a processor, whatever its namespace,
/// shares one backlog of 1,000 packets (`net.core.netdev_max_backlog`), and `veth_xmit` says so when that is full.
#[track_caller]
fn taken(send: impl Fn() -> io::Result<usize>) {
    let sent = poll(|| match send() {
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => None,
        sent => Some(sent),
    });
    sent.expect("there is room for a frame some time").expect("the device takes a frame");
}

/// A socket for the frames of a device.
#[track_caller]
pub(crate) fn bound(place: &Place, device: &str) -> Socket {
    let socket = place.socket(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ALL))));
    socket.bind(&device_address(number(place, device), ALL)).expect("the device is up");
    socket
}

/// Reads `02:42:ac:1e:00:05`.
///
/// # Panics
/// When it is no MAC address.
#[track_caller]
pub fn parse_mac(text: &str) -> Mac {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    bytes.try_into().expect("six bytes")
}

#[track_caller]
fn number(place: &Place, device: &str) -> u32 {
    place.run(|| if_nametoindex(device)).unwrap_or_else(|error| panic!("no device {device}: {error}"))
}

/// Where frames of a protocol go, in network order.
fn device_address(ifindex: u32, protocol: u16) -> SockAddr {
    let fill = |storage: *mut socket2::SockAddrStorage, length: *mut libc::socklen_t| {
        let address = storage.cast::<libc::sockaddr_ll>();
        // SAFETY: the storage is zeroed, and large and aligned enough for every kind of socket address.
        unsafe {
            (*address).sll_family = libc::AF_PACKET as libc::sa_family_t;
            (*address).sll_protocol = protocol;
            (*address).sll_ifindex = i32::try_from(ifindex).expect("the kernel counts devices in an int");
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        }
        Ok(())
    };
    // SAFETY: `fill` writes a whole sockaddr_ll and its length.
    let (_, address) = unsafe { SockAddr::try_init(fill) }.expect("`fill` does not fail");
    address
}
