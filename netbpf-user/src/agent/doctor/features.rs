//! What kernels may be without, and what does instead: the one table, which docs/kernels.md and README show.

use crate::api::types::Finding;
use crate::datapath::{has_tcx, knows_ipv6_checksums};
use crate::error::Result;
use crate::net::Netlink;

const CHECK: &str = "kernel-features";

/// Something that netbpf uses where the kernel has it.
struct Feature {
    /// What, as documents name it.
    what: &'static str,
    /// The first Linux that has it; its configuration may leave it out, and older stable series may have taken it over.
    since: &'static str,
    /// What becomes of it without.
    without: &'static str,
}

/// What there is no doing without; `kernel-bpf` tells of it.
const PROGRAMS: Feature = Feature {
    what: "the programs: BTF, `bpf_loop`, `bpf_redirect_peer`, `bpf_redirect_neigh`, `bpf_probe_read_kernel`, hooks of sockets",
    since: "6.1",
    without: "the agent refuses to start and says what is missing",
};

const TCX: Feature = Feature { what: "links of programs on devices (TCX)", since: "6.6", without: "filters (clsact)" };

const NETKIT: Feature = Feature {
    what: "netkit devices (`-o device=netkit`)",
    since: "6.7",
    without: "veth devices, and a line that says so",
};

const IPV6_CHECKSUMS: Feature = Feature {
    what: "checksums of IPv6 by a flag (`BPF_F_IPV6`)",
    since: "6.16",
    without: "a second call of the helper",
};

/// In the order in which kernels got them.
const FEATURES: [&Feature; 4] = [&PROGRAMS, &TCX, &NETKIT, &IPV6_CHECKSUMS];

/// Asks the kernel for each.
pub(super) async fn look(netlink: &Netlink) -> Finding {
    match asked(netlink).await {
        Ok(answers) => found(&answers),
        Err(error) => Finding::unseen(CHECK, &error),
    }
}

async fn asked(netlink: &Netlink) -> Result<[(&'static Feature, bool); FEATURES.len() - 1]> {
    Ok([(&TCX, has_tcx()), (&NETKIT, netlink.has_netkit().await?), (&IPV6_CHECKSUMS, knows_ipv6_checksums()?)])
}

/// Nothing is in the way: something does in the place of each.
fn found(answers: &[(&Feature, bool)]) -> Finding {
    let plain = |text: &str| text.replace('`', "");
    let said = answers.iter().map(|(feature, is_there)| match is_there {
        true => format!("{}: there", plain(feature.what)),
        false => format!("{}: not there (Linux {}), {} instead", plain(feature.what), feature.since, feature.without),
    });
    Finding::well(CHECK, said.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_what_does_instead() {
        let told = found(&[(&TCX, true), (&NETKIT, false)]);
        assert!(told.ok, "{told:?}");
        let expected = "links of programs on devices (TCX): there; netkit devices (-o device=netkit): not there (Linux 6.7), veth devices";
        assert!(told.found.starts_with(expected), "{told:?}");
    }

    #[test]
    fn documents_have_the_same_table() {
        let rows =
            FEATURES.map(|Feature { what, since, without }| format!("| {what} | {since} | {without} |\n")).concat();
        let table = format!("| what | since | without it |\n|---|---|---|\n{rows}\n");
        for document in ["docs/kernels.md", "README.md"] {
            let path = format!("{}/../{document}", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(text.contains(&table), "{document} has not:\n{table}");
        }
    }

    #[test]
    fn versions_rise() {
        let version =
            |feature: &Feature| feature.since.split('.').map(|part| part.parse::<u32>().unwrap()).collect::<Vec<_>>();
        assert!(FEATURES.windows(2).all(|pair| version(pair[0]) < version(pair[1])));
    }
}
