//! Programs and filters of others where ours are.

use std::collections::{BTreeMap, BTreeSet};

use super::subject::Subject;
use crate::agent::host::HOST_DEVICE;
use crate::api::types::Finding;
use crate::datapath::{Direction, Way, on_cgroup, on_device, program_infos};
use crate::error::{Context as _, Result};
use crate::net::Netlink;
use crate::net::device::Device;

/// Looks at all of it.
pub(super) async fn look(subject: &Subject, netlink: &Netlink, devices: &[Device]) -> Result<Vec<Finding>> {
    let names: BTreeMap<u32, String> =
        program_infos().map(|info| (info.id(), info.name_as_str().unwrap_or_default().to_owned())).collect();
    let named = |program: &u32| match names.get(program) {
        Some(name) if !name.is_empty() => format!("{name} (program {program})"),
        _ => format!("program {program}"),
    };
    let mut crowds = Vec::new();
    let mut filters = BTreeSet::new();
    let mut xdp = Vec::new();
    for device in devices {
        let is_uplink = match &subject.uplinks {
            Some(uplinks) => uplinks.contains_key(&device.ifindex),
            None => !device.is_loopback && !device.is_port,
        };
        if subject.own_hooks.contains(&device.ifindex) {
            let direction = if device.name == HOST_DEVICE { Direction::Egress } else { Direction::Ingress };
            for way in [Some(Way::Stack(direction)), device.is_netkit.then_some(Way::Netkit)].into_iter().flatten() {
                let order = on_device(device.ifindex, way);
                let order = order.context(|| format!("ask which programs are on {}", device.name))?;
                crowds.extend(Crowd::of(&device.name, &order, &subject.own_programs, named));
            }
        }
        if is_uplink {
            if netlink
                .ingress_filters(device.ifindex)
                .await?
                .into_iter()
                .any(|info| !crate::datapath::is_own_filter(info))
            {
                filters.insert(device.name.clone());
            }
            let others = device.xdp.filter(|program| !subject.own_programs.contains(program));
            xdp.extend(others.map(|program| format!("{} on {}", named(&program), device.name)));
        }
    }
    let mut findings = vec![tc_programs(&crowds), tc_filters(&filters), xdp_programs(&xdp)];
    if let Some(cgroup) = &subject.cgroup {
        let all = on_cgroup(cgroup).context(|| format!("ask which programs are on {}", cgroup.display()))?;
        let others: Vec<String> =
            all.iter().filter(|program| !subject.own_programs.contains(program)).map(named).collect();
        findings.push(cgroup_programs(&others));
    }
    Ok(findings)
}

/// Programs of others on a device beside ours.
#[derive(Debug)]
struct Crowd {
    device: String,
    before: Vec<String>,
    after: Vec<String>,
}

impl Crowd {
    fn of(device: &str, order: &[u32], own: &BTreeSet<u32>, named: impl Fn(&u32) -> String) -> Option<Self> {
        let ours = order.iter().position(|program| own.contains(program))?;
        let names = |programs: &[u32]| programs.iter().map(&named).collect::<Vec<_>>();
        let crowd = Self { device: device.into(), before: names(&order[..ours]), after: names(&order[ours + 1..]) };
        Some(crowd).filter(|crowd| order.len() > 1 || !crowd.before.is_empty())
    }
}

fn tc_programs(crowds: &[Crowd]) -> Finding {
    const CHECK: &str = "tc-programs";
    let before: Vec<_> = crowds.iter().filter(|it| !it.before.is_empty()).collect();
    let after: Vec<_> = crowds.iter().filter(|it| !it.after.is_empty()).collect();
    let told = |crowds: &[&Crowd], which: fn(&Crowd) -> &Vec<String>| {
        crowds.iter().map(|it| format!("{} on {}", which(it).join(", "), it.device)).collect::<Vec<_>>().join("; ")
    };
    let mut found = Vec::new();
    if !before.is_empty() {
        found.push(format!("before ours: {}", told(&before, |it| &it.before)));
    }
    if !after.is_empty() {
        found.push(format!("after ours: {}", told(&after, |it| &it.after)));
    }
    if found.is_empty() {
        return Finding::well(CHECK, "no program of others is beside ours on a device");
    }
    Finding::amiss(
        CHECK,
        found.join("; "),
        "one before ours may take or change packets that ours then never sees, one after it sees only what ours leaves alone: \
         take it off (bpftool net), or leave the device out with `uplinks` in netbpf's settings",
    )
}

fn tc_filters(devices: &BTreeSet<String>) -> Finding {
    const CHECK: &str = "tc-filters";
    if devices.is_empty() {
        return Finding::well(CHECK, "no filter of others (tc) is on what an uplink receives");
    }
    let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
    Finding::amiss(
        CHECK,
        format!("filters of others on what comes in by {}", devices.join(", ")),
        "they do not see what netbpf takes for containers (`tc filter show dev DEVICE ingress`): what shapes, counts or filters \
         traffic of containers belongs on the way out, or into the publish (allow=)",
    )
}

fn xdp_programs(programs: &[String]) -> Finding {
    const CHECK: &str = "xdp-programs";
    if programs.is_empty() {
        return Finding::well(CHECK, "no XDP program is on an uplink");
    }
    Finding::amiss(
        CHECK,
        programs.join(", "),
        "it sees packets before netbpf and may take them: let it pass what is for published ports, or take it off \
         (ip link set dev DEVICE xdp off)",
    )
}

fn cgroup_programs(others: &[String]) -> Finding {
    const CHECK: &str = "cgroup-programs";
    if others.is_empty() {
        return Finding::well(CHECK, "no program of others is beside our socket hooks");
    }
    Finding::amiss(
        CHECK,
        format!("beside our socket hooks: {}", others.join(", ")),
        "it may change where the host's own processes connect to, before or after netbpf does: take it off (bpftool cgroup tree), or \
         give netbpf a cgroup without it (--cgroup)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_before_ours_and_who_after_is_told() {
        let named = |program: &u32| format!("p{program}");
        let crowd = |order: &[u32]| Crowd::of("eth0", order, &BTreeSet::from([5]), named);
        assert!(crowd(&[5]).is_none(), "alone");
        assert!(crowd(&[4]).is_none(), "ours is not there, which status tells");
        let crowds: Vec<_> = [crowd(&[4, 5]), crowd(&[5, 6])].into_iter().flatten().collect();
        let told = tc_programs(&crowds);
        assert!(!told.ok && told.found == "before ours: p4 on eth0; after ours: p6 on eth0", "{told:?}");
        assert!(tc_programs(&[]).ok);
    }

    #[test]
    fn others_are_named_with_where_they_are() {
        assert!(tc_filters(&BTreeSet::new()).ok && xdp_programs(&[]).ok && cgroup_programs(&[]).ok);
        assert!(tc_filters(&BTreeSet::from(["eth0".into()])).found.contains("eth0"));
        assert!(xdp_programs(&["firewall (program 7) on eth0".into()]).found.contains("firewall"));
        assert!(!cgroup_programs(&["program 9".into()]).ok);
    }
}
