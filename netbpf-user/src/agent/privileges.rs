//! What of root's power the agent keeps: the capabilities that its work takes, and no others.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use crate::error::{Context as _, Error, Result};

/// Each capability (capabilities(7)) that the agent needs, and what for. The unit in packaging/ has the same ones.
const NEEDED: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::NET_ADMIN, "make devices and routes, and attach programs to them"),
    // unshare(2), setns(2), mount(2), and BPF_LINK_GET_FD_BY_ID and its like. CAP_BPF and CAP_PERFMON are parts of it.
    (CapabilitySet::SYS_ADMIN, "load programs, make maps, and make, enter and name network namespaces"),
    // Every process that may do more than the agent is closed to it otherwise (ptrace_may_access): most of root's.
    (CapabilitySet::SYS_PTRACE, "find the network namespaces of processes, and who holds a port"),
    (CapabilitySet::DAC_READ_SEARCH, "find namespaces and holders of ports of other users"),
    (CapabilitySet::KILL, "end the processes of containers, whose users they choose"),
    (CapabilitySet::CHOWN, "give the socket to the group of its users"),
];

fn needed() -> CapabilitySet {
    NEEDED.into_iter().map(|(capability, _)| capability).collect()
}

/// The capabilities of a running agent as /proc/PID/status shows them: bit N is the kernel's number N.
pub fn mask() -> u64 {
    needed().bits()
}

/// Gives up every capability that the agent does not need, for ever, and for all threads that the calling one will make.
///
/// # Errors
/// When a needed one is withheld; nothing has changed then.
pub fn keep_needed() -> Result<()> {
    super::start::require_root()?;
    let what = || "look at the agent's capabilities".to_owned();
    let held = capabilities(None).context(what)?;
    refuse_without(held.permitted)?;
    for capability in CapabilitySet::all().difference(needed()).iter() {
        drop_for_good(capability)?;
    }
    let give_up = || "give up the capabilities that the agent does not need".to_owned();
    clear_ambient_capability_set().context(give_up)?;
    let sets = CapabilitySets { effective: needed(), permitted: needed(), inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).context(give_up)?;
    set_no_new_privs(true).context(give_up)
}

fn refuse_without(permitted: CapabilitySet) -> Result<()> {
    let missing = NEEDED.into_iter().filter(|(capability, _)| !permitted.contains(*capability));
    let missing: Vec<String> = missing.map(|(capability, why)| format!("{} (to {why})", name(capability))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "the agent may not run with less than root has: it lacks {}. Grant them where it is started, by \
         CapabilityBoundingSet= of a unit or --cap-add of a container",
        missing.join(", ")
    )))
}

/// Takes a capability out of the bounding set.
fn drop_for_good(capability: CapabilitySet) -> Result<()> {
    let is_there = match capability_is_in_bounding_set(capability) {
        Ok(is_there) => is_there,
        // One that this kernel does not know yet.
        Err(Errno::INVAL) => false,
        Err(error) => return Err(error).context(|| format!("look at {}", name(capability))),
    };
    if !is_there {
        return Ok(());
    }
    match remove_capability_from_bounding_set(capability) {
        // CAP_SETPCAP is withheld. No program that the agent could start gets any new privilege all the same.
        Err(Errno::PERM) => Ok(()),
        other => other.context(|| format!("give up {}", name(capability))),
    }
}

fn name(capability: CapabilitySet) -> String {
    let names: Vec<String> = capability.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_grants_what_the_agent_keeps_and_nothing_else() {
        let unit = include_str!("../../../packaging/netbpf.service");
        let granted = unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let mut granted: Vec<String> = granted.flat_map(str::split_whitespace).map(str::to_owned).collect();
        granted.sort();
        let mut kept: Vec<String> = needed().iter().map(name).collect();
        kept.sort();
        assert_eq!(granted, kept);
    }

    #[test]
    fn the_page_about_installing_has_the_same_table() {
        let page = include_str!("../../../docs/install.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| CAP_")).collect();
        let kept: Vec<String> =
            NEEDED.into_iter().map(|(capability, why)| format!("| {} | {why} |", name(capability))).collect();
        assert_eq!(rows, kept);
    }

    #[test]
    fn a_missing_capability_is_named_with_its_purpose() {
        assert!(refuse_without(CapabilitySet::all()).is_ok());
        assert!(refuse_without(needed()).is_ok());
        let told = refuse_without(needed() - CapabilitySet::NET_ADMIN - CapabilitySet::KILL).unwrap_err().to_string();
        assert!(
            told.contains("CAP_NET_ADMIN (to make devices and routes, and attach programs to them), CAP_KILL (to end"),
            "{told}"
        );
        assert!(!told.contains("CAP_SYS_ADMIN"), "{told}");
    }
}
