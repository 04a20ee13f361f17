//! Other kernels: tests and whatever else in virtual machines.

mod fetch;
mod list;
mod machine;

use std::{
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use self::list::{ASLEEP, Share};
use self::machine::{Machine, Manner, booted, inner_status};
use crate::{
    bench,
    command::{cargo, run, target_dir, workspace},
    report::{Outcome, Report},
    setup,
    test::Tier,
};

/// How many times as slow an emulated machine is.
const EMULATED: u32 = 6;
/// What tests take that into account by.
const SLOWNESS: &str = "NETBPF_SLOWNESS";

/// Lets tests have all their files in memory.
const IN_MEMORY: &str = include_str!("memory.sh");

/// Lets a test suspend the machine.
const MAY_SLEEP: &str = "NETBPF_MAY_SLEEP";

/// What the tests of tier 2 start besides netbpf.
const SOCKET_MAKER: &str = "socket-maker";

/// As many tests at the same time as a machine has CPUs: emulated ones have none to spare.
const THREADS: &str = "2";

/// What runs longer hangs.
const LIMIT: Duration = Duration::from_secs(30 * 60);

#[derive(Args)]
pub(crate) struct Arguments {
    /// Series of kernels [default: all]
    kernels: Vec<Series>,
    /// Only this tier, 1 or 2; may be given several times
    #[arg(long = "tier", value_name = "N")]
    tiers: Vec<Tier>,
    /// Only tests whose name contains this, also of those that are left out otherwise
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Only the tests that `ci` runs
    #[arg(long, conflicts_with = "filter")]
    quick: bool,
    /// Run this line of bash in each instead of tests
    #[arg(long, value_name = "LINE", conflicts_with_all = ["tiers", "filter", "quick"])]
    run: Option<String>,
    /// A shell in one instead of tests
    #[arg(long, conflicts_with_all = ["tiers", "filter", "quick", "run"])]
    shell: bool,
    /// Use /dev/kvm instead of emulating the processor
    #[arg(long)]
    kvm: bool,
}

/// The kernels that netbpf is tested on besides that of this machine: the oldest it runs on, and one between.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Series {
    #[value(name = "6.1")]
    Oldest,
    #[value(name = "6.12")]
    Between,
}

impl Series {
    const ALL: [Self; 2] = [Self::Oldest, Self::Between];

    fn name(self) -> &'static str {
        match self {
            Self::Oldest => "6.1",
            Self::Between => "6.12",
        }
    }

    fn share(self) -> Share {
        let [v4, v6] = list::FAMILIES;
        match self {
            Self::Oldest => Share { family: v4, has_links: false },
            Self::Between => Share { family: v6, has_links: true },
        }
    }
}

/// Does in the machines what is asked for.
pub(crate) fn vm(arguments: &Arguments) -> Result<ExitCode> {
    let series = if arguments.kernels.is_empty() { Series::ALL.to_vec() } else { arguments.kernels.clone() };
    let manner = Manner { kvm: arguments.kvm, limit: None };
    if arguments.shell {
        ensure!(arguments.kernels.len() == 1, "say which kernel the shell is to run on: cargo xtask vm --shell 6.12");
        setup::programs()?;
        let (mut shell, _script) = Machine::ready(series[0].name())?.shell(manner)?;
        let status = shell.status().context("cannot start QEMU")?;
        return inner_status(status.code()).map(ExitCode::from).context("the machine was ended from outside");
    }
    if let Some(line) = &arguments.run {
        setup::programs()?;
        return run_line(&series, line, manner);
    }
    Ok(test(arguments, &series)?.print(Vec::new()))
}

/// What `ci` runs, on every kernel.
pub(crate) fn quick() -> Result<Report> {
    let quick = Arguments {
        kernels: Vec::new(),
        tiers: Vec::new(),
        filter: None,
        quick: true,
        run: None,
        shell: false,
        kvm: false,
    };
    test(&quick, &Series::ALL)
}

/// Runs a line in each, and ends with the first status that is not 0.
fn run_line(series: &[Series], line: &str, manner: Manner) -> Result<ExitCode> {
    for series in series {
        let machine = Machine::ready(series.name())?;
        let line = format!("cd {} || exit 1\n{line}", workspace().display());
        let mut outcome = Outcome::default();
        match watch(&machine, &line, manner, &mut outcome)? {
            0 => {}
            status => return Ok(ExitCode::from(status)),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs tests in each. A machine that cannot be fetched or does not boot is a failure like any other.
fn test(arguments: &Arguments, series: &[Series]) -> Result<Report> {
    let tiers =
        if arguments.tiers.is_empty() { vec![Tier::Programs, Tier::Namespaces] } else { arguments.tiers.clone() };
    ensure!(!tiers.contains(&Tier::Logic), "tier 0 needs no kernel: cargo xtask test --tier 0");
    setup::setup()?;
    run(cargo().args(["build", "--package", "netbpf-user"]))?;
    let programs = tiers.iter().map(|tier| Ok((*tier, executables(*tier)?))).collect::<Result<Vec<_>>>()?;
    let is_all = arguments.tiers.is_empty() && arguments.filter.is_none() && !arguments.quick;
    let generated = is_all.then(bench::generated).transpose()?;
    let manner = Manner { kvm: arguments.kvm, limit: Some(LIMIT) };
    let mut outcomes = Vec::new();
    for series in series {
        for (tier, programs) in &programs {
            let name = format!("Linux {}: {tier}", series.name());
            let line = line(*tier, programs, *series, arguments)?;
            let mut outcome = outcome(*series, &name, &line, manner);
            if outcome.problem.is_none() {
                outcome.problem = outcome.lack(arguments.filter.is_some());
            }
            outcomes.push((name, outcome));
        }
        for (_, programs) in programs.iter().filter(|(tier, _)| is_all && *tier == Tier::Namespaces) {
            let name = format!("Linux {}: asleep", series.name());
            let mut outcome = outcome(*series, &name, &asleep(programs, arguments), manner);
            if outcome.problem.is_none() {
                outcome.problem = outcome.lack(false);
            }
            outcomes.push((name, outcome));
        }
        if let Some(line) = &generated {
            let name = format!("Linux {}: packets of pktgen", series.name());
            let outcome = outcome(*series, &name, line, manner);
            outcomes.push((name, outcome));
        }
    }
    Ok(Report { outcomes, filter: arguments.filter.clone() })
}

/// What a line comes to on a kernel.
fn outcome(series: Series, name: &str, line: &str, manner: Manner) -> Outcome {
    println!("\n── {name}");
    let started = Instant::now();
    let mut outcome = Outcome::default();
    let status = Machine::ready(series.name()).and_then(|machine| watch(&machine, line, manner, &mut outcome));
    outcome.time = started.elapsed();
    outcome.problem = match status {
        Err(error) => Some(format!("{error:#}")),
        Ok(status) if status != 0 && !outcome.has_failed() => Some(format!("broke off (exit status {status})")),
        Ok(_) => None,
    };
    outcome
}

/// What runs the tests of a tier inside.
fn line(tier: Tier, programs: &[PathBuf], series: Series, arguments: &Arguments) -> Result<String> {
    let selected = programs.iter().map(|program| {
        let selection = match (&arguments.filter, tier) {
            (Some(filter), _) => filter.clone(),
            (None, Tier::Namespaces) => {
                let names = listed(program)?;
                format!("--exact {}", list::chosen(&names, series.share(), arguments.quick)?.join(" "))
            }
            (None, _) => String::new(),
        };
        Ok(format!("{} --test-threads {THREADS} {selection}", program.display()))
    });
    Ok(lines(&selected.collect::<Result<Vec<_>>>()?, arguments))
}

/// What runs the tests of tier 2 that let the machine sleep.
fn asleep(programs: &[PathBuf], arguments: &Arguments) -> String {
    let selected: Vec<_> =
        programs.iter().map(|program| format!("{MAY_SLEEP}=1 {} {ASLEEP}", program.display())).collect();
    let files: Vec<_> = programs.iter().map(|program| program.display().to_string()).collect();
    format!(
        "set -- {} {} {}\n{IN_MEMORY}\nmkdir -p $memory{}\n\
         chroot $memory bash >/dev/ttyS0 2>&1 <<'END'\n{}\nstatus=$?\n# Once all that is printed has left.\nstty -F /dev/ttyS0 sane\nend $status\nEND",
        netbpf().display(),
        netbpf().with_file_name(SOCKET_MAKER).display(),
        files.join(" "),
        directory().display(),
        lines(&selected, arguments),
    )
}

/// Runs tests by programs with their selections, one after the other.
fn lines(programs: &[String], arguments: &Arguments) -> String {
    let mut lines = format!("cd {} || exit 1\nexport RUST_BACKTRACE=0 status=0\n", directory().display());
    // A machine builds nothing.
    lines += &format!("export NETBPF_PROGRAM={}\n", netbpf().display());
    if !arguments.kvm {
        lines += &format!("export {SLOWNESS}={EMULATED}\n");
    }
    for program in programs {
        lines += &format!("{program} || status=$?\n");
    }
    lines + "(exit $status)"
}

/// Where tests run.
fn directory() -> PathBuf {
    workspace().join("tests")
}

fn netbpf() -> PathBuf {
    target_dir().join("debug/netbpf")
}

/// Builds the tests of a tier, and tells where they are.
fn executables(tier: Tier) -> Result<Vec<PathBuf>> {
    let mut build = cargo();
    build.args(["test", "--quiet", "--no-run", "--message-format=json-render-diagnostics"]).args(tier.selection());
    let output = build.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cannot build the tests");
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let tests = messages.filter(|message| message["target"]["kind"][0] == "test");
    let programs: Vec<_> = tests.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?))).collect();
    ensure!(!programs.is_empty(), "cargo built no tests in {}", target_dir().display());
    Ok(programs)
}

/// The names of a program's tests.
fn listed(program: &PathBuf) -> Result<Vec<String>> {
    let printed = crate::command::output_of(Command::new(program).arg("--list"))?;
    Ok(printed.lines().filter_map(|line| line.strip_suffix(": test")).map(String::from).collect())
}

/// Shows what a machine prints while it runs lines of bash, and tells with which status these end.
fn watch(machine: &Machine, lines: &str, manner: Manner, outcome: &mut Outcome) -> Result<u8> {
    let started = Instant::now();
    let (mut emulator, _script) = machine.start(lines, manner)?;
    let mut child = emulator.stdout(Stdio::piped()).spawn().context("cannot start QEMU")?;
    let mut up = None;
    outcome.follow(child.stdout.take().expect("stdout is piped"), |line| {
        if let (None, Some(release)) = (&up, booted(line)) {
            eprintln!("Linux {release} has booted in {:.1} s", started.elapsed().as_secs_f64());
            up = Some(release.to_owned());
        }
    })?;
    let status = child.wait().context("cannot wait for QEMU")?;
    match (inner_status(status.code()), up) {
        (Some(inner), Some(_)) => Ok(inner),
        (_, Some(_)) => bail!("the machine has ended before its script ({status})"),
        (_, None) => bail!("Linux {} has not booted ({status})", machine.series),
    }
}
