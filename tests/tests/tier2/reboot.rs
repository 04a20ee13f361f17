//! The machine starts again: the store is there, the kernel knows nothing.

use std::fs;
use std::process::{Command, Stdio};

use netbpf_common::path::V4;
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::place::Place;
use netbpf_tests::server::{Server, ask_tcp};
use redb::{Database, Key, ReadableTable as _, TableDefinition};
use serde_json::Value;

use crate::lab::{Lab, OwnNamespace};
use crate::netkit;

/// Where the store keeps the instance, and the containers by name (netbpf-user/src/store).
const INSTANCE: TableDefinition<'_, (), &[u8]> = TableDefinition::new("instance");
const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");

/// Changes a record of the store of an agent that has ended.
fn edit<'a, K: Key>(
    lab: &Lab,
    table: TableDefinition<'_, K, &'static [u8]>,
    key: K::SelfType<'a>,
    change: impl FnOnce(&mut Value),
) {
    let database = Database::open(lab.state_dir().join("netbpf.redb")).expect("the agent has ended");
    let transaction = database.begin_write().expect("writable");
    {
        let mut table = transaction.open_table(table).expect("it is there");
        let bytes = table.get(&key).expect("readable").expect("a record").value().to_vec();
        let mut record: Value = serde_json::from_slice(&bytes).expect("JSON");
        change(&mut record);
        table.insert(&key, &*record.to_string().into_bytes()).expect("writable");
    }
    transaction.commit().expect("writable");
}

/// Takes away what a reboot would, but for the processes of containers: their numbers are then those of others.
fn reboot(lab: &mut Lab) {
    lab.kill_agent();
    edit(lab, INSTANCE, (), |instance| {
        assert!(instance["boot"].is_string(), "the boot is noted: {instance}");
        instance["boot"] = "00000000-0000-0000-0000-000000000000".into();
    });
    for name in lab.own_namespaces() {
        drop(OwnNamespace::found(name));
    }
    fs::remove_dir_all(lab.bpffs()).expect("pins alone");
    lab.host.command("ip", &["link", "delete", "netbpf0"]);
    // Not the namespaces themselves, which a process may keep.
    let devices = lab.host.command("ip", &["-o", "link", "show", "type", "veth"]);
    let own = devices.lines().filter_map(|line| line.split_whitespace().nth(1)).filter(|name| name.starts_with("nb"));
    for device in own {
        let device = device.split('@').next().expect("a name");
        // With a namespace that is going at this moment it goes by itself.
        let delete = || Command::new("ip").args(["link", "delete", device]).stderr(Stdio::null()).status();
        lab.host.run(delete).expect("ip is there");
    }
}

/// And all that is in the run directory.
fn reboot_with_an_empty_run_directory(lab: &mut Lab) {
    reboot(lab);
    fs::remove_dir_all(lab.run_dir()).expect("files alone");
}

/// Lines without the numbers of devices and of the agent's process, and not in the order in which devices were made.
fn comparable(view: &str) -> Vec<&str> {
    let lines = view.lines().filter(|line| !line.contains("/proc/"));
    let mut lines: Vec<&str> = lines.map(|line| line.trim_start_matches(|c: char| c.is_ascii_digit())).collect();
    lines.sort_unstable();
    lines
}

fn what_was_made_comes_back_as_it_was<F: TestFamily>() {
    for reboot in [reboot, reboot_with_an_empty_run_directory] {
        let mut lab = Lab::new::<F>();
        lab.done(&["network", "create", &lab.name("net")]);
        let c1 = lab.container("c1", &["-p", "8080:80", "--network-alias", "web"]);
        let c2 = lab.container("c2", &["--network", &lab.name("net")]);
        lab.done(&["network", "connect", "default", &c2.name]);
        lab.done(&["create", "--name", &lab.name("beside"), "--network", &format!("container:{}", c1.name)]);
        lab.done(&["create", "--name", &lab.name("host"), "--network", "host"]);
        let before = lab.snapshot();
        reboot(&mut lab);
        lab.start_agent();
        let after = lab.snapshot();
        for view in ["ps", "networks", "links", "addresses", "routes", "namespaces"] {
            assert_eq!(comparable(&after[view]), comparable(&before[view]), "{view}");
        }
        assert_eq!(lab.problems(), [""; 0]);
        let (c1, c2) = (lab.find(&c1.name), lab.find(&c2.name));
        let _web = Server::tcp(&c1.place, "c1", 80);
        let _world = Server::tcp(&lab.ext, "ext", 90);
        assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("published").server, "c1");
        assert_eq!(ask_tcp(&c2.place, c1.at(80)).expect("in the same network").server, "c1");
        assert_eq!(ask_tcp(&c1.place, lab.at_ext(90)).expect("masqueraded").server, "ext");
        // A second start finds the same boot, and forgets nobody.
        lab.kill_agent();
        lab.start_agent();
        assert_eq!(comparable(&lab.snapshot()["ps"]), comparable(&after["ps"]));
    }
}

fn what_was_a_process_is_gone<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    let empty = lab.snapshot();
    let name = lab.name("ran");
    // It runs on: as whoever has its number and was started at its time of the new boot.
    lab.done(&["run", "-d", "--name", &name, "-p", "8080:80", "--", "sleep", "1000"]);
    let ip = lab.json(&["inspect", &name])["ip"].as_str().map(str::to_owned);
    let foreign = OwnNamespace::make(&lab.name("foreign"));
    lab.done(&["attach", "--name", &lab.name("attached"), "--netns", &format!("/run/netns/{}", lab.name("foreign"))]);
    reboot(&mut lab);
    std::mem::forget(foreign);
    lab.start_agent();
    assert_eq!(lab.json(&["ps", "--json"]).as_array().expect("a list").len(), 0);
    let after = lab.snapshot();
    for view in ["ps", "networks", "links", "namespaces"] {
        assert_eq!(after[view], empty[view], "{view}");
    }
    assert_eq!(lab.problems(), [""; 0]);
    // Its address and its port are free.
    let ip = ip.map(|ip| vec!["--ip".to_owned(), ip]).unwrap_or_default();
    let flags: Vec<&str> =
        ["create", "--name", &name, "-p", "8080:80"].into_iter().chain(ip.iter().map(String::as_str)).collect();
    lab.done(&flags);
}

#[test]
fn a_name_that_somebody_else_has_since_is_left_to_them() {
    let mut lab = Lab::new::<V4>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    reboot_with_an_empty_run_directory(&mut lab);
    let stranger = OwnNamespace::make(&c1.name);
    lab.start_agent();
    assert_eq!(lab.json(&["ps", "--json"]).as_array().expect("a list").len(), 0);
    assert!(lab.log().contains("somebody else has made a namespace of its name"));
    assert!(!c1.place.command("ip", &["-brief", "link"]).contains("eth0"));
    drop(stranger);
    lab.done(&["create", "--name", &c1.name, "-p", "8080:80"]);
}

/// What the device of a name takes.
fn mtu_of(place: &Place, device: &str) -> u64 {
    let shown = place.command("ip", &["-json", "link", "show", "dev", device]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON of ip");
    shown[0]["mtu"].as_u64().expect("a number")
}

fn what_comes_back_has_the_mtu_of_its_new_device<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    lab.ip(&lab.host, "tuntap add dev vm0 mode tap");
    let (c1, vm) = (lab.container("c1", &[]), lab.name("vm"));
    lab.done(&["attach", "--name", &vm, "--tap", "vm0"]);
    let shown = |lab: &Lab, name: &str| lab.json(&["inspect", name])["mtu"].as_u64();
    let before = mtu_of(&lab.host, "vm0");
    assert_eq!((shown(&lab, &vm), shown(&lab, &c1.name)), (Some(before), Some(mtu_of(&c1.place, "eth0"))));
    reboot(&mut lab);
    // As its owner makes it this time.
    lab.ip(&lab.host, "link set dev vm0 mtu 1400");
    lab.configure("mtu = 4000\n");
    lab.start_agent();
    assert_eq!((shown(&lab, &vm), mtu_of(&lab.host, "vm0")), (Some(1400), 1400));
    let c1 = lab.find(&c1.name);
    assert_eq!((shown(&lab, &c1.name), mtu_of(&c1.place, "eth0")), (Some(4000), 4000));
    assert_eq!(lab.problems(), [""; 0]);
    // Of one boot on it is what it was.
    lab.kill_agent();
    lab.start_agent();
    assert_eq!((shown(&lab, &vm), shown(&lab, &c1.name)), (Some(1400), Some(4000)));
}

fn what_comes_back_has_the_device_that_the_new_kernel_has<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    let network = lab.name("net");
    lab.done(&["network", "create", "--ipv6", "-o", "device=netkit", &network]);
    let c1 = lab.container("c1", &["--network", &network, "-p", "8080:80"]);
    let (has, lacks) = if netkit::has_netkit(&lab) { ("netkit", "veth") } else { ("veth", "netkit") };
    assert_eq!(netkit::kind(&lab.host, &c1.device), has);
    reboot(&mut lab);
    edit(&lab, CONTAINERS, &*c1.name, |container| {
        let noted = &mut container["endpoints"][0]["kind"];
        assert_eq!(*noted, *has);
        *noted = lacks.into();
    });
    lab.start_agent();
    let c1 = lab.find(&c1.name);
    assert_eq!(netkit::kind(&lab.host, &c1.device), has);
    let _web = Server::tcp(&c1.place, "c1", 80);
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("published").server, "c1");
    assert_eq!(lab.problems(), [""; 0]);
}

fn an_emptied_run_directory_costs_nothing_but_a_restart<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    let empty = lab.snapshot();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let before = lab.snapshot();
    fs::remove_dir_all(lab.run_dir()).expect("removed");
    lab.stop_agent();
    lab.start_agent();
    lab.unchanged(&before, "an emptied run directory");
    let _web = Server::tcp(&c1.place, "c1", 80);
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("published");
    lab.done(&["rm", &c1.name]);
    lab.unchanged(&empty, "a container of before");
}

for_both!(
    what_was_made_comes_back_as_it_was,
    what_was_a_process_is_gone,
    what_comes_back_has_the_mtu_of_its_new_device,
    what_comes_back_has_the_device_that_the_new_kernel_has,
    an_emptied_run_directory_costs_nothing_but_a_restart,
);
