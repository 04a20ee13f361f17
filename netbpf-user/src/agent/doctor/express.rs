//! Uplinks that are served ahead of the host's stack (XDP).

use super::subject::Subject;
use crate::agent::state::UplinkState;
use crate::api::types::Finding;
use crate::net::device::Device;

const CHECK: &str = "xdp-uplinks";

/// Looks at all of them.
pub(super) fn look(subject: &Subject, devices: &[Device]) -> Finding {
    let uplinks = subject.uplinks.iter().flatten();
    found(uplinks.filter_map(|(ifindex, uplink)| {
        let device = devices.iter().find(|device| device.ifindex == *ifindex);
        Some((uplink, uplink.express.as_ref()?, device.is_some_and(|device| device.is_veth || device.is_tun)))
    }))
}

/// `uplinks`: each with how it is served, and whether frames may come that were on no wire.
fn found<'a>(uplinks: impl Iterator<Item = (&'a UplinkState, &'a Result<(), String>, bool)>) -> Finding {
    let (mut wrong, mut right) = (Vec::new(), Vec::new());
    for (UplinkState { name, .. }, served, has_no_wire) in uplinks {
        match served {
            Err(why) => wrong.push((format!("{name} is served without XDP"), why.clone())),
            Ok(()) => right.push(name.as_str()),
        }
        if served.is_ok() && has_no_wire {
            wrong.push((
                format!("{name} is a veth or a tap, whose other end may leave checksums to be computed, and VLAN tags beside a frame"),
                "XDP knows of neither, and containers lose such packets: ethtool -K DEVICE tx off txvlan off at the other end".to_owned(),
            ));
        }
    }
    if wrong.is_empty() {
        let found = if right.is_empty() {
            "no uplink is served by XDP".to_owned()
        } else {
            format!("served by XDP: {}", right.join(", "))
        };
        return Finding::well(CHECK, found);
    }
    let (found, advice): (Vec<_>, Vec<_>) = wrong.into_iter().unzip();
    Finding::amiss(CHECK, found.join("; "), advice.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_of_xdp_is_told_by_device() {
        let uplink = UplinkState { name: "eth7".into(), ..UplinkState::default() };
        let told = |served: Result<(), String>, has_no_wire| found([(&uplink, &served, has_no_wire)].into_iter());
        assert!(found(std::iter::empty()).ok && told(Ok(()), false).ok);
        let refused = told(Err("its driver has none".into()), true);
        assert!(!refused.ok && refused.advice == "its driver has none", "{refused:?}");
        assert!(told(Ok(()), true).found.contains("eth7 is a veth"));
    }
}
