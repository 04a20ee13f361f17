//! The agent itself: what it may use, and whether it is the command's own version.

use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};

use crate::api::types::Finding;

/// Fewer descriptors than these are soon used up: each question that is on its way to a resolver has one.
const FEW_FILES: u64 = 1024;

/// How much of what it may use the agent may use, in percent.
const MUCH: u64 = 90;

/// What is used of what may be.
#[derive(Clone, Copy, Debug)]
struct Use {
    used: u64,
    limit: u64,
}

impl Use {
    fn is_much(self) -> bool {
        self.used.saturating_mul(100) >= self.limit.saturating_mul(MUCH)
    }
}

/// Of the calling process.
pub(super) fn look() -> Finding {
    let used = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(limit, _)| limit);
    judge(Use { used, limit }, memory())
}

/// Memory of the process's cgroup, which maps count to as well; none where nothing limits it.
fn memory() -> Option<Use> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let of = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let number = |file: &str| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
        let path = path.trim_end_matches('/');
        match controllers {
            "" => {
                let directory = format!("/sys/fs/cgroup{path}");
                Some(Use {
                    used: number(&format!("{directory}/memory.current"))?,
                    limit: number(&format!("{directory}/memory.max"))?,
                })
            }
            controllers if controllers.split(',').any(|it| it == "memory") => {
                let directory = format!("/sys/fs/cgroup/memory{path}");
                let used = number(&format!("{directory}/memory.usage_in_bytes"))?;
                Some(Use { used, limit: number(&format!("{directory}/memory.limit_in_bytes"))? })
            }
            _ => None,
        }
    };
    // What version 1 says where nothing limits is more than any machine has.
    cgroups.lines().find_map(of).filter(|memory| memory.limit < i64::MAX as u64 / 2)
}

fn judge(files: Use, memory: Option<Use>) -> Finding {
    const CHECK: &str = "limits";
    if files.limit < FEW_FILES || files.is_much() {
        return Finding::amiss(
            CHECK,
            format!("the agent has {} of {} files open", files.used, files.limit),
            "give it more: LimitNOFILE= in its unit, or `ulimit -Hn` of who starts it",
        );
    }
    if let Some(memory) = memory.filter(|memory| memory.is_much()) {
        let mib = |bytes: u64| bytes >> 20;
        return Finding::amiss(
            CHECK,
            format!("the agent's cgroup uses {} of {} MiB", mib(memory.used), mib(memory.limit)),
            "tables count to it as well: raise MemoryMax= of its unit, or lower `flows` and `held_fragments`",
        );
    }
    let told = memory.map(|it| format!(", {} of {} MiB", it.used >> 20, it.limit >> 20)).unwrap_or_default();
    Finding::well(CHECK, format!("the agent has {} of {} files open{told}", files.used, files.limit))
}

/// Whether agent and command line are of one version.
pub(super) fn agent(pid: u32, agent: &str, command: &str) -> Finding {
    const CHECK: &str = "agent";
    if agent == command {
        return Finding::well(CHECK, format!("version {agent}, process {pid}"));
    }
    Finding::amiss(
        CHECK,
        format!("the agent (process {pid}) is of version {agent}, this command of {command}"),
        "restart the agent: connections go on meanwhile",
    )
}

/// What is left where no agent answers.
pub(super) fn no_agent(socket: &Path, has_datapath: bool) -> Finding {
    const CHECK: &str = "agent";
    let datapath = if has_datapath {
        "; what a former one made serves on: containers reach each other and the world, but nothing new is followed"
    } else {
        "; no datapath is there either"
    };
    Finding::amiss(
        CHECK,
        format!("no agent answers at {}{datapath}", socket.display()),
        "start it with `netbpf agent`, or name its socket with --socket; what only it knows is not looked at here",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_may_use_little_is_told() {
        let files = |used, limit| Use { used, limit };
        assert!(judge(files(20, 1 << 20), None).ok);
        assert!(judge(files(20, 256), None).advice.contains("LimitNOFILE"));
        assert!(!judge(files(1900, 2000), None).ok);
        let memory = |used: u64, limit: u64| Some(Use { used: used << 20, limit: limit << 20 });
        assert!(judge(files(20, 2000), memory(100, 512)).found.contains("100 of 512 MiB"));
        assert!(!judge(files(20, 2000), memory(500, 512)).ok);
    }

    #[test]
    fn versions_that_differ_are_told() {
        assert!(agent(1, "1.0.0", "1.0.0").ok);
        let told = agent(1, "1.0.0", "1.1.0");
        assert!(!told.ok && told.found.contains("1.0.0") && told.found.contains("1.1.0"));
    }

    #[test]
    fn without_an_agent_it_is_said_what_goes_on() {
        let socket = Path::new("/run/netbpf/netbpf.sock");
        assert!(no_agent(socket, true).found.contains("serves on"));
        assert!(no_agent(socket, false).found.contains("no datapath"));
    }
}
