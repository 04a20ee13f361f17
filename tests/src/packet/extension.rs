//! Extension headers of IPv6 (RFC 8200 section 4).

/// Options of hops, of the destination, and the way by other stops.
pub const HOP_BY_HOP: u8 = 0;
/// See [`HOP_BY_HOP`].
pub const ROUTING: u8 = 43;
/// See [`HOP_BY_HOP`].
pub const DESTINATION: u8 = 60;

/// The frame with an extension header before all that it has.
///
/// # Panics
/// When the header is no multiple of eight bytes with its own first two.
pub fn extended(frame: Vec<u8>, kind: u8, body: &[u8]) -> Vec<u8> {
    let words = u8::try_from((body.len() + 2) / 8 - 1).expect("it is short");
    with_header(frame, kind, |next| [&[next, words], body].concat())
}

/// The frame with a header of its own make: what it is to begin with is the number of the header that follows.
pub fn with_header(mut frame: Vec<u8>, kind: u8, header: impl FnOnce(u8) -> Vec<u8>) -> Vec<u8> {
    const NEXT_HEADER: usize = 20;
    const BEHIND: usize = 54;
    let added = header(std::mem::replace(&mut frame[NEXT_HEADER], kind));
    let length = u16::from_be_bytes([frame[18], frame[19]]) + added.len() as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame.splice(BEHIND..BEHIND, added);
    frame
}
