//! Headers as they lie on the wire, one per file, and the arithmetic of their checksums.

mod addr;
mod be;
pub mod checksum;

pub use addr::{Address, V4Addr, V6Addr};
pub use be::{Be16, Be32, Mac};
