//! Settings under /proc/sys/net. The kernel shows and changes those of the calling thread's network namespace.

use std::fs;
use std::io::ErrorKind;

use crate::error::{Context as _, Result};
use crate::failpoint;

/// Writes one setting.
pub(crate) fn write(path: &str, value: &str) -> Result<()> {
    let file = format!("/proc/sys/net/{path}");
    if fs::read_to_string(&file).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    failpoint::before("write a sysctl");
    fs::write(&file, value).context(|| format!("write '{value}' to {file}"))
}

/// Writes one setting, where the kernel has it: without IPv6 there is nothing to disable.
pub(crate) fn write_where_present(path: &str, value: &str) -> Result<()> {
    match fs::metadata(format!("/proc/sys/net/{path}")) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        _ => write(path, value),
    }
}

/// Whether IPv6 is off for all devices of the host. A kernel without IPv6 does not have it.
pub(crate) const ALL_OFF: &str = "ipv6/conf/all/disable_ipv6";

/// What IPv6 is to do on one device of ours. Nowhere does it listen to router advertisements: addresses and routes of our
/// devices are given by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ipv6 {
    /// Nothing: no address, no packet.
    Off,
    /// The host's own packets, from addresses that it is given.
    Host,
    /// To be named as the input of route lookups, which ask whether it forwards.
    Lookups,
    /// A container's: addresses that it is given, and a link-local one made of its MAC address (RFC 4291 appendix A), by which
    /// its neighbours are answered.
    Container,
}

impl Ipv6 {
    /// `IN6_ADDR_GEN_MODE_EUI64` and `IN6_ADDR_GEN_MODE_NONE` (include/uapi/linux/if_link.h).
    const EUI64: &str = "0";
    const NO_LINK_LOCAL: &str = "1";

    /// Settings of a device, in the order in which they are written: IPv6 wakes up when all is as it is to be.
    pub(crate) fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // Whoever switches IPv6 on for all devices at once does not give this one an address.
            Self::Off => &[("accept_ra", "0"), ("addr_gen_mode", Self::NO_LINK_LOCAL), ("disable_ipv6", "1")],
            Self::Host => &[
                ("accept_ra", "0"),
                ("autoconf", "0"),
                ("addr_gen_mode", Self::NO_LINK_LOCAL),
                ("forwarding", "0"),
                ("disable_ipv6", "0"),
            ],
            Self::Lookups => &[
                ("accept_ra", "0"),
                ("autoconf", "0"),
                ("addr_gen_mode", Self::NO_LINK_LOCAL),
                ("forwarding", "1"),
                ("disable_ipv6", "0"),
            ],
            Self::Container => &[
                ("accept_ra", "0"),
                ("autoconf", "0"),
                ("accept_redirects", "0"),
                ("addr_gen_mode", Self::EUI64),
                ("disable_ipv6", "0"),
            ],
        }
    }

    /// Lets it be so on a device. A kernel without IPv6 has nothing to switch off.
    pub(crate) fn apply(self, device: &str) -> Result<()> {
        for (name, value) in self.settings() {
            let path = format!("ipv6/conf/{device}/{name}");
            match self {
                Self::Off => write_where_present(&path, value)?,
                _ => write(&path, value)?,
            }
        }
        Ok(())
    }

    /// The first setting of a device that is not so, with its value.
    pub(crate) fn differs(self, device: &str) -> Option<String> {
        self.settings().iter().find_map(|(name, value)| {
            let path = format!("ipv6/conf/{device}/{name}");
            match read(&path) {
                Some(now) => (now != *value).then(|| format!("net/{path} is {now}")),
                None => (self != Self::Off).then(|| format!("there is no net/{path}")),
            }
        })
    }
}

/// Keeps a device of ours out of the host's own routing.
pub(crate) fn isolate(device: &str) -> Result<()> {
    write(&format!("ipv4/conf/{device}/forwarding"), "0")
}

/// Lets a device that was ours be as the kernel makes them, as far as it is there.
pub(crate) fn give_back(device: &str) -> Result<()> {
    let ipv6 = Ipv6::Off.settings().iter().map(|(name, _)| ("ipv6", *name));
    for (family, name) in ipv6.chain([("ipv4", "forwarding")]) {
        if let Some(value) = read(&format!("{family}/conf/default/{name}")) {
            write_where_present(&format!("{family}/conf/{device}/{name}"), &value)?;
        }
    }
    Ok(())
}

/// Lets a device tell its link whose address is whose when it comes up: somebody else may have had it before.
pub(crate) fn announce(device: &str) -> Result<()> {
    write(&format!("ipv4/conf/{device}/arp_notify"), "1")?;
    write_where_present(&format!("ipv6/conf/{device}/ndisc_notify"), "1")
}

/// One setting; none where the kernel does not have it.
pub(crate) fn read(path: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/net/{path}")).ok().map(|text| text.trim().to_owned())
}

/// The host's ephemeral ports.
pub(crate) fn ephemeral_ports() -> Result<(u16, u16)> {
    let file = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = fs::read_to_string(file).context(|| format!("read {file}"))?;
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    let range = (|| Some((numbers.next()?, numbers.next()?)))();
    range.ok_or_else(|| crate::Error::Internal(format!("{file} holds no two numbers: '{}'", text.trim())))
}
