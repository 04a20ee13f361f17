//! Uplinks that are served ahead of the host's stack (XDP).

use super::subject::Subject;
use crate::agent::state::UplinkState;
use crate::api::types::Finding;
use crate::datapath::strips_vlan_tags;
use crate::net::device::Device;

const CHECK: &str = "xdp-uplinks";

/// Looks at all of them.
pub(super) fn look(subject: &Subject, devices: &[Device]) -> Finding {
    let uplinks = subject.uplinks.iter().flatten();
    found(uplinks.filter_map(|(ifindex, uplink)| {
        let device = devices.iter().find(|device| device.ifindex == *ifindex);
        let strips = strips_vlan_tags(&uplink.name).unwrap_or(false);
        Some((uplink, uplink.express.as_ref()?, strips, device.is_some_and(|device| device.is_veth)))
    }))
}

/// `uplinks`: each with how it is served, whether it strips VLAN tags, and whether it is a veth.
fn found<'a>(uplinks: impl Iterator<Item = (&'a UplinkState, &'a Result<(), String>, bool, bool)>) -> Finding {
    let (mut wrong, mut right) = (Vec::new(), Vec::new());
    for (UplinkState { name, .. }, served, strips, is_veth) in uplinks {
        match served {
            Err(why) => wrong.push((format!("{name} is served without XDP"), why.clone())),
            Ok(()) => right.push(name.as_str()),
        }
        if served.is_ok() && strips {
            wrong.push((
                format!("{name} takes VLAN tags out of frames before XDP sees them"),
                format!("a tagged frame with the addresses and ports of an untagged connection would pass for one of it: ethtool -K {name} rxvlan off"),
            ));
        }
        if served.is_ok() && is_veth {
            wrong.push((
                format!("{name} is a veth, whose other end may leave checksums to be computed that XDP cannot know of"),
                "containers lose such packets: ethtool -K DEVICE tx off at the other end".to_owned(),
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
        let told =
            |served: Result<(), String>, strips, is_veth| found([(&uplink, &served, strips, is_veth)].into_iter());
        assert!(found(std::iter::empty()).ok && told(Ok(()), false, false).ok);
        let refused = told(Err("its driver has none".into()), true, true);
        assert!(!refused.ok && refused.advice == "its driver has none", "{refused:?}");
        assert!(told(Ok(()), true, false).advice.contains("ethtool -K eth7 rxvlan off"));
        assert!(told(Ok(()), false, true).found.contains("eth7 is a veth"));
    }
}
