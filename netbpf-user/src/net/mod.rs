//! The kernel's network configuration: one idempotent function per action.
//!
//! Each function means "let it be so": what is there already is no error, and what is gone already is removed.

pub(crate) mod address;
pub(crate) mod device;
pub(crate) mod filter;
pub(crate) mod inside;
pub(crate) mod lan;
pub(crate) mod namespace;
pub(crate) mod route;
pub(crate) mod rule;
pub(crate) mod sockets;
pub(crate) mod sysctl;
pub(crate) mod watch;
pub(crate) mod wireless;

use std::sync::Arc;

use rtnetlink::Handle;
use tokio::sync::Mutex;

use crate::error::{Context as _, Result};

/// A route netlink socket in the network namespace of the thread that opened it, wherever it is used.
#[derive(Clone, Debug)]
pub(crate) struct Netlink {
    handle: Handle,
    /// Held while something is listed: a socket lists one thing at a time, and the kernel answers EBUSY to
    /// who asks for a second (`__netlink_dump_start`).
    listing: Arc<Mutex<()>>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace. Needs the tokio runtime to be entered.
    pub(crate) fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context(|| "open a netlink socket".into())?;
        tokio::spawn(connection);
        Ok(Self { handle, listing: Arc::default() })
    }
}

/// Whether the kernel has IPv6 at all: it may be built without it, or started with `ipv6.disable=1`.
pub(crate) fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6/conf/all").exists()
}

/// The kernel's error number for a request; 0 when the kernel did not answer with one.
fn errno(error: &rtnetlink::Error) -> i32 {
    match error {
        rtnetlink::Error::NetlinkError(message) => -message.raw_code(),
        _ => 0,
    }
}

/// Takes some of the kernel's answers for success.
fn accept(result: std::result::Result<(), rtnetlink::Error>, accepted: &[i32]) -> std::result::Result<(), String> {
    match result {
        Err(error) if !accepted.contains(&errno(&error)) => Err(describe(&error)),
        _ => Ok(()),
    }
}

fn describe(error: &rtnetlink::Error) -> String {
    match errno(error) {
        0 => error.to_string(),
        number => std::io::Error::from_raw_os_error(number).to_string(),
    }
}
