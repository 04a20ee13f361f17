//! UDP (RFC 768).

/// The header: source port, destination port, length, checksum.
#[derive(Debug)]
pub enum Udp {}

impl Udp {
    /// Length of the header, in bytes.
    pub const LEN: u32 = 8;
    /// Offset of the length of header and data, in bytes.
    pub const LENGTH_AT: u32 = 4;
}
