//! The main job in one go, on hosts that are set up differently.

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::ping::Pinger;
use netbpf_tests::server::{Server, ask_tcp, ask_udp};
use netbpf_tests::wait::soon;

use crate::lab::{Lab, Sysctls};

fn the_main_job_is_done(lab: &Lab) {
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let c2 = lab.container("c2", &[]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let _dns = Server::udp(&c1.place, "c1", 53);
    let _world = Server::tcp(&lab.ext, "ext", 90);
    let _world_dns = Server::udp(&lab.ext, "ext", 90);

    let seen = ask_tcp(&c2.place, c1.at(80)).expect("c2 reaches c1");
    assert_eq!((seen.server.as_str(), seen.client.ip()), ("c1", c2.ip));
    let seen = ask_tcp(&lab.ext, lab.at_host(8080)).expect("outside reaches a published port");
    assert_eq!((seen.server.as_str(), seen.client.ip()), ("c1", lab.ext_ip));
    let seen = ask_tcp(&c1.place, lab.at_ext(90)).expect("c1 reaches outside");
    assert_eq!((seen.server.as_str(), seen.client.ip()), ("ext", lab.host_ip));
    ask_tcp(&lab.host, c1.at(80)).expect("the host reaches a container");
    ask_tcp(&lab.host, lab.loopback(8080)).expect("the host reaches 127.0.0.1:published");
    ask_tcp(&c1.place, lab.at_host(8080)).expect("c1 reaches itself by its published port");
    ask_tcp(&c2.place, lab.at_host(8080)).expect("c2 reaches c1 by its published port");

    let (seen, from) = ask_udp(&lab.ext.any_udp(), lab.at_host(5353)).expect("outside reaches a published UDP port");
    assert_eq!((seen.client.ip(), from), (lab.ext_ip, lab.at_host(5353)));
    let (seen, _) = ask_udp(&c2.place.any_udp(), lab.at_ext(90)).expect("c2 reaches outside by UDP");
    assert_eq!(seen.client.ip(), lab.host_ip);

    for target in [c1.ip, lab.gateway(), lab.host_ip, lab.ext_ip] {
        let ping = Pinger::new(&c2.place, 7);
        ping.send(target, 1, b"ping").expect("sent");
        assert!(ping.reply(soon()).is_some(), "{target} answers c2's ping");
    }
}

fn the_main_job_is_done_on_a_host_that_forwards_nothing_and_filters_reverse_paths<F: TestFamily>() {
    the_main_job_is_done(&Lab::with::<F>(Sysctls { ip_forward: false, rp_filter: 1 }));
}

fn the_main_job_is_done_on_a_host_that_forwards_and_filters_nothing<F: TestFamily>() {
    the_main_job_is_done(&Lab::with::<F>(Sysctls { ip_forward: true, rp_filter: 0 }));
}

for_both!(
    the_main_job_is_done_on_a_host_that_forwards_nothing_and_filters_reverse_paths,
    the_main_job_is_done_on_a_host_that_forwards_and_filters_nothing,
);
