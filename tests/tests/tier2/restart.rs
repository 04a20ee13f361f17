//! The agent dies, comes back, and nobody notices.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use netbpf_common::path::V4;
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp};

use crate::lab::{Container, Lab};

/// Traffic of every kind that must survive what is done meanwhile.
fn nothing_is_lost_during(lab: &mut Lab, deed: impl FnOnce(&mut Lab)) {
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let c2 = lab.container("c2", &[]);
    let _inside = Server::tcp(&c1.place, "c1", 80);
    let _dns = Server::udp(&c1.place, "c1", 53);
    let _outside = Server::tcp(&lab.ext, "ext", 90);
    let open = |stream: std::io::Result<_>| Conversation::on(stream.expect("connected")).expect("greeted");
    let loopback = lab.loopback(8080);
    let conversations = [
        open(lab.ext.connect(lab.at_host(8080))),
        open(c2.place.connect(lab.at_ext(90))),
        open(c2.place.connect(c1.at(80))),
        open(lab.host.connect(loopback)),
        open(c1.place.connect(lab.at_host(8080))),
    ];
    let client = lab.ext.any_udp();
    let udp_to = lab.at_host(5353);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let talkers: Vec<_> = conversations
            .into_iter()
            .map(|mut conversation| {
                scope.spawn(|| {
                    let message = vec![7; 20_000];
                    let mut rounds = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        conversation.exchange(&message).expect("nothing is lost");
                        rounds += 1;
                    }
                    conversation.close().expect("an orderly end");
                    rounds
                })
            })
            .collect();
        let asker = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(ask_udp(&client, udp_to).expect("every datagram is answered").0.server, "c1");
            }
        });
        // The end of the deed, whatever it is, ends the traffic: a panic here must not wait for ever.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            deed(lab);
            new_connections_work(lab, &c1, &c2);
        }));
        stop.store(true, Ordering::Relaxed);
        for talker in talkers {
            assert!(talker.join().expect("nothing is lost") > 0);
        }
        asker.join().expect("nothing is lost");
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
}

fn new_connections_work(lab: &Lab, c1: &Container, c2: &Container) {
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered").server, "c1");
    assert_eq!(ask_tcp(&c2.place, lab.at_ext(90)).expect("answered").server, "ext");
    assert_eq!(ask_tcp(&c2.place, c1.at(80)).expect("answered").server, "c1");
    let loopback = lab.loopback(8080);
    assert_eq!(ask_tcp(&lab.host, loopback).expect("answered").server, "c1");
}

fn nothing_is_lost_when_the_agent_is_killed<F: TestFamily>() {
    nothing_is_lost_during(&mut Lab::new::<F>(), Lab::kill_agent);
}

fn nothing_is_lost_when_the_agent_is_killed_and_started_again<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    nothing_is_lost_during(&mut lab, |lab| {
        for _ in 0..3 {
            lab.kill_agent();
            lab.start_agent();
        }
    });
    assert!(lab.problems().is_empty(), "{:?}", lab.problems());
}

fn nothing_is_lost_when_the_agent_is_stopped_and_started_again<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    nothing_is_lost_during(&mut lab, |lab| {
        lab.stop_agent();
        lab.start_agent();
    });
    assert!(lab.problems().is_empty(), "{:?}", lab.problems());
}

fn a_started_agent_knows_what_it_knew<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let before = lab.snapshot();
    lab.kill_agent();
    lab.start_agent();
    lab.unchanged(&before, "a restart of the agent");
    let _server = Server::tcp(&c1.place, "c1", 80);
    let c2 = lab.container("c2", &[]);
    assert_ne!(c2.ip, c1.ip);
    lab.refused(&["publish", &c2.name, "-p", "8080:80"]);
    assert_eq!(ask_tcp(&c2.place, c1.at(80)).expect("answered").server, "c1");
    lab.done(&["rm", "-f", &c1.name, &c2.name]);
}

fn a_container_that_vanished_while_the_agent_was_away_is_cleaned_up<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    let empty = lab.snapshot();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    lab.kill_agent();
    lab.host.command("ip", &["netns", "delete", &c1.name]);
    lab.start_agent();
    lab.done(&["rm", "-f", &c1.name]);
    lab.unchanged(&empty, "a container that came and vanished");
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _server = Server::tcp(&c1.place, "c1", 80);
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered");
}

fn a_device_that_nobody_desires_is_removed_at_the_start<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    let empty = lab.snapshot();
    let c1 = lab.container("c1", &[]);
    lab.kill_agent();
    // What a kill between two steps of `rm` leaves: the namespace without its device.
    lab.host.command("ip", &["link", "delete", &c1.device]);
    lab.start_agent();
    lab.done(&["rm", "-f", &c1.name]);
    lab.unchanged(&empty, "a container without device");
}

#[test]
fn a_second_agent_on_the_same_state_refuses() {
    let lab = Lab::new::<V4>();
    let before = lab.snapshot();
    let outcome = lab.second_agent();
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    lab.unchanged(&before, "a second agent");
}

fn flows_go_on_under_ports_that_are_no_nat_ports_any_more<F: TestFamily>() {
    let mut lab = Lab::configured::<F>("nat_ports = \"20000-20999\"\n");
    let c1 = lab.container("c1", &[]);
    let _world = Server::tcp(&lab.ext, "ext", 90);
    let mut conversation = Conversation::on(c1.place.connect(lab.at_ext(90)).expect("connected")).expect("greeted");
    assert!((20_000..21_000).contains(&conversation.seen.client.port()));
    lab.stop_agent();
    lab.configure("nat_ports = \"25000-25999\"\n");
    lab.start_agent();
    for _ in 0..3 {
        conversation.exchange(b"still there?").expect("its answers find it");
    }
    ask_tcp(&c1.place, lab.at_ext(90)).expect("new ones are made");
}

fn a_size_that_does_not_fit_what_is_pinned_is_refused_by_the_name_of_its_setting<F: TestFamily>() {
    let mut lab = Lab::configured::<F>("flows = 8192\nflows_v6 = 8192\nhalf_open = 1024\n");
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let mut kept = Conversation::on(lab.ext.connect(lab.at_host(8080)).expect("connected")).expect("greeted");
    lab.stop_agent();
    for (settings, told) in [
        ("flows = 16384\nflows_v6 = 8192\nhalf_open = 1024\n", "flows = 8192"),
        ("flows = 8192\nflows_v6 = 16384\nhalf_open = 1024\n", "flows_v6 = 8192"),
        ("flows = 8192\nflows_v6 = 8192\nhalf_open = 2048\n", "half_open = 1024"),
        ("flows = 8192\nflows_v6 = 8192\nhalf_open = 1024\nfragments = 1024\n", "fragments = 8192"),
        ("flows = 8192\nflows_v6 = 8192\nhalf_open = 1024\nheld_fragments = 2048\n", "held_fragments = 1024"),
    ] {
        let line = lab.no_agent_with(settings);
        assert!(line.contains(told), "{line}");
    }
    kept.exchange(b"still there?").expect("the datapath goes on");
    lab.configure("flows = 8192\nflows_v6 = 8192\nhalf_open = 1024\n");
    lab.start_agent();
    kept.exchange(b"still there?").expect("the datapath goes on");
}

for_both!(
    nothing_is_lost_when_the_agent_is_killed,
    nothing_is_lost_when_the_agent_is_killed_and_started_again,
    nothing_is_lost_when_the_agent_is_stopped_and_started_again,
    a_started_agent_knows_what_it_knew,
    a_container_that_vanished_while_the_agent_was_away_is_cleaned_up,
    a_device_that_nobody_desires_is_removed_at_the_start,
    flows_go_on_under_ports_that_are_no_nat_ports_any_more,
    a_size_that_does_not_fit_what_is_pinned_is_refused_by_the_name_of_its_setting,
);
