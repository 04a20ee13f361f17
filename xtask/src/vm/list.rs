//! Which tests of tier 2 run in virtual machines, where each takes ten to thirty times as long as on a machine.

use anyhow::{Result, bail};

/// When a test runs there.
#[derive(Clone, Copy, PartialEq)]
enum When {
    /// In every run, also that of `ci`.
    Always(For),
    /// In a run of all.
    InFull(For),
    /// Never, unless it is asked for by name.
    Never,
}

/// Of a test that there is for both families, which run.
#[derive(Clone, Copy, PartialEq)]
enum For {
    /// Both.
    Both,
    /// That for IPv4 on one kernel, that for IPv6 on the other.
    InTurn,
}

use For::{Both, InTurn};
use When::{Always, InFull, Never};

/// What a kernel's run of all differs in.
#[derive(Clone, Copy)]
pub(super) struct Share {
    /// The family that tests are run for in turn, as their names end.
    pub(super) family: &'static str,
    /// Whether it has links for programs on devices (TCX), and netkit.
    pub(super) has_links: bool,
}

/// Those that suspend the machine.
pub(super) const ASLEEP: &str = "kernels::a_machine_that_has_slept";

/// What a test's name begins with, and when it runs; of several that fit, the longest counts. What depends on the kernel runs: hooks and their
/// replacement, devices, the ways of packets. What is the agent's alone is not run again on every kernel.
const TESTS: [(&str, When); 92] = [
    ("allowed::", Never),
    ("api::", Never),
    ("arp::", Never),
    ("arp::the_gateway", InFull(InTurn)),
    ("basics::", Never),
    ("basics::the_main_job_is_done_on_a_host_that_forwards_nothing", Always(Both)),
    ("broadcast::", Never),
    // A gibibyte.
    ("bulk::", Never),
    ("churn::", Never),
    ("control::", Never),
    ("control::who_takes_a_new_containers_filter", InFull(InTurn)),
    ("control::what_keeps_links", InFull(InTurn)),
    ("crash::", Never),
    ("differential::", Never),
    ("docker_users::", Never),
    ("doctor::", Never),
    ("doctor::a_healthy_host", InFull(InTurn)),
    ("doctor::programs_of_others", InFull(InTurn)),
    ("drivers::", Never),
    ("drivers::a_container_on_macvlan", InFull(InTurn)),
    ("drivers::what_the_kernel_lacks", InFull(InTurn)),
    ("errors::", Never),
    ("errors::a_narrow_wire", InFull(InTurn)),
    ("errors::traceroute", InFull(InTurn)),
    ("exposure::", Never),
    ("express::", Never),
    ("express::what_is_published", InFull(InTurn)),
    // As many packets as a machine has to bear.
    ("flood::", Never),
    ("flows::", Never),
    ("fragments::", Never),
    ("fragments::datagrams_of_many", InFull(InTurn)),
    ("gateway_errors::", Never),
    ("gateway_errors::a_process_is_told", InFull(InTurn)),
    ("hairpin::", Never),
    ("hairpin::a_container_reaches_itself", InFull(InTurn)),
    ("hostile::", Never),
    ("hostile::a_tagged_frame_from_outside", InFull(InTurn)),
    ("icmp::", Never),
    ("icmp::pings_go", Always(InTurn)),
    // What this machine's kernel need not have.
    ("kernels::", InFull(InTurn)),
    // By themselves, with their files in memory.
    (ASLEEP, Never),
    ("left_sums::", Never),
    ("left_sums::a_checksum", InFull(InTurn)),
    ("lifecycle::", Never),
    ("lifecycle::a_removed_container", InFull(InTurn)),
    ("losses::", Never),
    ("mapping::", Never),
    ("masquerade::", Never),
    ("modes::", Never),
    ("mtu::", Never),
    ("mtu::a_container_learns", InFull(InTurn)),
    ("mtu::a_datagram_too_large", InFull(InTurn)),
    ("names::", Never),
    ("netkit::", InFull(InTurn)),
    ("netkit::everybody", InFull(Both)),
    ("netkit::what_a_container_sends", InFull(Both)),
    ("networks::", Never),
    ("package::", Never),
    ("perimeter::", Never),
    ("privileges::", Never),
    ("privileges::an_agent_keeps", InFull(InTurn)),
    ("process::", Never),
    ("publish::", Never),
    ("reboot::", Never),
    ("reboot::what_comes_back_has_the_device", InFull(InTurn)),
    ("rebuild::", Never),
    ("refusals::", Never),
    ("repair::", Never),
    ("repair::what_is_taken_away", Always(InTurn)),
    ("restart::", Never),
    ("restart::nothing_is_lost_when_the_agent_is_killed_and", InFull(InTurn)),
    ("service::", Never),
    ("settings::", Never),
    ("shared::", Never),
    ("sockets::", Never),
    ("sockets::a_program_reaches", Always(InTurn)),
    ("store::", Never),
    ("taps::", Never),
    ("taps::a_machine_speaks", InFull(InTurn)),
    ("tcp::", Never),
    ("tcp::outside_reaches", Always(Both)),
    ("udp::", Never),
    ("udp::segments_that", InFull(InTurn)),
    ("uninstall::", Never),
    ("uninstall::uninstall_with_the", Always(InTurn)),
    ("uninstall::what_others", InFull(InTurn)),
    // Under load.
    ("upgrade::", Never),
    ("upgrade::other_programs_take_over", InFull(InTurn)),
    ("uplinks::", Never),
    ("uplinks::a_tunnel", InFull(InTurn)),
    ("v6::", Never),
    ("v6::translation::clients", InFull(InTurn)),
];

/// How the names of tests for both families end.
pub(super) const FAMILIES: [&str; 2] = ["::v4", "::v6"];

/// What has nothing to say on a kernel without links for programs on devices.
const WITH_LINKS: [&str; 11] = [
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
    "reboot::what_comes_back_has_the_device",
];

/// What differs with such links from the kernel of this machine in nothing.
const WITHOUT_LINKS: [&str; 4] = ["lifecycle::", "restart::", "uninstall::what_others", "upgrade::"];

/// The names of the tests that run on a kernel. One of which this page does not say when it runs is an error: nothing is left out by oversight.
pub(super) fn chosen(names: &[String], share: Share, is_quick: bool) -> Result<Vec<&str>> {
    let elsewhere: &[&str] = if share.has_links { &WITHOUT_LINKS } else { &WITH_LINKS };
    let is_one_of = |name: &String, beginnings: &[&str]| beginnings.iter().any(|beginning| name.starts_with(beginning));
    let mut chosen = Vec::new();
    for name in names {
        let Some(when) = when(name) else {
            bail!("xtask/src/vm/list.rs does not say when the test {name} runs in virtual machines");
        };
        let families = match when {
            Always(families) => families,
            InFull(families) if !is_quick => families,
            InFull(_) | Never => continue,
        };
        let has_turn =
            families == Both || !FAMILIES.iter().any(|family| *family != share.family && name.ends_with(family));
        if has_turn && !is_one_of(name, elsewhere) {
            chosen.push(name.as_str());
        }
    }
    let spoken_of = TESTS.iter().map(|(beginning, _)| beginning).chain(&WITH_LINKS).chain(&WITHOUT_LINKS);
    for beginning in spoken_of {
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
        assert!(when("icmp::pings_go_between::v4") == Some(Always(InTurn)));
        assert!(when("icmp::another::v6") == Some(Never));
        assert!(when("unheard_of::test").is_none());
    }
}
