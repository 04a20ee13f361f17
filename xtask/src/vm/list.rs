//! Which tests of tier 2 run in virtual machines, where each takes ten to thirty times as long as on a machine.

use anyhow::{Result, bail};

/// When a test runs there.
#[derive(Clone, Copy, PartialEq)]
enum When {
    /// In every run, also that of `ci`.
    Always,
    /// In a run of all.
    InFull,
    /// In a run of all; one that there is for both families runs for IPv4 on one kernel and for IPv6 on the other.
    InTurn,
    /// Never, unless it is asked for by name.
    Never,
}

use When::{Always, InFull, InTurn, Never};

/// What a kernel's run of all differs in.
#[derive(Clone, Copy)]
pub(super) struct Share {
    /// The family that tests are run for in turn, as their names end.
    pub(super) family: &'static str,
    /// Whether it has links for programs on devices (TCX), and netkit.
    pub(super) has_links: bool,
}

/// What a test's name begins with, and when it runs; of several that fit, the longest counts. What depends on the kernel runs: hooks and their
/// replacement, devices, the ways of packets. What is the agent's alone is not run again on every kernel.
const TESTS: [(&str, When); 107] = [
    ("allowed::", Never),
    ("allowed::a_list_of_devices", InTurn),
    ("api::", Never),
    ("arp::", Never),
    ("arp::the_gateway", InTurn),
    ("basics::", Never),
    ("basics::the_main_job_is_done_on_a_host_that_forwards_nothing", Always),
    ("broadcast::", Never),
    ("broadcast::what_a_container_says", InTurn),
    // A gibibyte.
    ("bulk::", Never),
    ("churn::", Never),
    ("control::", Never),
    ("control::who_takes_a_new_containers_filter", InTurn),
    ("control::what_keeps_links", InTurn),
    ("crash::", Never),
    ("differential::", Never),
    ("docker_users::", Never),
    ("doctor::", Never),
    ("doctor::a_healthy_host", InTurn),
    ("doctor::programs_of_others", InTurn),
    ("drivers::", Never),
    ("drivers::a_container_on_macvlan", InTurn),
    ("drivers::what_the_kernel_lacks", InTurn),
    ("errors::", Never),
    ("errors::a_narrow_wire", InTurn),
    ("errors::traceroute", InTurn),
    ("exposure::", Never),
    ("express::", Never),
    ("express::what_is_published", InTurn),
    // As many packets as a machine has to bear.
    ("flood::", Never),
    ("flows::", Never),
    ("flows::a_flow_is_listed", InTurn),
    ("fragments::", Never),
    ("fragments::datagrams_of_many", InFull),
    ("gateway_errors::", Never),
    ("gateway_errors::a_process_is_told", InTurn),
    ("hairpin::", Never),
    ("hairpin::a_container_reaches_itself", InTurn),
    ("hostile::", Never),
    ("hostile::a_spoofed_source", InTurn),
    ("hostile::a_tagged_frame_from_outside", InTurn),
    ("hostile::outside_cannot_reach", InTurn),
    ("icmp::", Never),
    ("icmp::pings_go", Always),
    // What this machine's kernel need not have.
    ("kernels::", InTurn),
    ("left_sums::", Never),
    ("left_sums::a_checksum", InFull),
    ("lifecycle::", Never),
    ("lifecycle::a_removed_container", InTurn),
    ("losses::", Never),
    ("mapping::", Never),
    ("mapping::a_container_is_one", InTurn),
    ("masquerade::", Never),
    ("masquerade::outside_sees", InTurn),
    ("modes::", Never),
    ("modes::routed", InTurn),
    ("mtu::", Never),
    ("mtu::a_container_learns", InTurn),
    ("mtu::a_datagram_too_large", InTurn),
    ("names::", Never),
    ("netkit::", InFull),
    ("netkit::a_device_that", InTurn),
    ("netkit::the_", InTurn),
    ("netkit::what_is_detached", InTurn),
    ("networks::", Never),
    ("networks::networks_reach", InTurn),
    ("package::", Never),
    ("perimeter::", Never),
    ("privileges::", Never),
    ("privileges::an_agent_keeps", InTurn),
    ("process::", Never),
    ("publish::", Never),
    ("publish::a_host_process", InTurn),
    ("publish::published_on_loopback", InTurn),
    ("reboot::", Never),
    ("rebuild::", Never),
    ("refusals::", Never),
    ("repair::", Never),
    ("repair::what_is_taken_away", Always),
    ("restart::", Never),
    ("restart::nothing_is_lost_when_the_agent_is_killed_and", InTurn),
    ("service::", Never),
    ("settings::", Never),
    ("shared::", Never),
    ("sockets::", Never),
    ("sockets::a_program_reaches", Always),
    ("sockets::udp_works", InTurn),
    ("store::", Never),
    ("taps::", Never),
    ("taps::a_machine_speaks", InTurn),
    ("tcp::", Never),
    ("tcp::a_published_port_without", InTurn),
    ("tcp::outside_reaches", Always),
    ("udp::", Never),
    ("udp::a_client_that_never", InTurn),
    ("udp::segments_that", InTurn),
    ("uninstall::", Never),
    ("uninstall::uninstall_with_the", Always),
    ("uninstall::what_others", InTurn),
    // Under load, and with five starts: minutes.
    ("upgrade::", Never),
    ("upgrade::other_programs_take_over_and_back_under_load::v4", InTurn),
    ("uplinks::", Never),
    ("uplinks::a_device_that_appears", InTurn),
    ("uplinks::a_tunnel", InTurn),
    ("v6::", Never),
    ("v6::discovery::the_gateway", InTurn),
    ("v6::translation::clients", InTurn),
];

/// How the names of tests for both families end.
pub(super) const FAMILIES: [&str; 2] = ["::v4", "::v6"];

/// What has nothing to say on a kernel without links for programs on devices.
const WITH_LINKS: [&str; 10] = [
    "control::what_keeps_links",
    "control::who_takes_a_new_containers_filter",
    "doctor::programs_of_others",
    "netkit::a_container_sends",
    "netkit::a_device_that",
    "netkit::a_frame",
    "netkit::a_restart",
    "netkit::everybody",
    "netkit::the_settings",
    "netkit::what_",
];

/// The names of the tests that run on a kernel. One of which this page does not say when it runs is an error: nothing is left out by oversight.
pub(super) fn chosen(names: &[String], share: Share, is_quick: bool) -> Result<Vec<&str>> {
    let mut chosen = Vec::new();
    for name in names {
        let Some(when) = when(name) else {
            bail!("xtask/src/vm/list.rs does not say when the test {name} runs in virtual machines");
        };
        let runs = match when {
            Always => true,
            InFull => !is_quick,
            InTurn => {
                !is_quick && (name.ends_with(share.family) || !FAMILIES.iter().any(|family| name.ends_with(family)))
            }
            Never => false,
        };
        if runs && (share.has_links || !WITH_LINKS.iter().any(|beginning| name.starts_with(beginning))) {
            chosen.push(name.as_str());
        }
    }
    for beginning in TESTS.iter().map(|(beginning, _)| beginning).chain(&WITH_LINKS) {
        if !names.iter().any(|name| name.starts_with(beginning)) {
            bail!("xtask/src/vm/list.rs speaks of tests {beginning}..., and there are none");
        }
    }
    Ok(chosen)
}

fn when(name: &str) -> Option<When> {
    let known = TESTS.into_iter().filter(|(beginning, _)| name.starts_with(beginning));
    known.max_by_key(|(beginning, _)| beginning.len()).map(|(_, when)| when)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_counts() {
        assert!(when("icmp::pings_go_between::v4") == Some(Always));
        assert!(when("icmp::another::v6") == Some(Never));
        assert!(when("unheard_of::test").is_none());
    }
}
