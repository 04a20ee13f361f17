//! Settings under /proc/sys/net. The kernel shows and changes those of the calling thread's network namespace.

use std::fs;
use std::io::ErrorKind;

use crate::error::{Context as _, Result};

/// Writes one setting.
pub(crate) fn write(path: &str, value: &str) -> Result<()> {
    let file = format!("/proc/sys/net/{path}");
    if fs::read_to_string(&file).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    fs::write(&file, value).context(|| format!("write '{value}' to {file}"))
}

/// Writes one setting, where the kernel has it: without IPv6 there is nothing to disable.
pub(crate) fn write_where_present(path: &str, value: &str) -> Result<()> {
    match fs::metadata(format!("/proc/sys/net/{path}")) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        _ => write(path, value),
    }
}

/// Keeps a device of ours out of the host's own routing.
pub(crate) fn isolate(device: &str) -> Result<()> {
    write(&format!("ipv4/conf/{device}/forwarding"), "0")?;
    write_where_present(&format!("ipv6/conf/{device}/disable_ipv6"), "1")
}

/// The host's ephemeral ports.
pub(crate) fn ephemeral_ports() -> Result<(u16, u16)> {
    let file = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = fs::read_to_string(file).context(|| format!("read {file}"))?;
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    let range = (|| Some((numbers.next()?, numbers.next()?)))();
    range.ok_or_else(|| crate::Error::Internal(format!("{file} holds no two numbers: '{}'", text.trim())))
}
