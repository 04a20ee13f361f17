//! netbpf: a real agent in a rig.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netbpf_tests::wait::poll_for;
use netbpf_user::api::Client;
use netbpf_user::api::types::CreateRequest;
use netbpf_user::rig::{Namespace, Options, Rig};

use super::{Name, Peer, memory_of};
use crate::cost::{self, Memory, Networked, Published, bytes, kib, millis};
use crate::cpu;
use crate::site::{DEVICE, LISTENED, OTHERS, PUBLISHED, Sink, Way, Ways, host_end, own_name, quiet};

/// Publishes that the agent takes in one request.
const AT_ONCE: usize = 16_384;

/// An agent is idle that has had less than this share of a CPU for so long.
const IDLE: f64 = 0.01;
const QUIET: Duration = Duration::from_millis(30);
/// What a request about so many publishes has taken the agent gives back a second later.
const LARGE: u16 = 1000;
const GIVES_BACK_WITHIN: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Netbpf {
    ways: Ways,
    /// Ports that are published beside the measured one.
    others: Vec<String>,
    server: String,
    name: Name,
    flows: u32,
    rig: Rig,
}

impl Netbpf {
    pub(super) fn start(name: Name, flags: &[&str], flows: u32) -> Result<Self> {
        let mut options = Options::new(program()?);
        options.agent_flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        // A table of another size, and one container may have all of it.
        let settings = tempfile::NamedTempFile::new()?;
        fs::write(&settings, format!("flows = {flows}\nflows_per_container = {flows}\n"))?;
        let path = settings.path().to_str().context("a path of our own")?;
        options.agent_flags.extend(["--config".to_owned(), path.to_owned()]);
        let rig = Rig::new(options)?;
        quiet(rig.ext())?;
        let client = Client::new(&rig.socket())?;
        let names = ["client", "server"].map(|what| own_name(&format!("{name}-{what}")));
        let publish = ["tcp", "udp"].map(|transport| format!("{PUBLISHED}:{LISTENED}/{transport}")).to_vec();
        let asking = client.create(&CreateRequest { name: Some(names[0].clone()), ..Default::default() })?;
        let request = CreateRequest { name: Some(names[1].clone()), publish, ..Default::default() };
        let serving = client.create(&request)?;
        let [c1, c2] = [&names[0], &names[1]].map(|name| Namespace::named(name));
        let address = serving.ip.context("the default network has IPv4")?;
        let mut inward = Way::new(rig.ext(), &c2, Rig::HOST_IP, (rig.host(), DEVICE)).published();
        if name == Name::NetbpfXdp {
            inward.sink = Sink::Frames;
            // Partial checksums are nothing that a frame can say; a network card never sends them.
            rig.ext().run("ethtool", &["-K", DEVICE, "tx", "off"])?;
        }
        let neighbours = Way::new(&c1, &c2, address, (rig.host(), &asking.device));
        let outward = Way::new(&c1, rig.ext(), Rig::EXT_IP, (rig.host(), &host_end(rig.host(), &c1)?));
        let [_, server] = names;
        Ok(Self { ways: Ways::all(neighbours, inward, outward), others: Vec::new(), server, name, flows, rig })
    }

    fn client(&self) -> Result<Client> {
        Ok(Client::new(&self.rig.socket())?)
    }

    fn publish_all(&self, client: &Client, specs: &[String]) -> Result<()> {
        specs.chunks(AT_ONCE).try_for_each(|some| Ok(client.publish(&self.server, some).map(drop)?))
    }

    fn unpublish(&self, client: &Client, specs: &[String]) -> Result<()> {
        specs.chunks(AT_ONCE).try_for_each(|some| Ok(client.unpublish(&self.server, some).map(drop)?))
    }

    fn rss(&self) -> Result<f64> {
        memory_of(self.rig.agent_pid().context("the agent runs")?).context("the kernel tells its memory")
    }

    /// When the memory of a request about so many ports has been given back.
    fn rss_after(&self, ports: u16) -> Result<f64> {
        if ports >= LARGE {
            thread::sleep(GIVES_BACK_WITHIN);
        }
        self.rss()
    }
}

/// The program that was built along with this one.
fn program() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program")?.with_file_name("netbpf");
    ensure!(program.exists(), "{} is missing: run this by `cargo xtask bench`, which builds it", program.display());
    Ok(program)
}

/// So many ports, the container's the same as the host's.
fn ports(number: u16, one_by_one: bool) -> Vec<String> {
    if one_by_one || number == 1 {
        (OTHERS..OTHERS + number).map(|port| format!("{port}:{port}")).collect()
    } else {
        let last = OTHERS + number - 1;
        vec![format!("{OTHERS}-{last}:{OTHERS}-{last}")]
    }
}

impl Peer for Netbpf {
    fn ways(&self) -> &Ways {
        &self.ways
    }

    fn set_ports(&mut self, total: u32) -> Result<bool> {
        let client = self.client()?;
        if !self.others.is_empty() {
            self.unpublish(&client, &self.others)?;
            self.others.clear();
        }
        if total > 1 {
            let others = ports(u16::try_from(total - 1)?, true);
            self.publish_all(&client, &others)?;
            self.others = others;
        }
        Ok(true)
    }

    /// The agent gives memory back, and makes links of filters, after its answer.
    fn settle(&self) -> Result<()> {
        let pid = self.rig.agent_pid().context("the agent runs")?;
        let mut before = (Instant::now(), cpu::time_of(pid)?);
        let is_idle = || {
            let now = (Instant::now(), cpu::time_of(pid));
            let (Ok(busy), waited) = (now.1, now.0 - before.0) else { return Some(false) };
            if waited < QUIET {
                return None;
            }
            let share = (busy - before.1).as_secs_f64() / waited.as_secs_f64();
            before = (now.0, busy);
            (share < IDLE).then_some(true)
        };
        ensure!(poll_for(PATIENCE, is_idle) == Some(true), "the agent is still at work after {PATIENCE:?}");
        Ok(())
    }

    fn most_flows(&self) -> u32 {
        self.flows
    }

    fn publish(&mut self, number: u16, one_by_one: bool) -> Result<Option<Published>> {
        let (client, specs) = (self.client()?, ports(number, one_by_one));
        let before = self.rss_after(number)?;
        let started = Instant::now();
        self.publish_all(&client, &specs)?;
        let millis = millis(started);
        let more = |now: f64| (now - before).max(0.0);
        let at_first = more(self.rss()?);
        let kib = more(self.rss_after(number)?);
        self.unpublish(&client, &specs)?;
        Ok(Some(Published { millis, processes: 0, kib: Some(kib), kib_at_first: Some(at_first) }))
    }

    fn network(&mut self, at_once: usize) -> Result<Option<Networked>> {
        let name = |which| own_name(&format!("{}-n{which}", self.name));
        let create = |which| {
            self.client()?.create(&CreateRequest { name: Some(name(which)), ..Default::default() })?;
            Ok(())
        };
        cost::network(at_once, create, |which| Ok(self.client()?.remove(&name(which), false)?)).map(Some)
    }

    fn memory(&mut self, containers: u16, number: u16) -> Result<Memory> {
        let client = self.client()?;
        let alone = self.rss()?;
        let name = |which| own_name(&format!("{}-m{which}", self.name));
        for which in 0..containers {
            client.create(&CreateRequest { name: Some(name(which)), ..Default::default() })?;
        }
        let with_containers = self.rss()?;
        let specs = ports(number, true);
        self.publish_all(&client, &specs)?;
        let with_ports = self.rss_after(number)?;
        self.unpublish(&client, &specs)?;
        (0..containers).try_for_each(|which| client.remove(&name(which), false))?;
        // Both directions are entries.
        let pinned = self.rig.bpffs().join("maps/FLOWS_V4");
        let pinned = pinned.to_str().context("a path of the rig's")?;
        let shown: serde_json::Value =
            serde_json::from_str(&self.rig.host().run("bpftool", &["-j", "map", "show", "pinned", pinned])?)?;
        let number_of = |key: &str| shown[key].as_f64().with_context(|| format!("bpftool tells {key}"));
        let per_flow = 2.0 * number_of("bytes_memlock")? / number_of("max_entries")?;
        let each = |more: f64, number: u16| (more * 1024.0 / f64::from(number)).max(0.0);
        Ok(vec![
            kib("memory of the daemon (PSS)", alone),
            bytes("memory of the daemon per container", each(with_containers - alone, containers)),
            bytes("memory of the daemon per published port", each(with_ports - with_containers, number)),
            bytes("memory of the kernel per flow", per_flow),
        ])
    }
}
