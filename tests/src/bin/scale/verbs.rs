//! How long single commands take, until they return.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use netbpf_tests::byhand::ByHand;
use netbpf_user::api::Client;
use netbpf_user::api::types::{ConnectRequest, CreateRequest, NetworkRequest};
use netbpf_user::rig::Rig;

use super::name;
use super::sample::Sample;

const VERBS: [&str; 6] = ["network create", "create", "network connect", "network disconnect", "rm", "network rm"];

pub(crate) fn measure(rig: &Rig, rounds: usize, by_hand: bool) -> Result<()> {
    let client = Client::new(&rig.socket())?;
    let second = name("second", 0);
    client.create_network(&NetworkRequest { name: second.clone(), ..Default::default() })?;
    let [mut api, mut cli, mut hand] = [(); 3].map(|()| <[Sample; 6]>::default());
    let mut process = Sample::default();
    for round in 0..rounds {
        by_api(&client, &second, round, &mut api)?;
        by_cli(rig, &second, round, &mut cli)?;
        process.time(|| netbpf(rig, &["--version"]))?;
        if by_hand {
            self::by_hand(rig, &mut hand)?;
        }
    }
    println!("Milliseconds until a command returns: median (5 to 95 in 100), {rounds} rounds");
    println!("{:<20} {:>26} {:>26} {:>26}", "", "API", "process", "ip -batch, a bridge");
    for (place, verb) in VERBS.into_iter().enumerate() {
        println!("{verb:<20} {:>26} {:>26} {:>26}", api[place], cli[place], hand[place]);
    }
    println!("{:<20} {:>26} {process:>26}\n", "a process alone", "");
    Ok(())
}

fn by_api(client: &Client, second: &str, round: usize, times: &mut [Sample; 6]) -> Result<()> {
    let (network, container) = (name("n", round), name("c", round));
    let made = NetworkRequest { name: network.clone(), ..Default::default() };
    times[0].time(|| client.create_network(&made))?;
    let made =
        CreateRequest { name: Some(container.clone()), network: Some(network.clone()), ..CreateRequest::default() };
    times[1].time(|| client.create(&made))?;
    let connected = ConnectRequest { container: container.clone(), ..ConnectRequest::default() };
    times[2].time(|| client.connect(second, &connected))?;
    times[3].time(|| client.disconnect(second, &container))?;
    times[4].time(|| client.remove(&container, false))?;
    times[5].time(|| client.remove_network(&network))?;
    Ok(())
}

fn by_cli(rig: &Rig, second: &str, round: usize, times: &mut [Sample; 6]) -> Result<()> {
    let (network, container) = (&*name("n", round), &*name("c", round));
    let lines: [&[&str]; 6] = [
        &["network", "create", network],
        &["create", "--name", container, "--network", network],
        &["network", "connect", second, container],
        &["network", "disconnect", second, container],
        &["rm", container],
        &["network", "rm", network],
    ];
    lines.into_iter().zip(times).try_for_each(|(line, times)| times.time(|| netbpf(rig, line)))
}

/// Runs the program to its end.
fn netbpf(rig: &Rig, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(rig.program());
    let status = command.arg("--socket").arg(rig.socket()).args(arguments).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "netbpf {} failed ({status})", arguments.join(" "));
    Ok(())
}

/// What has a counterpart; connecting to a second network is another veth, and left out.
fn by_hand(rig: &Rig, times: &mut [Sample; 6]) -> Result<()> {
    let hand = ByHand(rig.ext());
    times[0].time(|| hand.create_network(0))?;
    let container = times[1].time(|| hand.create(&name("h", 0), 0, 0))?;
    times[4].time(|| hand.remove(&container))?;
    Ok(times[5].time(|| hand.remove_network(0))?)
}
