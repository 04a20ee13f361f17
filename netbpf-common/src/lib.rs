//! Packets and flows: what netbpf decides, without a kernel.
//!
//! The paths of this crate ([`path`]) are compiled into the TC programs of `netbpf-ebpf` and into
//! host tests. They know neither clock nor tables: both come in through [`path::Env`], packets
//! through [`path::Packet`].
//!
//! Byte order: what lies on the wire is a [`wire::Be16`] or [`wire::Be32`]; a plain integer is in
//! host order. No type is both.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

pub mod abi;
pub mod flow;
pub mod path;
pub mod wire;
