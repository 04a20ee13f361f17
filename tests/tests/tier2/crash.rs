//! The agent is killed before each effect of each command: what was begun is whole or gone after the next start, what was
//! answered is there, and traffic never notices.

use std::collections::BTreeSet;

use netbpf_common::path::V6;
use netbpf_tests::server::{Conversation, Server, ask_tcp};
use netbpf_tests::wait::poll;

use crate::lab::{Container, Footprint, Lab};

/// More effects than any command has.
const MANY: u32 = 400;

/// A publish that is not for everybody.
const RESTRICTED: &str = "8081:81,allow=10.0.0.0/8";

/// A command that is interrupted, and how to tell what has become of it.
struct Deed<'a> {
    /// What is done before.
    before: &'a [&'a [&'a str]],
    /// The command.
    command: &'a [&'a str],
    /// Whether it has been done, as the agent tells.
    is_done: &'a dyn Fn(&Lab) -> bool,
    /// What must hold once it is done.
    holds: &'a dyn Fn(&Lab),
    /// What takes all of it back.
    after: &'a [&'a [&'a str]],
}

/// Traffic that is there all the time.
struct Witness {
    friend: Container,
    conversation: Conversation,
    _servers: [Server; 2],
}

impl Witness {
    fn new(lab: &Lab) -> Self {
        let friend = lab.container("friend", &["-p", "7070:70"]);
        let servers = [Server::tcp(&friend.place, "friend", 70), Server::tcp(&lab.ext, "ext", 90)];
        let stream = lab.ext.connect(lab.at_host(7070)).expect("connected");
        let conversation = Conversation::on(stream).expect("greeted");
        Self { friend, conversation, _servers: servers }
    }

    /// Connections go on, and new ones are made in both directions.
    fn notices_nothing(&mut self, lab: &Lab, when: &str) {
        self.conversation.exchange(b"still there?").unwrap_or_else(|error| panic!("{when}: {error}"));
        let ask = |answered: std::io::Result<_>| answered.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_eq!(ask(ask_tcp(&lab.ext, lab.at_host(7070)).map(|seen| seen.server)), "friend");
        assert_eq!(ask(ask_tcp(&self.friend.place, lab.at_ext(90)).map(|seen| seen.server)), "ext");
    }
}

/// Does the deed again and again, with the agent killed one effect later each time, until it comes through.
fn survives_death_at_every_step(lab: &mut Lab, deed: &Deed<'_>) {
    let what = deed.command.join(" ");
    let mut witness = Witness::new(lab);
    let base = lab.snapshot();
    let mut places = Vec::new();
    for effects in 0..=MANY {
        assert!(effects < MANY, "{what} never comes through: {places:?}");
        for command in deed.before {
            lab.done(command);
        }
        lab.dies_after(effects);
        let outcome = lab.netbpf(deed.command);
        settled(lab);
        let place = lab.dies_no_more();
        let when = format!("{what}, killed {}", place.as_deref().unwrap_or("nowhere"));
        if let Some(place) = &place {
            witness.notices_nothing(lab, &format!("{when}, before the next start"));
            lab.start_agent();
            places.push(place.clone());
        }
        let problems = lab.problems();
        assert!(problems.is_empty(), "{when}: {problems:?}");
        match outcome.code {
            Some(0) => assert!((deed.is_done)(lab), "{when}: it was answered, and is not done"),
            // The agent has gone before it could answer.
            _ => assert!(place.is_some(), "{when}: {}", outcome.refusal(&what)),
        }
        if !(deed.is_done)(lab) {
            lab.done(deed.command);
        }
        (deed.holds)(lab);
        witness.notices_nothing(lab, &when);
        for command in deed.after {
            lab.done(command);
        }
        if place.is_none() {
            break;
        }
    }
    assert!(places.len() > 2, "{what} has effects: {places:?}");
    lab.unchanged(&base, &format!("{what}, killed {places:?},"));
}

/// Waits until the agent has nothing left to do in the background, or is dead.
fn settled(lab: &Lab) {
    let done = poll(|| {
        let listed = lab.netbpf(&["ps", "--json"]);
        if listed.code != Some(0) {
            return Some(());
        }
        let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
        let known: BTreeSet<&str> =
            listed.as_array().expect("a list").iter().filter_map(|container| container["device"].as_str()).collect();
        let there = lab.host_devices();
        let own = there.iter().filter(|name| name.starts_with("nb") && !name.starts_with("netbpf"));
        // The devices of further ends are named after the first.
        let is_known = |name: &String| known.iter().any(|device| name.starts_with(device));
        (own.into_iter().all(is_known) && lab.has_links()).then_some(())
    });
    assert!(done.is_some(), "devices of nobody stay, or without a link: {:?}", lab.host_devices());
}

fn exists(lab: &Lab, name: &str) -> bool {
    lab.netbpf(&["inspect", name]).code == Some(0)
}

/// The container is reached by its publish, and knows its network.
fn serves(lab: &Lab, name: &str) {
    let container = lab.find(name);
    let _server = Server::tcp(&container.place, "victim", 80);
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered").server, "victim");
}

fn nothing(_: &Lab) {}

#[test]
fn create() {
    let mut lab = Lab::new::<V6>();
    let (c, n) = (lab.name("c"), lab.name("n"));
    lab.done(&["network", "create", "--ipv6", &n]);
    let flags = ["-p", "8080:80", "-p", "9000-9009:9000-9009/udp", "-p", RESTRICTED, "--network", &n];
    let deed = Deed {
        before: &[],
        command: &[&["create", "--name", &c, "--network-alias", "www"][..], &flags].concat(),
        is_done: &|lab| exists(lab, &c),
        holds: &|lab| serves(lab, &c),
        after: &[&["rm", "-f", &c]],
    };
    survives_death_at_every_step(&mut lab, &deed);
}

#[test]
fn rm() {
    let mut lab = Lab::new::<V6>();
    let c = lab.name("c");
    let deed = Deed {
        before: &[&["create", "--name", &c, "-p", "8080:80", "-p", RESTRICTED]],
        command: &["rm", &c],
        is_done: &|lab| !exists(lab, &c),
        holds: &nothing,
        after: &[],
    };
    survives_death_at_every_step(&mut lab, &deed);
}

#[test]
fn run_in_the_background() {
    let mut lab = Lab::new::<V6>();
    let c = lab.name("c");
    let deed = Deed {
        before: &[],
        command: &["run", "-d", "--name", &c, "-p", "8080:80", "--", "sleep", "600"],
        // A container whose process the agent has not been told of is none that was asked for.
        is_done: &|lab| match lab.netbpf(&["inspect", &c]) {
            shown if shown.code != Some(0) => false,
            shown => {
                let shown: serde_json::Value = serde_json::from_str(&shown.stdout).expect("JSON");
                let runs = shown["pid"].is_number();
                if !runs {
                    lab.done(&["rm", &c]);
                }
                runs
            }
        },
        holds: &|lab| serves(lab, &c),
        after: &[&["rm", "-f", &c]],
    };
    survives_death_at_every_step(&mut lab, &deed);
}

#[test]
fn publish() {
    let mut lab = Lab::new::<V6>();
    let c = lab.name("c");
    let deed = Deed {
        before: &[&["create", "--name", &c]],
        command: &["publish", &c, "-p", "8080:80", "-p", "127.0.0.1:9000-9009:9000-9009/udp"],
        is_done: &|lab| !lab.ports(&c).is_empty(),
        holds: &|lab| serves(lab, &c),
        after: &[&["rm", "-f", &c]],
    };
    survives_death_at_every_step(&mut lab, &deed);
}

#[test]
fn unpublish() {
    let mut lab = Lab::new::<V6>();
    let c = lab.name("c");
    let deed = Deed {
        before: &[&["create", "--name", &c, "-p", "8080:80", "-p", "127.0.0.1:9000-9009:9000-9009/udp"]],
        command: &["unpublish", &c, "-p", "8080:80", "-p", "127.0.0.1:9000-9009:9000-9009/udp"],
        is_done: &|lab| lab.ports(&c).is_empty(),
        holds: &|lab| {
            let container = lab.find(&c);
            let _server = Server::tcp(&container.place, "victim", 80);
            ask_tcp(&lab.ext, lab.at_host(8080)).expect_err("nothing is published there any more");
        },
        after: &[&["rm", "-f", &c]],
    };
    survives_death_at_every_step(&mut lab, &deed);
}

#[test]
fn connect() {
    let mut lab = Lab::new::<V6>();
    let (c, n) = (lab.name("c"), lab.name("n"));
    lab.done(&["network", "create", &n]);
    let deed = Deed {
        before: &[&["create", "--name", &c, "-p", "8080:80"]],
        command: &["network", "connect", "--alias", "www", &n, &c],
        is_done: &|lab| lab.json(&["network", "inspect", &n])["containers"].to_string().contains(&*c),
        holds: &|lab| serves(lab, &c),
        after: &[&["rm", "-f", &c]],
    };
    survives_death_at_every_step(&mut lab, &deed);
}

#[test]
fn disconnect() {
    let mut lab = Lab::new::<V6>();
    let (c, n) = (lab.name("c"), lab.name("n"));
    lab.done(&["network", "create", &n]);
    let deed = Deed {
        before: &[&["create", "--name", &c, "-p", "8080:80"], &["network", "connect", &n, &c]],
        command: &["network", "disconnect", &n, &c],
        is_done: &|lab| !lab.json(&["network", "inspect", &n])["containers"].to_string().contains(&*c),
        holds: &|lab| serves(lab, &c),
        after: &[&["rm", "-f", &c]],
    };
    survives_death_at_every_step(&mut lab, &deed);
}

#[test]
fn network_create() {
    let mut lab = Lab::new::<V6>();
    let n = lab.name("n");
    let deed = Deed {
        before: &[],
        command: &["network", "create", "--ipv6", "--subnet", "10.90.0.0/24", &n],
        is_done: &|lab| lab.netbpf(&["network", "inspect", &n]).code == Some(0),
        holds: &|lab| {
            lab.container("c", &["--network", &n]);
            lab.done(&["rm", "-f", &lab.name("c")]);
        },
        after: &[&["network", "rm", &n]],
    };
    survives_death_at_every_step(&mut lab, &deed);
}

#[test]
fn network_rm() {
    let mut lab = Lab::new::<V6>();
    let n = lab.name("n");
    let deed = Deed {
        before: &[&["network", "create", "--ipv6", "--subnet", "10.90.0.0/24", &n]],
        command: &["network", "rm", &n],
        is_done: &|lab| lab.netbpf(&["network", "inspect", &n]).code != Some(0),
        holds: &nothing,
        after: &[],
    };
    survives_death_at_every_step(&mut lab, &deed);
}

#[test]
fn create_on_macvlan() {
    let mut lab = Lab::new::<V6>();
    let (c, n) = (lab.name("c"), lab.name("n"));
    let parent = format!("parent={}", lab.uplink());
    lab.done(&["network", "create", "-d", "macvlan", "-o", &parent, "--subnet", "10.91.0.0/24", &n]);
    let deed = Deed {
        before: &[],
        command: &["create", "--name", &c, "--network", &n],
        is_done: &|lab| exists(lab, &c),
        holds: &|lab| {
            let shown = lab.find(&c).place.command("ip", &["address", "show", "dev", "eth0"]);
            assert!(shown.contains("10.91.0."), "{shown}");
        },
        after: &[&["rm", "-f", &c]],
    };
    survives_death_at_every_step(&mut lab, &deed);
}

/// Deaths at every step of starts, one after the other, until one comes through; gives where.
fn starts_in_the_end(lab: &mut Lab, mut between: impl FnMut(&Lab, &str)) -> Vec<String> {
    let mut places = Vec::new();
    for effects in 0..MANY {
        lab.dies_after(effects);
        let place = if lab.agent_starts() {
            // Ready, and killed over what it does by itself then, or not at all.
            lab.dies_no_more()
        } else {
            Some(lab.died().expect("an agent that does not start has been killed"))
        };
        let Some(place) = place else { return places };
        between(lab, &place);
        places.push(place);
    }
    panic!("it never starts: {places:?}");
}

#[test]
fn the_start_of_an_agent() {
    let mut lab = Lab::new::<V6>();
    let (n, lost) = (lab.name("n"), lab.name("lost"));
    lab.done(&["network", "create", &n]);
    let c = lab.container("c", &["-p", "8080:80", "--network", &n]);
    let mut witness = Witness::new(&lab);
    let base = lab.snapshot();
    // Something to take away, something to repair, and something to forget.
    lab.container("lost", &["-p", "9000:90"]);
    lab.kill_agent();
    lab.host.command("ip", &["link", "delete", &c.device]);
    lab.host.command("ip", &["netns", "delete", &lost]);
    let places = starts_in_the_end(&mut lab, |lab, place| {
        witness.notices_nothing(lab, &format!("the start was killed {place}"));
    });
    assert!(places.len() > 10, "{places:?}");
    lab.netbpf(&["rm", "-f", &lost]);
    serves(&lab, &c.name);
    assert!(lab.problems().is_empty(), "{:?}", lab.problems());
    // Its device was made anew, with a link of its own.
    lab.unchanged_but(&base, &["status"], &format!("starts, killed {places:?},"));
}

#[test]
fn the_first_start_of_an_agent() {
    let mut lab = Lab::without_agent::<V6>("");
    let places = starts_in_the_end(&mut lab, |_, _| {});
    assert!(places.len() > 20, "{places:?}");
    assert!(lab.problems().is_empty(), "{:?}", lab.problems());
    Witness::new(&lab).notices_nothing(&lab, "all is well");
    lab.done(&["rm", "-f", &lab.name("friend")]);
    lab.done(&["uninstall"]);
    lab.agent_ends();
    assert_eq!(Footprint::of(&lab), *lab.bare(), "starts, killed {places:?}, have left something");
}

#[test]
fn uninstall() {
    let mut lab = Lab::new::<V6>();
    let n = lab.name("n");
    let mut places = Vec::new();
    for effects in 0..MANY {
        lab.done(&["network", "create", &n]);
        lab.container("c", &["-p", "8080:80"]);
        lab.done(&["network", "connect", &n, &lab.name("c")]);
        lab.dies_after(effects);
        lab.netbpf(&["uninstall"]);
        let place = lab.dies_no_more();
        if place.is_none() {
            lab.agent_ends();
        }
        lab.uninstall_without_agent();
        assert_eq!(Footprint::of(&lab), *lab.bare(), "an uninstall, killed {place:?}, and another");
        let Some(place) = place else { break };
        places.push(place);
        lab.start_agent();
    }
    assert!(places.len() > 10, "{places:?}");
}
