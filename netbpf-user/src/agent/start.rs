//! Starting an instance, and removing one.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netbpf_common::wire::Mac;
use nix::fcntl::{Flock, FlockArg, OFlag};
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::MissedTickBehavior;

use super::files::OF_NAMESPACES;
use super::filters::remove_queues;
use super::names::Names;
use super::network::{DEFAULT_NETWORK, Network, Networks};
use super::publishes::Publishes;
use super::reboot::boot;
use super::repair::Repair;
use super::state::{HostState, State};
use super::{Engine, host};
use crate::api::unready;
use crate::config::{Addressing, DatapathLog, GlobalId, Settings, Virtuals, overlap};
use crate::datapath::{Datapath, Hook, cgroup_root, check_cgroup, keep_large_blocks_apart, mount_bpffs, readable};
use crate::error::{Context as _, Error, Result};
use crate::failpoint;
use crate::net::watch::Watch;
use crate::net::{self, Netlink};
use crate::process::Files;
use crate::store::{Changes, ContainerRecord, InstanceRecord, NetworkRecord, Store, Stored};
use crate::trust;

/// How often flows are collected: half of the shortest timeout.
const COLLECT_INTERVAL: Duration = Duration::from_secs(5);

impl Engine {
    /// Takes over what is pinned, or makes it, and follows the host from then on.
    pub async fn start(settings: Settings) -> Result<Arc<Self>> {
        settings.validate()?;
        require_root()?;
        keep_large_blocks_apart();
        require_ipv6(&settings)?;
        check_files(&settings)?;
        let cgroup = settings.cgroup.clone().map_or_else(cgroup_root, check_cgroup)?;
        mount_bpffs(&settings.bpffs)?;
        make_directory(&settings.state_dir, 0o700)?;
        let lock = lock(&settings.state_dir)?;
        make_directory(&settings.run_dir, 0o755)?;
        let (store, stored) = Store::open(&settings.state_dir, &settings.run_dir)?;
        let store = Arc::new(store);
        make_directory(&settings.run_dir.join(super::MARKS), 0o700)?;

        let is_first = stored.is_none();
        let (mut instance, records, containers) = match stored {
            Some(Stored { instance, networks, containers }) => (instance, networks, containers),
            None => (InstanceRecord::new(random_mac(), rand::random()), BTreeMap::new(), BTreeMap::new()),
        };
        // Of a version without IPv6 there is none: it is drawn now, and the same from now on.
        let global_id = *instance.global_id.get_or_insert_with(rand::random);
        store.save_instance(&instance)?;
        let virtuals = Virtuals::new(&settings, global_id);
        let networks = known_networks(&settings, global_id, records)?;
        let default = networks.get(DEFAULT_NETWORK)?.record.clone();
        store.save(&Changes { networks: vec![default], ..Changes::default() })?;
        let state = known_state(networks, containers)?;

        let is_new = !Datapath::is_pinned(&settings);
        let netlink = Netlink::open()?;
        let gateway_mac = Mac::new(instance.gateway_mac);
        let watch = Watch::open()?;
        let begin = async {
            let datapath = Arc::new(Datapath::load(&settings)?);
            let devices =
                host::make_devices(&netlink, &settings, &state.networks, &virtuals, gateway_mac, None).await?;
            host::write_config(&datapath, &settings, &state.networks, &virtuals, devices, gateway_mac)?;
            let engine = Arc::new(Self {
                cgroup,
                gateway_mac,
                devices,
                datapath,
                netlink: netlink.clone(),
                store,
                state: Mutex::new(state),
                turns: AtomicU64::new(0),
                doomed: std::sync::Mutex::default(),
                burial: Mutex::default(),
                uncollected: Arc::default(),
                linking: Default::default(),
                members: std::sync::Mutex::default(),
                since: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
                tasks: Default::default(),
                stop: watch::Sender::new(false),
                _lock: lock,
                settings: settings.clone(),
                global_id,
                virtuals,
                recent: std::sync::Mutex::default(),
                repair: Repair::default(),
                followed: Notify::new(),
                names: settings.dns_port().map(Names::start),
            });
            let boot = boot()?;
            // Of a version that noted none nothing is known: as if it was this one.
            let is_new_boot = instance.boot.as_ref().is_some_and(|before| *before != boot);
            engine.begin(is_new_boot).await?;
            // Last: an agent that is killed before has not put everything back.
            if instance.boot.as_ref() != Some(&boot) {
                instance.boot = Some(boot);
                engine.store.save_instance(&instance)?;
            }
            Ok(engine)
        };
        match begin.await {
            Ok(engine) => {
                engine.follow(watch);
                Ok(engine)
            }
            Err(error) => {
                // Nothing half-made stays; what an earlier agent has made, and traffic rests on, does.
                if is_new {
                    let own = netlink.device_named(host::HOST_DEVICE).await.ok().flatten();
                    let own = own.filter(|device| host::is_own(device, gateway_mac)).map_or(0, |device| device.ifindex);
                    for failure in remove_instance(&netlink, &settings, own).await {
                        tracing::warn!("while undoing: {failure}");
                    }
                    if is_first {
                        remove_files(&settings);
                    }
                }
                Err(error)
            }
        }
    }

    /// Containers before uplinks and socket hooks: what leads packets to them comes when they are complete.
    async fn begin(self: &Arc<Self>, is_new_boot: bool) -> Result<()> {
        self.datapath.attach(&Hook::host(self.devices.0, host::HOST_DEVICE))?;
        self.reconcile(is_new_boot).await?;
        {
            let mut state = self.state.lock().await;
            state.host = self.recall_host()?;
            let seen = self.look_at_host().await?;
            self.follow_host(&mut state, &seen)?;
            // Or the first change that is announced would take each for one that has just come.
            self.follow_parents(&mut state, &seen.0).await;
            self.check_express(&state)?;
            self.follow_receivers(&state).await?;
            self.follow_visitors(&state)?;
            self.tell_names(&state).await;
        }
        self.datapath.attach_sockets(&self.cgroup)
    }

    fn follow(self: &Arc<Self>, mut watch: Watch) {
        let engine = self.weak();
        let events = self.spawn(async move {
            while let Some(changes) = watch.next().await {
                let Some(engine) = engine.upgrade() else { return };
                if let Err(error) = engine.host_changed(&changes).await {
                    tracing::error!("{error}");
                }
            }
            tracing::error!("the kernel's announcements have ended: changes of the host are not seen any more");
        });
        self.tasks.keep("follows the host", events);

        let (engine, uncollected) = (self.weak(), self.uncollected.clone());
        let collector = self.spawn(async move {
            let mut ticks = tokio::time::interval(COLLECT_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let is_time = tokio::select! {
                    _ = ticks.tick() => true,
                    () = uncollected.notified() => false,
                };
                let Some(engine) = engine.upgrade() else { return };
                match engine.collect().await {
                    Ok(0) => {}
                    Ok(count) => tracing::debug!(count, "flows collected"),
                    Err(error) => tracing::error!("{error}"),
                }
                if is_time && let Err(error) = engine.note_counters() {
                    tracing::error!("{error}");
                }
            }
        });
        self.tasks.keep("collects flows", collector);

        self.keep_right();
        self.keep_linked();

        if self.settings.datapath_log != DatapathLog::Off
            && let Some(logger) = self.datapath.logger()
        {
            self.spawn(async move {
                let Ok(mut logger) = readable(logger) else { return };
                while let Ok(mut ready) = logger.readable_mut().await {
                    ready.get_inner_mut().flush();
                    ready.clear_ready();
                }
            });
        }
    }
}

/// The networks: that of the settings, and those that were made.
fn known_networks(
    settings: &Settings,
    global_id: GlobalId,
    mut records: BTreeMap<String, NetworkRecord>,
) -> Result<Networks> {
    let mut networks = Networks::default();
    let addressing = Addressing::new(settings, global_id)?;
    networks.insert(Network::of_settings(settings, addressing, records.remove(DEFAULT_NETWORK)));
    let virtuals = Virtuals::new(settings, global_id);
    for record in records.into_values() {
        record.addressing.check_apart(&virtuals).map_err(|error| {
            Error::Conflict(format!("network {} of this instance does not fit the settings: {error}", record.name))
        })?;
        for network in networks.iter() {
            let claims = || record.addressing.claims();
            let theirs = network.record.addressing.claims();
            let both = theirs.flat_map(|(_, their)| claims().map(move |(_, own)| (own, their)));
            if let Some((own, their)) = both.into_iter().find(|(own, their)| overlap(*own, *their)) {
                return Err(Error::Conflict(format!(
                    "network {} ({own}) overlaps network {} ({their}): change the settings of the default network",
                    record.name, network.record.name
                )));
            }
        }
        networks.insert(Network::new(record));
    }
    Ok(networks)
}

/// What the agent knows at its start: the addresses and ports of the containers that there are.
fn known_state(mut networks: Networks, containers: BTreeMap<String, ContainerRecord>) -> Result<State> {
    let mut publishes = Publishes::default();
    for record in containers.values() {
        for endpoint in &record.endpoints {
            let network = networks.get_mut(&endpoint.network).map_err(|error| {
                Error::Conflict(format!("container {} of this instance cannot be: {error}", record.name))
            })?;
            for address in endpoint.addresses() {
                if network.record.addressing.of_family(address).is_none() {
                    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
                    return Err(Error::Conflict(format!(
                        "container {} has the address {address}, and {family} is off: set {family} = true, at least until the container is \
                         removed",
                        record.name
                    )));
                }
                network.pools.claim(address).map_err(|error| {
                    Error::Conflict(format!(
                        "container {} of this instance does not fit the settings: {error}",
                        record.name
                    ))
                })?;
            }
        }
        for rule in &record.rules {
            publishes.insert(rule);
        }
    }
    Ok(State { networks, containers, publishes, host: HostState::default() })
}

/// Removes links, maps and devices. Returns what failed.
pub(super) async fn remove_instance(netlink: &Netlink, settings: &Settings, host_ifindex: u32) -> Vec<Error> {
    let mut errors = remove_queues(netlink, settings).await;
    errors.extend(Datapath::unpin(settings).err());
    if host_ifindex != 0 {
        errors.extend(netlink.delete_device(host_ifindex).await.err());
    }
    errors
}

/// Removes the files of an instance, and its directories where nothing else is in them. Returns what failed.
pub(super) fn remove_files(settings: &Settings) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut note = |path: &Path, result: std::io::Result<()>| match result {
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy
            ) =>
        {
            errors.push(Error::Internal(format!("cannot remove {}: {error}", path.display())));
        }
        _ => {}
    };
    let copy = Store::remove_copy(&settings.run_dir).err();
    let sockets = [settings.socket(), settings.read_socket()];
    let half_made = sockets.each_ref().map(|socket| unready(socket));
    let of_state = Store::files(&settings.state_dir).into_iter().chain([settings.state_dir.join("lock")]);
    for file in sockets.into_iter().chain(half_made).chain(of_state) {
        failpoint::before("remove a file of the instance");
        note(&file, fs::remove_file(&file));
    }
    let (files, marks) = (Files::all(&settings.run_dir), settings.run_dir.join(super::MARKS));
    for directory in [&files, &marks, &settings.run_dir, &settings.state_dir, Path::new(OF_NAMESPACES)] {
        failpoint::before("remove a directory of the instance");
        note(directory, fs::remove_dir(directory));
    }
    errors.extend(copy);
    errors
}

/// Refuses what is not root's alone where an instance has its files.
pub(super) fn check_files(settings: &Settings) -> Result<()> {
    let (state, run, pins) = (&settings.state_dir, &settings.run_dir, &settings.bpffs);
    for directory in [state, run, pins, &pins.join("maps"), &pins.join("links")] {
        trust::directory(directory)?;
    }
    for file in Store::files(state).into_iter().chain([state.join("lock")]) {
        trust::file(&file)?;
    }
    for directory in Store::directories(run) {
        trust::directory(&directory)?;
    }
    for socket in [settings.socket(), settings.read_socket()] {
        trust::socket(&socket)?;
    }
    let (containers, marks) = (Files::all(run), run.join(super::MARKS));
    trust::directory(&marks)?;
    trust::files_of(&marks)?;
    trust::directory(&containers)?;
    trust::directories_of(&containers)?;
    for pins in ["maps", "links"] {
        trust::files_of(&settings.bpffs.join(pins))?;
    }
    let programs = Datapath::programs_in(&settings.bpffs);
    for directory in [programs, Datapath::queues_in(&settings.bpffs)] {
        trust::directory(&directory)?;
        trust::directories_of(&directory)?;
    }
    Ok(())
}

fn make_directory(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .context(|| format!("make the directory {}", path.display()))
}

pub(super) fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::Unsupported("netbpf needs root, for BPF and network devices: run it with sudo".into()))
}

/// Only what the settings ask for is needed.
fn require_ipv6(settings: &Settings) -> Result<()> {
    if !settings.ipv6 || net::has_ipv6() {
        return Ok(());
    }
    Err(Error::Unsupported(
        "the kernel has no IPv6 (ipv6.disable=1 on its command line, or built without): switch it on there, or set \
         ipv6 = false in netbpf's settings"
            .into(),
    ))
}

pub(super) fn lock(state_dir: &Path) -> Result<Flock<File>> {
    let path = state_dir.join("lock");
    let mut options = File::options();
    options.create(true).truncate(false).write(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    let file = options.open(&path);
    let file = file.context(|| format!("open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => Error::Conflict(format!(
            "another agent runs on {}: stop it first, or choose another --state-dir",
            state_dir.display()
        )),
        error => Error::Internal(format!("cannot lock {}: {error}", path.display())),
    })
}

/// A locally administered address of a single machine (IEEE 802, U/L and I/G bits).
pub(super) fn random_mac() -> [u8; 6] {
    let mut octets: [u8; 6] = rand::random();
    octets[0] = octets[0] & 0xfc | 0x02;
    octets
}
