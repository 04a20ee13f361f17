//! Which tests of tier 2 run in virtual machines, where each takes ten to thirty times as long as on a machine.

use anyhow::{Result, bail};

/// When a test runs there.
#[derive(Clone, Copy, PartialEq)]
enum When {
    /// In every run, also that of `ci`.
    Always,
    /// In a run of all.
    InFull,
    /// Never, unless it is asked for by name.
    Never,
}

use When::{Always, InFull, Never};

/// What a test's name begins with, and when it runs; of several that fit, the longest counts. What depends on the kernel runs: hooks and their
/// replacement, devices, the ways of packets. What is the agent's alone is not run again on every kernel.
const TESTS: [(&str, When); 104] = [
    ("allowed::", Never),
    ("allowed::a_list_of_devices", InFull),
    ("api::", Never),
    ("arp::", Never),
    ("arp::the_gateway", InFull),
    ("basics::", Never),
    ("basics::the_main_job_is_done_on_a_host_that_forwards_nothing", Always),
    ("broadcast::", Never),
    ("broadcast::what_a_container_says", InFull),
    // A gibibyte.
    ("bulk::", Never),
    ("churn::", Never),
    ("control::", Never),
    ("control::who_takes_a_new_containers_filter", InFull),
    ("control::what_keeps_links", InFull),
    ("crash::", Never),
    ("differential::", Never),
    ("docker_users::", Never),
    ("doctor::", Never),
    ("doctor::a_healthy_host", InFull),
    ("doctor::programs_of_others", InFull),
    ("drivers::", Never),
    ("drivers::a_container_on_macvlan", InFull),
    ("drivers::what_the_kernel_lacks", InFull),
    ("errors::", Never),
    ("errors::a_narrow_wire", InFull),
    ("errors::traceroute", InFull),
    ("exposure::", Never),
    ("express::", Never),
    ("express::what_is_published", InFull),
    // As many packets as a machine has to bear.
    ("flood::", Never),
    ("flows::", Never),
    ("flows::a_flow_is_listed", InFull),
    ("fragments::", Never),
    ("fragments::datagrams_of_many", InFull),
    ("gateway_errors::", Never),
    ("gateway_errors::a_process_is_told", InFull),
    ("hairpin::", Never),
    ("hairpin::a_container_reaches_itself", InFull),
    ("hostile::", Never),
    ("hostile::a_spoofed_source", InFull),
    ("hostile::a_tagged_frame_from_outside", InFull),
    ("hostile::outside_cannot_reach", InFull),
    ("icmp::", Never),
    ("icmp::pings_go", Always),
    // What this machine's kernel need not have.
    ("kernels::", InFull),
    ("left_sums::", Never),
    ("left_sums::a_checksum", InFull),
    ("lifecycle::", Never),
    ("lifecycle::a_removed_container", InFull),
    ("losses::", Never),
    ("mapping::", Never),
    ("mapping::a_container_is_one", InFull),
    ("masquerade::", Never),
    ("masquerade::outside_sees", InFull),
    ("modes::", Never),
    ("modes::routed", InFull),
    ("mtu::", Never),
    ("mtu::a_container_learns", InFull),
    ("mtu::a_datagram_too_large", InFull),
    ("names::", Never),
    ("netkit::", InFull),
    ("networks::", Never),
    ("networks::networks_reach", InFull),
    ("package::", Never),
    ("perimeter::", Never),
    ("privileges::", Never),
    ("privileges::an_agent_keeps", InFull),
    ("process::", Never),
    ("publish::", Never),
    ("publish::a_host_process", InFull),
    ("publish::published_on_loopback", InFull),
    ("reboot::", Never),
    ("rebuild::", Never),
    ("refusals::", Never),
    ("repair::", Never),
    ("repair::what_is_taken_away", Always),
    ("restart::", Never),
    ("restart::nothing_is_lost_when_the_agent_is_killed_and", InFull),
    ("service::", Never),
    ("settings::", Never),
    ("shared::", Never),
    ("sockets::", Never),
    ("sockets::a_program_reaches", Always),
    ("sockets::udp_works", InFull),
    ("store::", Never),
    ("taps::", Never),
    ("taps::a_machine_speaks", InFull),
    ("tcp::", Never),
    ("tcp::a_published_port_without", InFull),
    ("tcp::outside_reaches", Always),
    ("udp::", Never),
    ("udp::a_client_that_never", InFull),
    ("udp::segments_that", InFull),
    ("uninstall::", Never),
    ("uninstall::uninstall_with_the", Always),
    ("uninstall::what_others", InFull),
    // Under load, and with five starts: minutes.
    ("upgrade::", Never),
    ("upgrade::other_programs_take_over_and_back_under_load::v4", InFull),
    ("uplinks::", Never),
    ("uplinks::a_device_that_appears", InFull),
    ("uplinks::a_tunnel", InFull),
    ("v6::", Never),
    ("v6::discovery::the_gateway", InFull),
    ("v6::translation::clients", InFull),
];

/// The names of the tests that run on a kernel. One of which this page does not say when it runs is an error: nothing is left out by oversight.
pub(super) fn chosen(names: &[String], is_quick: bool) -> Result<Vec<&str>> {
    let mut chosen = Vec::new();
    for name in names {
        match when(name) {
            Some(Always) => chosen.push(name.as_str()),
            Some(InFull) if !is_quick => chosen.push(name.as_str()),
            Some(_) => {}
            None => bail!("xtask/src/vm/list.rs does not say when the test {name} runs in virtual machines"),
        }
    }
    for (beginning, _) in TESTS {
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
