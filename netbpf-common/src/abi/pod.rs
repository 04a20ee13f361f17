//! `Pod` for the structs that are generic over the address family, which bytemuck cannot derive.
#![allow(unsafe_code, reason = "marker traits only; the assertions below are the proof that there is no padding")]

use core::mem::size_of;

use bytemuck::{Pod, Zeroable};

use super::{
    Flow, FlowKey, FragmentKey, HeldKey, NextHop, PublishKey, RingSlot, Sent, Stamp, Subnet, Visitor, Visitors,
};
use crate::wire::{Address, V4Addr, V6Addr, checksum::Delta};

macro_rules! pod {
    ($name:ident, $addresses:expr, $rest:expr) => {
        const _: () = assert!(size_of::<$name<V4Addr>>() == $addresses * size_of::<V4Addr>() + $rest);
        const _: () = assert!(size_of::<$name<V6Addr>>() == $addresses * size_of::<V6Addr>() + $rest);
        // SAFETY: all fields are Pod, so the all-zero value is one of them.
        unsafe impl<A: Address> Zeroable for $name<A> {}
        // SAFETY: repr(C), all fields are Pod, and the sizes asserted above leave no room for padding.
        unsafe impl<A: Address> Pod for $name<A> {}
    };
}

pod!(FlowKey, 2, 8);
pod!(FragmentKey, 2, 8);
pod!(HeldKey, 2, 8 + 4);
pod!(Subnet, 4, 4);
pod!(PublishKey, 1, 4);
pod!(Visitor, 1, 8);
pod!(Visitors, 1, 12);
pod!(RingSlot, 2, 8 + 8);
pod!(
    Flow,
    4,
    2 * 8 + 4 * 8 + 2 * size_of::<Delta>() + size_of::<Stamp>() + size_of::<NextHop>() + size_of::<Sent>() + 32
);
