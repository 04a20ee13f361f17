//! What containers have lost inside their namespaces. A container's inside is its own: this is told, never put back.

use std::path::PathBuf;

use super::Engine;
use super::plan::Inside;
use super::state::State;
use crate::error::Result;
use crate::net::inside::Seen;
use crate::net::namespace::Visitor;

/// What a container is to have.
struct View {
    container: String,
    netns: PathBuf,
    ends: Vec<Inside>,
}

impl Engine {
    /// What is missing inside of containers, by their names. The state is not held meanwhile: there may be thousands.
    pub(super) fn problems_inside(&self, state: &State) -> impl Future<Output = Result<Vec<(String, String)>>> + use<> {
        let own = state.containers.values().filter(|record| {
            !record.is_host && record.shared_with.is_none() && !record.is_machine() && record.exists()
        });
        let views: Vec<View> = own
            .map(|record| View {
                container: record.name.clone(),
                netns: record.netns.clone(),
                ends: record.ours(&state.networks).map(|end| record.inside(&state.networks, end)).collect(),
            })
            .collect();
        Visitor::run(move |visitor| Ok(look(visitor, &views)))
    }
}

fn look(visitor: &Visitor, views: &[View]) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    for view in views {
        // One that is gone by now is told of elsewhere.
        let Ok(seen) = visitor.visit(&view.netns, Seen::here) else { continue };
        let lost = view.ends.iter().flat_map(|end| missing(end, &seen));
        problems.extend(lost.map(|lost| (view.container.clone(), format!("container {}: {lost}", view.container))));
    }
    problems
}

/// What a container lacks of an end.
fn missing(end: &Inside, seen: &Seen) -> Vec<String> {
    let name = &end.name;
    if !seen.up.contains(name) {
        return vec![format!("its {name} is down, or gone")];
    }
    let has = |address| seen.addresses.contains(&(name.clone(), address));
    let lost = end.addresses.iter().map(|net| net.addr()).filter(|address| !has(*address));
    let mut missing: Vec<String> = lost.map(|address| format!("its {name} has lost the address {address}")).collect();
    for (gateway, version) in end.gateways.iter().map(|gateway| (gateway, usize::from(gateway.is_ipv6()))) {
        if !seen.leads_out[version] {
            missing.push(format!("it has lost its default route by {gateway}"));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_has_lost_is_told_one_by_one() {
        let end = Inside {
            name: "eth0".into(),
            addresses: vec!["172.30.0.2/16".parse().unwrap(), "fd00::2/64".parse().unwrap()],
            gateways: vec!["172.30.0.1".parse().unwrap()],
        };
        let address = |text: &str| ("eth0".to_owned(), text.parse().unwrap());
        let all = Seen {
            up: ["eth0".to_owned()].into(),
            addresses: [address("172.30.0.2"), address("fd00::2"), address("fd00::9")].into(),
            leads_out: [true, false],
        };
        assert!(missing(&end, &all).is_empty());
        let one = Seen { addresses: [address("172.30.0.2")].into(), leads_out: [false; 2], ..all.clone() };
        assert_eq!(
            missing(&end, &one),
            ["its eth0 has lost the address fd00::2", "it has lost its default route by 172.30.0.1"]
        );
        let down = Seen { up: Default::default(), ..all };
        assert_eq!(missing(&end, &down), ["its eth0 is down, or gone"]);
    }
}
