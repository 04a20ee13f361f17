//! What is done to a frame that was right.

use crate::headers::repair;

/// Damage. Places are taken modulo the length of the frame, so that every damage fits every frame.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Damage {
    /// Bytes that become others.
    pub bytes: Vec<(u16, u8)>,
    /// Where the frame is cut off.
    pub cut: Option<u16>,
    /// How many zeros are behind it then.
    pub padding: u8,
    /// Whether the checksums are made right again: what is not believed is soon refused.
    pub is_covered_up: bool,
}

impl Damage {
    /// The frame with it.
    pub fn done_to(&self, mut frame: Vec<u8>) -> Vec<u8> {
        if !frame.is_empty() {
            for (at, value) in &self.bytes {
                let at = usize::from(*at) % frame.len();
                frame[at] = *value;
            }
        }
        if let Some(cut) = self.cut {
            frame.truncate(usize::from(cut) % (frame.len() + 1));
        }
        frame.resize(frame.len() + usize::from(self.padding), 0);
        if self.is_covered_up {
            repair(&mut frame);
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::TestFamily;
    use crate::fixture::Hook;
    use crate::for_both;
    use crate::headers::{Headers, is_header_sound, is_transport_sound};
    use crate::journey::link_on;

    for_both!(what_is_covered_up_is_believed_and_what_is_not_is_not);

    fn what_is_covered_up_is_believed_and_what_is_not_is_not<F: TestFamily>() {
        let frame = link_on(Hook::Uplink).udp(F::CLIENT, F::WEB, b"payload");
        assert!(is_header_sound(&frame) && is_transport_sound(&frame));
        let Headers { transport, .. } = Headers::read(&frame).expect("a datagram");
        // The last byte of the destination, and one of the payload.
        let (header, payload) = (transport.start as u16 - 1, transport.end as u16 - 3);
        let damage = Damage { bytes: vec![(header, 17), (payload, 99)], ..Damage::default() };
        let damaged = damage.done_to(frame.clone());
        assert_eq!(is_header_sound(&damaged), !F::HEADER_HAS_CHECKSUM);
        assert!(!is_transport_sound(&damaged));
        let covered_up = Damage { is_covered_up: true, ..damage }.done_to(frame);
        assert!(is_header_sound(&covered_up) && is_transport_sound(&covered_up));
        assert_eq!((covered_up[usize::from(header)], covered_up[usize::from(payload)]), (17, 99));
    }
}
