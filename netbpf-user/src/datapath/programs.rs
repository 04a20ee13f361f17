//! The kernel programs: those that an agent before this one has pinned, or new ones from the object in this binary.
//!
//! The verifier takes a second for them, and their pins make that a thing of the first start: an agent that comes back
//! finds what it would load. The name of their directory says what they are made from, and of which maps.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapInfo, ProgramArray};
use aya::programs::{CgroupSockAddr, CgroupSockAddrAttachType, Program, ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_obj::programs::XdpAttachType;
use netbpf_common::abi::{map, program};
use nix::sys::signal::SigSet;

use super::hook::NETKIT;
use super::probe;
use crate::config::DatapathLog;
use crate::error::{Context as _, Error, Result, chain};
use crate::failpoint;

/// The kernel programs, built from netbpf-ebpf.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netbpf-ebpf"));

/// The object that the kernel programs are loaded from.
pub fn object() -> &'static [u8] {
    OBJECT
}

/// A constant of the programs: what the kernel takes besides the flags that every kernel knows.
const IPV6_CHECKSUM_FLAG: &str = "IPV6_CHECKSUM_FLAG";

/// Another: what the kernel's packets look like inside. Pins do not outlive a kernel, so it tells no programs apart.
const SKB_LAYOUT: &str = "SKB_LAYOUT";

/// Lines of the verifier's log that are kept when it refuses a program.
const VERIFIER_LINES: usize = 40;

/// Where programs are pinned, below the instance's directory.
pub(super) const DIRECTORY: &str = "programs";

/// What only devices without Ethernet headers need: loaded with the first of them, since the verifier takes its time.
const BARE: [&str; 2] = [program::UPLINK_BARE, program::PARTS[2]];

/// What only uplinks with XDP need: loaded with the first of them.
const EXPRESS: [&str; 1] = [program::EXPRESS];

/// What the programs are told when they are loaded.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Constants {
    /// How much they log.
    pub(super) log: DatapathLog,
    /// What `bpf_l4_csum_replace` takes for addresses of IPv6.
    pub(super) ipv6_checksum_flag: u64,
}

/// What programs are loaded from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The instance's directory.
    pub(super) directory: PathBuf,
    /// What they are told.
    pub(super) constants: Constants,
    /// Maps whose size is a setting, with it.
    pub(super) sizes: Vec<(&'static str, u32)>,
}

/// Loaded programs.
#[derive(Debug)]
pub(super) struct Programs {
    source: Source,
    /// Where they are pinned.
    pins: PathBuf,
    /// The maps they work on. Held, so that whoever removes a pin takes none away.
    maps: BTreeMap<&'static str, MapData>,
    classifiers: BTreeMap<&'static str, SchedClassifier>,
    sockets: BTreeMap<&'static str, CgroupSockAddr>,
    express: BTreeMap<&'static str, Xdp>,
}

impl Programs {
    /// Takes over what is pinned of this very object on these very maps; loads it where there is none.
    pub(super) fn take_over_or_load(source: Source) -> Result<Self> {
        if OBJECT.is_empty() {
            return Err(Error::Unsupported(
                "this netbpf was built without its kernel programs: build it again with `cargo xtask build`".into(),
            ));
        }
        let wanted = wanted(source.constants.log);
        let programs = match source.pins()? {
            Some(pins) if are_in(&pins, &wanted) => {
                let mut programs = Self::none(source, pins)?;
                programs.open(&wanted)?;
                programs
            }
            _ => {
                let loaded = source.load(&wanted)?;
                let pins = source.pins()?.ok_or_else(|| Error::Internal("a map was not pinned".into()))?;
                let mut programs = Self::none(source, pins)?;
                programs.pin(loaded, &wanted)?;
                programs
            }
        };
        programs.join_parts()?;
        programs.remove_others()?;
        Ok(programs)
    }

    /// None yet, on the pinned maps.
    fn none(source: Source, pins: PathBuf) -> Result<Self> {
        let open = |name| {
            let map = MapData::from_pin(source.map(name)).context(|| format!("open the pinned map {name}"))?;
            Ok((name, map))
        };
        let maps = map::all().map(open).collect::<Result<_>>()?;
        Ok(Self {
            source,
            pins,
            maps,
            classifiers: BTreeMap::new(),
            sockets: BTreeMap::new(),
            express: BTreeMap::new(),
        })
    }

    /// Pins again what has lost its pin: the same maps and programs.
    pub(super) fn keep_pins(&mut self) -> Result<()> {
        for (name, map) in &self.maps {
            let pin = self.source.map(name);
            if !pin.exists() {
                map.pin(&pin).context(|| format!("pin {}", pin.display()))?;
            }
        }
        fs::create_dir_all(&self.pins).context(|| format!("make {}", self.pins.display()))?;
        let classifiers = self.classifiers.iter_mut().map(|(name, program)| (*name, Loaded::Classifier(program)));
        let sockets = self.sockets.iter_mut().map(|(name, program)| (*name, Loaded::Socket(program)));
        let express = self.express.iter_mut().map(|(name, program)| (*name, Loaded::Express(program)));
        for (name, program) in classifiers.chain(sockets).chain(express) {
            let pin = self.pins.join(name);
            if !pin.exists() {
                let pinned = match program {
                    Loaded::Classifier(program) => program.pin(&pin),
                    Loaded::Socket(program) => program.pin(&pin),
                    Loaded::Express(program) => program.pin(&pin),
                };
                pinned.context(|| format!("pin {}", pin.display()))?;
            }
        }
        Ok(())
    }

    /// A program of a device.
    pub(super) fn classifier(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let name = if name == NETKIT { program::EGRESS } else { name };
        if BARE.contains(&name) && !self.classifiers.contains_key(name) {
            self.add(&BARE)?;
            self.join_parts()?;
        }
        self.classifiers.get_mut(name).ok_or_else(|| missing(name))
    }

    /// The program of uplinks with XDP.
    pub(super) fn express(&mut self) -> Result<&mut Xdp> {
        if self.express.is_empty() {
            self.add(&EXPRESS)?;
        }
        self.express.get_mut(program::EXPRESS).ok_or_else(|| missing(program::EXPRESS))
    }

    /// Takes over or loads what was not needed until now.
    fn add(&mut self, names: &[&'static str]) -> Result<()> {
        if are_in(&self.pins, names) {
            return self.open(names);
        }
        // The loader would make maps anew whose pins somebody has removed.
        self.keep_pins()?;
        let loaded = self.source.load(names)?;
        self.pin(loaded, names)
    }

    /// A hook of sockets.
    pub(super) fn socket(&mut self, name: &str) -> Result<&mut CgroupSockAddr> {
        self.sockets.get_mut(name).ok_or_else(|| missing(name))
    }

    /// Number of each, by all its names.
    pub(super) fn ids(&self) -> BTreeMap<&'static str, u32> {
        let classifiers = self.classifiers.iter().map(|(name, program)| (*name, program.info()));
        let sockets = self.sockets.iter().map(|(name, program)| (*name, program.info()));
        let express = self.express.iter().map(|(name, program)| (*name, program.info()));
        let all = classifiers.chain(sockets).chain(express);
        let mut ids: BTreeMap<_, _> = all.filter_map(|(name, info)| Some((name, info.ok()?.id()))).collect();
        let netkit = ids.get(program::EGRESS).copied();
        ids.extend(netkit.map(|id| (NETKIT, id)));
        ids
    }

    /// Pins programs in the place of those that are there under their names, and takes them over.
    fn pin(&mut self, mut loaded: Ebpf, names: &[&'static str]) -> Result<()> {
        fs::create_dir_all(&self.pins).context(|| format!("make {}", self.pins.display()))?;
        for name in names {
            let pin = self.pins.join(name);
            let what = || format!("pin the program {name}");
            if pin.exists() {
                fs::remove_file(&pin).context(what)?;
            }
            let program = loaded.program_mut(name).ok_or_else(|| missing(name))?;
            failpoint::before("pin a program");
            program.pin(&pin).context(what)?;
        }
        self.open(names)
    }

    fn open(&mut self, names: &[&'static str]) -> Result<()> {
        for name in names {
            let pin = self.pins.join(name);
            let what = || format!("open the pinned program {name}");
            match attach_type(name) {
                Some(kind) => {
                    self.sockets.insert(name, CgroupSockAddr::from_pin(pin, kind).context(what)?);
                }
                None if EXPRESS.contains(name) => {
                    self.express.insert(name, Xdp::from_pin(pin, XdpAttachType::Interface).context(what)?);
                }
                None => {
                    self.classifiers.insert(name, SchedClassifier::from_pin(pin).context(what)?);
                }
            }
        }
        Ok(())
    }

    /// Lets paths find the parts of them that are for IPv6. Packets meet the new ones from here on, which work on the same
    /// maps.
    fn join_parts(&self) -> Result<()> {
        let what = || format!("use the map {}", map::PARTS);
        let parts = MapData::from_pin(self.source.map(map::PARTS)).context(what)?;
        let mut parts = ProgramArray::try_from(Map::ProgramArray(parts)).context(what)?;
        for (place, name) in (0..).zip(program::PARTS) {
            if let Some(part) = self.classifiers.get(name) {
                let descriptor = part.fd().context(|| format!("use the program {name}"))?;
                parts.set(place, descriptor, 0).context(|| format!("put the program {name} into its place"))?;
            }
        }
        Ok(())
    }

    /// Removes the pins of other objects. What of them still runs is held by its links.
    fn remove_others(&self) -> Result<()> {
        let directory = self.source.directory.join(DIRECTORY);
        let entries = fs::read_dir(&directory).context(|| format!("read {}", directory.display()))?;
        for entry in entries.flatten().filter(|entry| entry.path() != self.pins) {
            failpoint::before("remove the pins of other programs");
            fs::remove_dir_all(entry.path()).context(|| format!("remove {}", entry.path().display()))?;
        }
        Ok(())
    }
}

/// Whether all of these are pinned: one that is missing was being pinned when an agent was killed.
fn are_in(pins: &Path, names: &[&str]) -> bool {
    names.iter().all(|name| pins.join(name).exists())
}

/// A program of any kind.
enum Loaded<'a> {
    Classifier(&'a mut SchedClassifier),
    Socket(&'a mut CgroupSockAddr),
    Express(&'a mut Xdp),
}

impl Source {
    /// The pin of a map.
    fn map(&self, name: &str) -> PathBuf {
        self.directory.join("maps").join(name)
    }

    /// Where the programs of this object, told these constants, are pinned for the maps that are there; nothing when one of those is
    /// missing.
    fn pins(&self) -> Result<Option<PathBuf>> {
        let mut identity = DefaultHasher::new();
        (OBJECT, self.constants).hash(&mut identity);
        for name in map::all() {
            let pin = self.map(name);
            match MapInfo::from_pin(&pin) {
                Ok(info) => info.id().hash(&mut identity),
                Err(_) if !pin.exists() => return Ok(None),
                Err(error) => return Err(error).context(|| format!("look at the pinned map {name}")),
            }
        }
        Ok(Some(self.directory.join(DIRECTORY).join(format!("{:016x}", identity.finish()))))
    }

    /// Loads programs, on the pinned maps; those that are missing are made.
    fn load(&self, names: &[&str]) -> Result<Ebpf> {
        let mut loader = EbpfLoader::new();
        for name in map::all() {
            loader.map_pin_path(name, self.map(name));
        }
        for (map, entries) in &self.sizes {
            loader.map_max_entries(map, *entries);
        }
        let level = level(self.constants.log);
        loader.override_global(aya_log::LEVEL, &level, false);
        loader.override_global(IPV6_CHECKSUM_FLAG, &self.constants.ipv6_checksum_flag, true);
        let layout = probe::skb_layout()?;
        loader.override_global(SKB_LAYOUT, bytemuck::bytes_of(&layout), true);
        failpoint::before("make maps");
        let mut programs = loader.load(OBJECT).map_err(|error| cannot_load(&error))?;
        verify(&mut programs, names)?;
        Ok(programs)
    }
}

/// The programs that an instance begins with. Their log lines come through one buffer, so that with a log all are loaded together.
fn wanted(log: DatapathLog) -> Vec<&'static str> {
    let all = program::DEVICE.into_iter().chain(program::PARTS).chain(program::COLLECT).chain(program::SOCKET);
    let later = |name: &&str| log == DatapathLog::Off && BARE.contains(name);
    all.filter(|name| !later(name)).collect()
}

/// Hands programs to the kernel. The verifier takes its time over the paths of packets, so each has a thread.
fn verify(programs: &mut Ebpf, names: &[&str]) -> Result<()> {
    std::thread::scope(|scope| {
        let loading: Vec<_> = programs
            .programs_mut()
            .filter(|(name, _)| names.contains(name))
            .map(|(name, program)| {
                scope.spawn(move || {
                    // A signal makes the verifier give up; it finds another thread.
                    SigSet::all().thread_block().context(|| "block signals".into())?;
                    let loaded = match program {
                        Program::SchedClassifier(program) => program.load(),
                        Program::CgroupSockAddr(program) => program.load(),
                        Program::Xdp(program) => program.load(),
                        _ => return Err(Error::Internal(format!("the object has a program {name} of another kind"))),
                    };
                    loaded.map_err(|error| refused(name, &error))
                })
            })
            .collect();
        // All are waited for, whichever fails.
        let results: Vec<Result<()>> = loading
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Error::Internal("loading a program has panicked".into())))
            })
            .collect();
        results.into_iter().collect()
    })
}

/// What a hook of sockets hangs on; nothing for a program of a device.
fn attach_type(name: &str) -> Option<CgroupSockAddrAttachType> {
    Some(match name {
        program::CONNECT4 => CgroupSockAddrAttachType::Connect4,
        program::CONNECT6 => CgroupSockAddrAttachType::Connect6,
        program::SENDMSG4 => CgroupSockAddrAttachType::UDPSendMsg4,
        program::SENDMSG6 => CgroupSockAddrAttachType::UDPSendMsg6,
        program::RECVMSG4 => CgroupSockAddrAttachType::UDPRecvMsg4,
        program::RECVMSG6 => CgroupSockAddrAttachType::UDPRecvMsg6,
        program::GETPEERNAME4 => CgroupSockAddrAttachType::GetPeerName4,
        program::GETPEERNAME6 => CgroupSockAddrAttachType::GetPeerName6,
        program::BIND4 => CgroupSockAddrAttachType::Bind4,
        program::BIND6 => CgroupSockAddrAttachType::Bind6,
        _ => return None,
    })
}

/// The levels of aya-log; 0 is below all of them, and the verifier then removes the code.
fn level(log: DatapathLog) -> u8 {
    match log {
        DatapathLog::Off => 0,
        DatapathLog::Error => aya_log::Level::Error as u8,
        DatapathLog::Warn => aya_log::Level::Warn as u8,
        DatapathLog::Info => aya_log::Level::Info as u8,
        DatapathLog::Debug => aya_log::Level::Debug as u8,
    }
}

fn missing(name: &str) -> Error {
    Error::Internal(format!("the object has no program {name}"))
}

fn cannot_load(error: &EbpfError) -> Error {
    match error {
        EbpfError::BtfError(error) => Error::Unsupported(format!(
            "the kernel offers no usable BTF ({error}): netbpf needs Linux 6.1 or newer with CONFIG_DEBUG_INFO_BTF=y"
        )),
        other => Error::Internal(format!("cannot load the kernel programs: {}", chain(other))),
    }
}

fn refused(name: &str, error: &ProgramError) -> Error {
    if let ProgramError::LoadError { verifier_log, .. } = error {
        // Millions of lines for a program that is too large; the reason is at the end.
        let log = verifier_log.to_string();
        let end: Vec<&str> = log.lines().rev().take(VERIFIER_LINES).collect();
        let end: Vec<&str> = end.into_iter().rev().collect();
        for line in end {
            tracing::error!(program = name, "the verifier: {line}");
        }
    }
    let kernel = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let reason = match error {
        ProgramError::LoadError { io_error, .. } => io_error.to_string(),
        other => chain(other),
    };
    Error::Unsupported(format!(
        "the kernel {} refuses the program {name} ({reason}): netbpf needs Linux 6.1 or newer; \
         the agent's log has the verifier's words",
        kernel.unwrap_or_default()
    ))
}
