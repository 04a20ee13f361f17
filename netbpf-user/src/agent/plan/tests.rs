//! Plans, made without a kernel.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;

fn wanted(name: &str, slot: u32) -> Wanted {
    let v4 = Ipv4Addr::new(172, 30, 0, slot as u8 + 1);
    let [v6, link] = [0xfd00, 0xfe80].map(|first| Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, slot as u16 + 1));
    Wanted {
        netns: format!("/run/netns/{name}").into(),
        made_as: Some(name.into()),
        taken_from: None,
        ends: vec![WantedEnd {
            device: format!("nb{name}"),
            slot,
            endpoint: Endpoint {
                generation: slot + 10,
                ifindex: 65_536 + slot,
                v4: v4.into(),
                v6: v6.into(),
                ..Endpoint::default()
            },
            inside: Inside::default(),
            reached_by: vec![v4.into(), v6.into(), link.into()],
            mtu: 1500,
            is_tap: false,
            kind: DeviceKind::Veth,
        }],
        lans: Vec::new(),
    }
}

/// The same in a network on a device of the host as well.
fn on_lan(name: &str, slot: u32) -> Wanted {
    let wanted = wanted(name, slot);
    let end = LanEnd {
        netns: wanted.netns.clone(),
        transit: format!("nb{name}.1"),
        network: "lan".into(),
        parent: "eth0".into(),
        mode: Mode::Bridge,
        mac: Some(Mac::new([2, 0, 0, 0, 0, slot as u8])),
        mtu: 1500,
        inside: Inside { name: "eth1".into(), ..Inside::default() },
    };
    Wanted { lans: vec![end], ..wanted }
}

/// What hangs on a device of this kind.
fn hooks(kind: DeviceKind, ifindex: u32) -> impl Iterator<Item = (&'static str, u32)> {
    Hook::of_container(kind, ifindex, "").into_iter().map(|hook| (hook.program, hook.ifindex))
}

/// The kernel as `plan` left it: what the steps mean, without a kernel.
fn apply(observed: &mut Observed, steps: &[Step]) {
    for step in steps {
        match step.clone() {
            Step::DeleteAddress(address) => _ = observed.addresses.remove(&address),
            Step::ClearEndpoint(slot) => _ = observed.endpoints.remove(&slot),
            Step::DeleteDevice(ifindex, _) => {
                observed.devices.remove(&ifindex);
                observed.attached.retain(|(_, on)| *on != ifindex);
            }
            Step::DeleteLan(netns, name) => _ = observed.lans.remove(&(netns, name)),
            Step::MakeLan(end) => _ = observed.lans.insert(end.key()),
            Step::DeleteNamespace(name) => _ = observed.namespaces.remove(&name),
            Step::MakeNamespace(name, _) => _ = observed.namespaces.insert(name),
            Step::MakePair(pair) => {
                observed.attached.extend(hooks(pair.kind, pair.ifindex));
                observed.devices.insert(pair.ifindex, pair.device);
            }
            Step::Attach(hook) => _ = observed.attached.insert((hook.program, hook.ifindex)),
            Step::TakeIn(ifindex, device, _) => {
                observed.attached.insert((program::EGRESS, ifindex));
                observed.taps.insert(ifindex, device);
            }
            Step::GiveBack(ifindex, _) => {
                observed.attached.remove(&(program::EGRESS, ifindex));
                observed.taps.remove(&ifindex);
            }
            Step::WriteEndpoint(slot, endpoint) => _ = observed.endpoints.insert(slot, endpoint),
            Step::WriteAddress(address, slot) => _ = observed.addresses.insert(address, slot),
        }
    }
}

#[test]
fn a_plan_leads_to_what_is_desired_and_the_next_is_empty() {
    let mut kernel = Observed::default();
    let (a, b, c) = (wanted("a", 1), on_lan("b", 2), on_lan("c", 3));
    for desired in [vec![a.clone(), b.clone()], vec![b, c], vec![], vec![a]] {
        let steps = plan(&desired, &kernel);
        assert!(!steps.is_empty());
        apply(&mut kernel, &steps);
        assert_eq!(plan(&desired, &kernel), []);
    }
}

#[test]
fn addresses_come_last_and_go_first() {
    let mut kernel = Observed::default();
    let steps = plan(&[wanted("a", 1)], &kernel);
    assert!(matches!(
        steps[..],
        [
            Step::MakeNamespace(..),
            Step::MakePair(_),
            Step::WriteEndpoint(..),
            Step::WriteAddress(..),
            Step::WriteAddress(..),
            Step::WriteAddress(..)
        ]
    ));
    apply(&mut kernel, &steps);
    assert!(matches!(
        plan(&[], &kernel)[..],
        [
            Step::DeleteAddress(_),
            Step::DeleteAddress(_),
            Step::DeleteAddress(_),
            Step::ClearEndpoint(_),
            Step::DeleteDevice(..),
            Step::DeleteNamespace(_)
        ]
    ));
}

#[test]
fn a_container_that_is_reached_by_another_address_than_before_keeps_the_rest() {
    let mut kernel = Observed::default();
    let before = wanted("a", 1);
    let steps = plan(std::slice::from_ref(&before), &kernel);
    apply(&mut kernel, &steps);
    let outside = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
    let mut after = before;
    for last in [1, 2] {
        after.ends[0].reached_by.truncate(3);
        after.ends[0].reached_by.push(outside(last));
        let steps = plan(std::slice::from_ref(&after), &kernel);
        assert_eq!(steps.last(), Some(&Step::WriteAddress(outside(last), 1)));
        assert_eq!(steps.len(), usize::from(last), "the first one only comes, the second takes its place");
        apply(&mut kernel, &steps);
    }
}

#[test]
fn a_container_gets_and_loses_a_second_end_while_the_first_stays() {
    let mut kernel = Observed::default();
    let one = wanted("a", 1);
    let steps = plan(std::slice::from_ref(&one), &kernel);
    apply(&mut kernel, &steps);
    let mut two = one.clone();
    two.ends.extend(wanted("b", 2).ends);
    let steps = plan(std::slice::from_ref(&two), &kernel);
    assert!(matches!(steps[..2], [Step::MakePair(_), Step::WriteEndpoint(2, _)]), "{steps:?}");
    apply(&mut kernel, &steps);
    let steps = plan(std::slice::from_ref(&one), &kernel);
    assert!(matches!(steps[3..], [Step::ClearEndpoint(2), Step::DeleteDevice(65_538, _)]), "{steps:?}");
    apply(&mut kernel, &steps);
    assert_eq!(plan(&[one], &kernel), []);
}

#[test]
fn an_end_past_the_datapath_is_one_device_which_goes_before_its_namespace() {
    let mut kernel = Observed::default();
    let desired = [on_lan("a", 1)];
    let steps = plan(&desired, &kernel);
    assert!(matches!(steps.last(), Some(Step::MakeLan(_))), "{steps:?}");
    assert_eq!(steps.len(), plan(&[wanted("a", 1)], &kernel).len() + 1);
    apply(&mut kernel, &steps);
    // Its parent has gone and taken it along.
    kernel.lans.clear();
    let steps = plan(&desired, &kernel);
    assert!(matches!(steps[..], [Step::MakeLan(_)]), "{steps:?}");
    apply(&mut kernel, &steps);
    let gone = Step::DeleteLan("/run/netns/a".into(), "eth1".into());
    assert_eq!(plan(&[wanted("a", 1)], &kernel), std::slice::from_ref(&gone));
    assert_eq!(plan(&[], &kernel)[5..], [gone, Step::DeleteNamespace("a".into())]);
}

#[test]
fn a_new_agent_replaces_programs_and_touches_nothing_else() {
    let mut kernel = Observed::default();
    let desired = [wanted("a", 1)];
    let steps = plan(&desired, &kernel);
    apply(&mut kernel, &steps);
    kernel.attached.clear();
    assert!(matches!(plan(&desired, &kernel)[..], [Step::Attach(_)]));
}

#[test]
fn a_netkit_has_its_program_at_both_places_and_gets_back_the_one_that_is_lost() {
    let mut kernel = Observed::default();
    let mut netkit = wanted("a", 1);
    netkit.ends[0].kind = DeviceKind::Netkit;
    let desired = [netkit];
    let steps = plan(&desired, &kernel);
    let Step::MakePair(pair) = &steps[1] else { panic!("{steps:?}") };
    assert_eq!(pair.kind, DeviceKind::Netkit);
    apply(&mut kernel, &steps);
    assert_eq!(plan(&desired, &kernel), []);
    for hook in Hook::of_container(DeviceKind::Netkit, 65_537, "nba") {
        let mut kernel = kernel.clone();
        kernel.attached.remove(&(hook.program, hook.ifindex));
        assert_eq!(plan(&desired, &kernel), [Step::Attach(hook)]);
    }
}

#[test]
fn a_tap_is_taken_in_and_given_back_and_never_made_or_deleted() {
    let mut kernel = Observed::default();
    let mut vm = Wanted { made_as: None, ..wanted("vm", 1) };
    vm.ends[0].is_tap = true;
    let steps = plan(std::slice::from_ref(&vm), &kernel);
    assert!(matches!(steps[..2], [Step::TakeIn(65_537, _, 1500), Step::WriteEndpoint(..)]), "{steps:?}");
    assert!(matches!(steps[0].undo(), Some(Step::GiveBack(65_537, _))));
    apply(&mut kernel, &steps);
    assert_eq!(plan(std::slice::from_ref(&vm), &kernel), []);
    kernel.attached.clear();
    assert!(matches!(plan(&[vm], &kernel)[..], [Step::TakeIn(..)]), "by a new agent");
    assert!(matches!(plan(&[], &kernel)[..].last(), Some(Step::GiveBack(..))));
}

#[test]
fn what_was_undone_is_as_before() {
    let before = Observed::default();
    let steps = plan(&[on_lan("a", 1)], &before);
    let mut kernel = before.clone();
    apply(&mut kernel, &steps);
    let undo: Vec<_> = steps.iter().rev().filter_map(Step::undo).collect();
    apply(&mut kernel, &undo);
    assert_eq!(kernel, before);
}
