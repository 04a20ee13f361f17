//! What the kernel can do: asked, not guessed from its version.

use aya::programs::ProgramType;
use aya::sys::{is_helper_supported, is_program_supported};
use aya_obj::generated::bpf_func_id;

use super::subject::Subject;
use crate::api::types::Finding;
use crate::datapath::{KERNEL_BTF, has_batches, program_infos};
use crate::error::chain;
use crate::net::sysctl;

/// The oldest that netbpf is made for.
const OLDEST: (u32, u32) = (6, 1);

/// Helpers of the paths that came last, and those that a kernel's configuration may leave out.
const HELPERS: [(bpf_func_id, &str); 9] = [
    (bpf_func_id::BPF_FUNC_redirect_peer, "bpf_redirect_peer"),
    (bpf_func_id::BPF_FUNC_redirect_neigh, "bpf_redirect_neigh"),
    (bpf_func_id::BPF_FUNC_fib_lookup, "bpf_fib_lookup"),
    (bpf_func_id::BPF_FUNC_skc_lookup_tcp, "bpf_skc_lookup_tcp"),
    (bpf_func_id::BPF_FUNC_sk_lookup_udp, "bpf_sk_lookup_udp"),
    (bpf_func_id::BPF_FUNC_jiffies64, "bpf_jiffies64"),
    (bpf_func_id::BPF_FUNC_clone_redirect, "bpf_clone_redirect"),
    (bpf_func_id::BPF_FUNC_loop, "bpf_loop"),
    (
        bpf_func_id::BPF_FUNC_probe_read_kernel,
        "bpf_probe_read_kernel (CONFIG_BPF_EVENTS, and no lockdown=confidentiality)",
    ),
];

/// Looks at all of it.
pub(super) fn look(subject: &Subject) -> Vec<Finding> {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let jitted =
        program_infos().find(|info| subject.own_programs.contains(&info.id())).map(|info| info.size_jitted() > 0);
    vec![version(&release.unwrap_or_default()), abilities(missing()), jit(jitted, switch("enable"), switch("harden"))]
}

/// A switch of the JIT; the kernel shows it in the machine's first network namespace alone.
fn switch(name: &str) -> Option<String> {
    sysctl::read(&format!("core/bpf_jit_{name}"))
}

/// What the kernel lacks, or what keeps us from asking.
fn missing() -> Result<Vec<String>, String> {
    let mut missing = Vec::new();
    for (kind, name) in [
        (ProgramType::SchedClassifier, "programs on devices (CONFIG_NET_CLS_BPF)"),
        (ProgramType::CgroupSockAddr, "programs on sockets of a cgroup (CONFIG_CGROUP_BPF)"),
    ] {
        if !is_program_supported(kind).map_err(|error| chain(&error))? {
            missing.push(name.to_owned());
        }
    }
    for (helper, name) in HELPERS {
        if !is_helper_supported(ProgramType::SchedClassifier, helper).map_err(|error| chain(&error))? {
            missing.push(name.to_owned());
        }
    }
    if !std::path::Path::new(KERNEL_BTF).exists() {
        missing.push("BTF (CONFIG_DEBUG_INFO_BTF)".into());
    }
    if !has_batches().map_err(|error| error.to_string())? {
        missing.push("elements of maps in batches".into());
    }
    Ok(missing)
}

fn version(release: &str) -> Finding {
    let mut numbers = release.split(|other: char| !other.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        let advice = format!("boot Linux {}.{} or newer", OLDEST.0, OLDEST.1);
        return Finding::amiss("kernel", format!("Linux {release}"), advice);
    }
    Finding::well("kernel", format!("Linux {release}"))
}

fn abilities(missing: Result<Vec<String>, String>) -> Finding {
    const CHECK: &str = "kernel-bpf";
    match missing {
        Ok(missing) if missing.is_empty() => Finding::well(CHECK, "BTF, program types, helpers and batches: all there"),
        Ok(missing) => Finding::amiss(
            CHECK,
            format!("the kernel has not: {}", missing.join(", ")),
            "boot a kernel of a distribution, or build this one with what is missing",
        ),
        Err(why) => Finding::amiss(
            CHECK,
            format!("the kernel lets nobody ask: {why}"),
            "run as root with CAP_BPF and CAP_NET_ADMIN; lockdown (/sys/kernel/security/lockdown) or a seccomp filter may forbid \
             bpf(2)",
        ),
    }
}

/// Whether programs are translated to machine code. What the kernel did with ours is the truth; without them, what it says.
fn jit(ours: Option<bool>, enabled: Option<String>, hardened: Option<String>) -> Finding {
    const CHECK: &str = "jit";
    if ours == Some(false) || ours.is_none() && enabled.as_deref() == Some("0") {
        return Finding::amiss(
            CHECK,
            "programs are interpreted, not translated to machine code",
            "set net.core.bpf_jit_enable = 1 and restart the agent: each packet takes several times as long",
        );
    }
    if hardened.as_deref() == Some("2") {
        let found = "programs are machine code, with constants blinded (net.core.bpf_jit_harden = 2), which takes some time per packet";
        return Finding::well(CHECK, found);
    }
    let found = if ours.or(enabled.map(|_| true)).is_some() {
        "programs are machine code"
    } else {
        "not told in this network namespace"
    };
    Finding::well(CHECK, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_told_from_one_that_serves() {
        for (release, ok) in
            [("6.18.44-fc", true), ("6.1.0-31-amd64", true), ("6.0.9", false), ("5.15.0-1", false), ("", false)]
        {
            assert_eq!(version(release).ok, ok, "{release}");
        }
    }

    #[test]
    fn what_the_kernel_lacks_is_named() {
        assert!(abilities(Ok(Vec::new())).ok);
        let lacking = abilities(Ok(vec!["bpf_redirect_peer".into()]));
        assert!(!lacking.ok && lacking.found.contains("bpf_redirect_peer"));
        assert!(abilities(Err("Operation not permitted".into())).advice.contains("root"));
    }

    #[test]
    fn an_interpreter_is_told_by_our_own_programs_before_the_switch() {
        let text = |value: &str| Some(value.to_owned());
        assert!(jit(Some(true), text("0"), None).ok);
        assert!(!jit(Some(false), text("1"), None).ok);
        assert!(!jit(None, text("0"), None).ok);
        assert!(jit(None, None, None).ok);
        assert!(jit(Some(true), None, text("2")).found.contains("blinded"));
    }
}
