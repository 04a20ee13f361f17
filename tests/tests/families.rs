//! Tier 0: that the tests themselves leave no address family out.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use netbpf_common::path::{V4, V6};
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::{self, Fixture};
use netbpf_tests::for_both;
use netbpf_tests::gateway::REACHABLE;
use netbpf_tests::headers::Headers;
use netbpf_tests::world::ETHERNET;

for_both!(every_packet_of_a_fixture_is_of_the_family_that_the_fixture_is_about);

/// Tests that are no function of a family, by their file, and why.
const ALONE: [(&str, &str, Why); 39] = [
    ("express", "every_fixture_comes_out_as_it_says_with_xdp_too", Why::AboutBoth),
    ("crossing", "a_container_that_sends_ipv6_from_an_address_that_stands_for_ipv4_is_nobody", CROSSING),
    ("crossing", "an_error_without_a_counterpart_or_about_no_answer_is_dropped_by_name", CROSSING),
    ("crossing", "machines_behind_a_nat64_are_machines_like_others", CROSSING),
    ("crossing", "the_traffic_class_and_the_hops_that_are_left_cross_over_too", CROSSING),
    (
        "crossing",
        "what_a_container_says_in_ipv4_of_a_question_is_told_in_ipv6_with_the_question_as_it_was_asked",
        CROSSING,
    ),
    ("crossing", "what_cannot_cross_over_is_dropped_by_name", CROSSING),
    ("crossing", "what_ipv6_says_of_an_answer_is_told_in_ipv4_with_the_answer_as_it_was_sent", CROSSING),
    ("crossing", "why_an_answer_does_not_go_on_is_told_in_ipv4_by_the_gateway", CROSSING),
    ("families", "every_fixture_is_there_for_both_families_but_for_what_one_has_alone", Why::AboutBoth),
    ("families", "every_test_runs_for_both_families_but_for_those_that_are_named", Why::AboutBoth),
    ("fuzzing", "damaged_requests_do_not_upset_the_api", Why::AboutNeither),
    ("fuzzing", "every_target_is_a_program_of_the_fuzz_crate_and_every_program_a_target", Why::AboutNeither),
    ("fuzzing", "the_dictionary_is_as_libfuzzer_reads_it", Why::AboutBoth),
    ("fuzzing", "the_fixtures_upset_no_fuzz_target", Why::AboutBoth),
    ("fuzzing", "what_was_found_once_is_not_found_again", Why::AboutBoth),
    ("interleavings", "flows_of_both_families_in_one_instance_are_whole_too", Why::AboutBoth),
    (
        "limits",
        "a_broadcast_of_ipv4_reaches_the_other_members_of_the_network_and_nobody_else",
        Why::OneHas("a broadcast address"),
    ),
    ("limits", "flows_of_both_families_count_for_one_container", Why::AboutBoth),
    (
        "lives",
        "the_option_that_says_how_long_a_large_packet_of_ipv6_is_is_in_none_of_its_segments",
        Why::OneHas("such an option"),
    ),
    ("paths", "every_fixture_comes_out_as_it_says", Why::AboutBoth),
    ("paths", "what_is_refused_leaves_no_flow", Why::AboutBoth),
    ("prefixes", "an_address_of_ipv4_keeps_all_but_its_prefix", Why::OneHas("no sum that has to stay")),
    ("prefixes", "an_address_of_ipv6_becomes_what_rfc_6296_says_and_no_sum_changes", NEUTRAL),
    ("prefixes", "an_address_of_ipv6_comes_back_as_it_was", NEUTRAL),
    ("prefixes", "the_examples_of_rfc_6296_come_out_as_it_says", NEUTRAL),
    ("properties", "no_bytes_of_any_kind_upset_a_path", Why::AboutNeither),
    (
        "sockets",
        "every_loopback_address_of_ipv4_is_the_one_and_none_is_that_which_a_port_is_published_on",
        Why::OneHas("more than one loopback address"),
    ),
    ("tier1", "a_trie_of_any_size_is_read_as_it_was_written", Why::AboutNeither),
    ("tier1", "every_fixture_comes_out_of_the_kernel_as_it_says", Why::AboutBoth),
    ("tier1", "no_length_of_a_packet_upsets_a_program", Why::AboutBoth),
    ("tier1", "the_verifier_takes_every_program", Why::AboutNeither),
    ("tier1", "the_verifier_walks_as_much_of_every_program_as_was_recorded_of_its_kernel", Why::AboutNeither),
    ("translation", "a_container_that_was_put_away_is_told_by_a_reset_in_its_own_family", CROSSING),
    ("translation", "a_process_of_the_host_is_answered_from_the_address_that_it_was_led_to", CROSSING),
    ("translation", "nothing_but_answers_goes_by_the_translator", CROSSING),
    ("translation", "two_clients_with_the_same_port_are_told_apart", CROSSING),
    (
        "translation",
        "what_an_ipv6_client_asks_a_container_with_ipv4_and_what_it_answers_arrives_in_the_family_of_each",
        CROSSING,
    ),
    ("translation", "what_is_too_big_in_ipv6_is_told_in_ipv4_with_what_fits", CROSSING),
];

const NEUTRAL: Why = Why::OneHas("a translation that leaves checksums as they are");

const CROSSING: Why = Why::OneHas("clients that cross over to the other");

/// Why a test is no function of a family.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "said to who reads")]
enum Why {
    /// It goes through all there is of both.
    AboutBoth,
    /// No packet is looked at.
    AboutNeither,
    /// What it is about has no counterpart.
    OneHas(&'static str),
}

/// Of files and tests in them.
type Names = BTreeSet<(String, String)>;

/// Tests of the files of this directory: those for both families, and the others.
fn tests() -> (Names, Names) {
    let (mut both, mut alone) = (BTreeSet::new(), BTreeSet::new());
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for entry in fs::read_dir(directory).expect("the directory of this file") {
        let path = entry.expect("readable").path();
        let Some(file) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".rs")) else { continue };
        let text = fs::read_to_string(&path).expect("a file of Rust");
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if line == "#[test]" {
                let line = lines.by_ref().find(|line| !line.starts_with("#[")).expect("a function follows");
                let name = line.strip_prefix("fn ").and_then(|rest| rest.split_once('(')).expect("a function").0;
                assert!(alone.insert((file.to_owned(), name.to_owned())));
            }
            let Some(mut list) = line.strip_prefix("for_both!(").map(str::to_owned) else { continue };
            while !list.ends_with(");") {
                list.push_str(lines.next().expect("the list has an end"));
            }
            let names = list.trim_end_matches(");").split(',').filter(|name| !name.is_empty());
            for name in names {
                assert!(text.contains(&format!("fn {name}<")), "{name} is no function of a family");
                assert!(both.insert((file.to_owned(), name.to_owned())), "{name} twice");
            }
        }
    }
    (both, alone)
}

#[test]
fn every_test_runs_for_both_families_but_for_those_that_are_named() {
    let (both, alone) = tests();
    let named = ALONE.map(|(file, name, _)| (file.to_owned(), name.to_owned()));
    assert_eq!(alone, BTreeSet::from(named), "a test that is no function of a family says why here");
    assert!(both.len() > 120, "only {} tests run for both families", both.len());
}

/// What a fixture says, step by step.
fn said(fixtures: &[Fixture]) -> Vec<(&'static str, Vec<&'static str>)> {
    fixtures.iter().map(|fixture| (fixture.name, fixture.steps.iter().map(|step| step.says).collect())).collect()
}

#[test]
fn every_fixture_is_there_for_both_families_but_for_what_one_has_alone() {
    let (v4, v6) = (said(&fixture::common::<V4>()), said(&fixture::common::<V6>()));
    // How often a frame is cut off depends on its length.
    let without_cuts = |fixtures: &[(&'static str, Vec<&'static str>)]| {
        let said = fixtures.iter().map(|(name, says)| (*name, says.iter().filter(|says| **says != "cut off").count()));
        said.collect::<Vec<_>>()
    };
    assert_eq!(without_cuts(&v4), without_cuts(&v6));
    assert!(v4.len() > 30, "only {} fixtures", v4.len());
    for mode in REACHABLE {
        let (v4, v6) = (said(&fixture::of_mode::<V4>(mode)), said(&fixture::of_mode::<V6>(mode)));
        assert_eq!(v4, v6, "{mode:?}");
        assert!(v4.len() > 6, "only {} fixtures of {mode:?}", v4.len());
    }
    let all: BTreeSet<_> = said(&fixture::all()).into_iter().map(|(name, _)| name).collect();
    let common: BTreeSet<_> = v4.into_iter().map(|(name, _)| name).collect();
    let alone: Vec<_> = all.difference(&common).copied().collect();
    assert_eq!(
        alone,
        [
            "ARP is answered for the gateway and for neighbours, and for nobody else",
            "an address of the link leads nowhere else",
            "an address that only says an IPv4 address, or that there is none, leads nowhere",
            "extension headers are looked through and left as they are",
            "extension headers from outside that are not looked through are the host's own affair",
            "extension headers that hide something, or lead elsewhere, are dropped by name and leave no flow",
            "neighbour discovery is answered for the gateway and for neighbours, and for nobody else",
            "what a container must not send over IPv4 is dropped by name and leaves no flow",
            "what a container must not tell its link is dropped by name",
            "what has options is the host's own affair",
        ],
        "what one family has alone is named here"
    );
}

fn every_packet_of_a_fixture_is_of_the_family_that_the_fixture_is_about<F: TestFamily>() {
    let ethertype = bytemuck::bytes_of(&F::ETHERTYPE);
    let of_modes = REACHABLE.map(fixture::of_mode::<F>).concat();
    for step in [fixture::common::<F>(), of_modes].concat().iter().flat_map(|fixture| &fixture.steps) {
        if let Some(headers) = Headers::read(&step.input).filter(|_| &step.input[12..ETHERNET] == ethertype) {
            // The version of a header may be wrong on purpose.
            let is_wrong = step.says.starts_with("a version");
            assert!(is_wrong || headers.source.is_ipv4() == F::HOST.is_ipv4(), "{}", step.says);
            continue;
        }
        let is_cut_off = matches!(step.says, "cut off" | "a frame with a tag" | "a tagged frame");
        let is_broken = step.says.starts_with("a version");
        assert!(is_cut_off || is_broken, "{}", step.says);
    }
}
