//! Whether containers' devices are what their networks say.

use super::subject::Subject;
use crate::api::types::Finding;
use crate::net::Netlink;

const CHECK: &str = "netkit";

/// Asks the kernel.
pub(super) async fn look(subject: &Subject, netlink: &Netlink) -> Finding {
    match netlink.has_netkit().await {
        Ok(has_netkit) => found(has_netkit, &subject.netkits),
        Err(error) => Finding::unseen(CHECK, &error),
    }
}

/// `wanted`: the networks whose containers are to have such devices.
fn found(has_netkit: bool, wanted: &[String]) -> Finding {
    let networks = wanted.join(", ");
    match (has_netkit, wanted.is_empty()) {
        (true, true) => Finding::well(CHECK, "the kernel has netkit, and no network is to have it (device=netkit)"),
        (true, false) => Finding::well(CHECK, format!("new containers get netkits in {networks}")),
        (false, true) => Finding::well(CHECK, "the kernel has no netkit: containers get veths"),
        (false, false) => Finding::amiss(
            CHECK,
            format!("the kernel has no netkit: containers get veths in {networks}"),
            "boot Linux 6.7 or newer with CONFIG_NETKIT, or make the network with device=veth: it serves as well, somewhat slower",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_is_amiss_only_where_a_network_is_to_have_them() {
        let wanted = ["front".to_owned()];
        for (has_netkit, wanted, ok) in
            [(true, &[][..], true), (true, &wanted, true), (false, &[], true), (false, &wanted, false)]
        {
            let found = found(has_netkit, wanted);
            assert_eq!((found.ok, found.found.contains("front")), (ok, !wanted.is_empty()), "{found:?}");
        }
    }
}
