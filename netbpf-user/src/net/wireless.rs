//! Whether a device is a wireless one, as nl80211 knows it (generic netlink).

use std::io;

use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};

// include/uapi/linux/netlink.h, genetlink.h and nl80211.h
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NL80211_CMD_GET_INTERFACE: u8 = 5;
const NL80211_ATTR_IFINDEX: u16 = 3;
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;

/// Whether the device of this number, in the network namespace of the calling thread, is a wireless one. A kernel without
/// nl80211 has none.
pub(crate) fn is_wireless(ifindex: u32) -> io::Result<bool> {
    let socket = Socket::new(NETLINK_GENERIC)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let ask = |family, command, kind, value: &[u8]| {
        socket.send(&request(family, command, kind, value), 0)?;
        Ok::<_, io::Error>(socket.recv_from_full()?.0)
    };
    let family = ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"nl80211\0")?;
    match attribute(&family, CTRL_ATTR_FAMILY_ID).and_then(|value| value.first_chunk()) {
        // Who has no such family answers with an error, and so does the family about a device that is none of its own.
        None => Ok(false),
        Some(family) => {
            let family = u16::from_ne_bytes(*family);
            let answer = ask(family, NL80211_CMD_GET_INTERFACE, NL80211_ATTR_IFINDEX, &ifindex.to_ne_bytes())?;
            Ok(attribute(&answer, NL80211_ATTR_IFINDEX) == Some(&ifindex.to_ne_bytes()[..]))
        }
    }
}

/// A request with one attribute.
fn request(family: u16, command: u8, kind: u16, value: &[u8]) -> Vec<u8> {
    let attribute = ATTRIBUTE_HEADER + value.len();
    let length = HEADER + GENERIC_HEADER + attribute.next_multiple_of(4);
    let mut request = Vec::with_capacity(length);
    request.extend((length as u32).to_ne_bytes());
    request.extend(family.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend((attribute as u16).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(value);
    request.resize(length, 0);
    request
}

/// An attribute of an answer; none of an error has any.
fn attribute(answer: &[u8], wanted: u16) -> Option<&[u8]> {
    let length = u32::from_ne_bytes(*answer.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    if kind == NLMSG_ERROR {
        return None;
    }
    let mut rest = answer.get(HEADER + GENERIC_HEADER..length)?;
    while let Some(&[a, b, c, d]) = rest.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([a, b])).max(ATTRIBUTE_HEADER);
        if u16::from_ne_bytes([c, d]) == wanted {
            return rest.get(ATTRIBUTE_HEADER..length);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_not_wireless() {
        assert!(!is_wireless(1).unwrap());
    }

    #[test]
    fn an_attribute_is_found_behind_others_and_not_in_an_error() {
        // What nl80211 says of a device: its number behind its name.
        let mut answer = request(0x1c, 7, 4, b"wlan0\0");
        answer.extend([8_u16.to_ne_bytes(), NL80211_ATTR_IFINDEX.to_ne_bytes()].concat());
        answer.extend(5_u32.to_ne_bytes());
        let length = answer.len() as u32;
        answer[..4].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(attribute(&answer, NL80211_ATTR_IFINDEX), Some(&5_u32.to_ne_bytes()[..]));
        assert_eq!(attribute(&answer, 9), None);
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        assert_eq!(attribute(&answer, NL80211_ATTR_IFINDEX), None);
        assert_eq!(attribute(&[], 3), None);
    }
}
