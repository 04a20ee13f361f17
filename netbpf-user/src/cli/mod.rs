//! The command line: one file per verb. A verb translates words to a call, and the answer to words; it decides nothing.

mod agent;
mod attach;
mod completions;
mod container;
mod create;
mod demo;
mod doctor;
mod exec;
mod exposure;
mod flows;
mod inspect;
mod log;
mod manual;
mod network;
mod output;
mod port;
mod ps;
mod publish;
mod rm;
mod run;
mod service;
mod settings;
mod status;
mod uninstall;
mod unpublish;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory as _, Parser, Subcommand};
use netbpf_user::Settings;
use netbpf_user::api::Client;
use netbpf_user::config::LogFormat;

/// Container networks in eBPF: no bridge, no netfilter rule, no proxy process.
#[derive(Parser)]
#[command(name = "netbpf", version, propagate_version = true, max_term_width = 100, after_help = EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  netbpf agent &                                     start the daemon (as root)
  netbpf run -d --name web -p 8080:80 -- nginx -g 'daemon off;'
  netbpf ps                                          what runs, and where
  netbpf demo                                        see it work in a private rig";

/// Flags of every verb, before or after it.
#[derive(clap::Args)]
struct Global {
    /// Socket of the agent [default: /run/netbpf/netbpf.sock]
    #[arg(long, global = true, env = "NETBPF_SOCKET", value_name = "PATH", hide_env_values = true)]
    socket: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    json: bool,
    /// Log more; twice for still more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

impl Global {
    fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| Settings::default().socket())
    }

    fn client(&self) -> anyhow::Result<Client> {
        client(&self.socket())
    }
}

fn client(socket: &Path) -> anyhow::Result<Client> {
    Client::new(socket).context("cannot start the client")
}

#[derive(Subcommand)]
enum Verb {
    Agent(agent::Agent),
    Uninstall(uninstall::Uninstall),
    Run(run::Run),
    Create(create::Create),
    Attach(attach::Attach),
    Exec(exec::Exec),
    Ps(ps::Ps),
    Inspect(inspect::Inspect),
    Rm(rm::Rm),
    Port(port::Port),
    Exposure(exposure::Exposure),
    Publish(publish::Publish),
    Unpublish(unpublish::Unpublish),
    Network(network::Network),
    Status(status::Status),
    Doctor(doctor::Doctor),
    Flows(flows::Flows),
    Demo(demo::Demo),
    Completions(completions::Completions),
    Manual(manual::Manual),
}

/// Exit codes: 0 done, 1 refused or failed, 2 usage; the last two with one line on stderr.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return explain(&error),
    };
    // The agent's settings say how it logs.
    if !matches!(arguments.verb, Verb::Agent(_)) {
        log::start(arguments.global.verbose, LogFormat::Text);
    }
    run(arguments).unwrap_or_else(|error| {
        eprintln!("netbpf: {}", format!("{error:#}").replace('\n', " "));
        ExitCode::FAILURE
    })
}

/// Answers `--help` and `--version`, and says in one line what is wrong with the arguments.
fn explain(error: &clap::Error) -> ExitCode {
    match error.kind() {
        // Clap would name the verb, which has no version of its own.
        ErrorKind::DisplayVersion => println!("netbpf {}", env!("CARGO_PKG_VERSION")),
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => {
            eprintln!("netbpf: {}; try --help", usage_line(&error.to_string()));
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Clap's complaint and its tips, without the paragraphs that follow.
fn usage_line(complaint: &str) -> String {
    let lines = complaint.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let line = lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
    line.trim_start_matches("error: ").to_owned()
}

fn run(Arguments { global, verb }: Arguments) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Agent(verb) => verb.run(&global),
        Verb::Uninstall(verb) => verb.run(&global),
        Verb::Run(verb) => verb.run(&global),
        Verb::Create(verb) => verb.run(&global),
        Verb::Attach(verb) => verb.run(&global),
        Verb::Exec(verb) => verb.run(&global),
        Verb::Ps(verb) => verb.run(&global),
        Verb::Inspect(verb) => verb.run(&global),
        Verb::Rm(verb) => verb.run(&global),
        Verb::Port(verb) => verb.run(&global),
        Verb::Exposure(verb) => verb.run(&global),
        Verb::Publish(verb) => verb.run(&global),
        Verb::Unpublish(verb) => verb.run(&global),
        Verb::Network(verb) => verb.run(&global),
        Verb::Status(verb) => verb.run(&global),
        Verb::Doctor(verb) => verb.run(&global),
        Verb::Flows(verb) => verb.run(&global),
        Verb::Demo(verb) => verb.run(&global),
        Verb::Completions(verb) => verb.run(Arguments::command()),
        Verb::Manual(verb) => verb.run(Arguments::command()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Arguments::command().debug_assert();
    }

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn globals_stand_before_or_after_the_verb() {
        for line in ["netbpf --json --socket /s ps", "netbpf ps --json --socket /s", "netbpf --json ps --socket /s"] {
            let arguments = parse(line).unwrap();
            assert!(arguments.global.json, "{line}");
            assert_eq!(arguments.global.socket(), Path::new("/s"), "{line}");
        }
    }

    #[test]
    fn what_follows_the_command_is_the_commands() {
        for line in ["netbpf run -h box -p 80 -- ls --json -p 1", "netbpf run -h box -p 80 ls --json -p 1"] {
            let Arguments { global, verb: Verb::Run(run) } = parse(line).unwrap() else { panic!("{line}") };
            assert!(!global.json);
            assert_eq!(run.command(), ["ls", "--json", "-p", "1"]);
        }
        assert!(parse("netbpf run").is_err());
        assert!(parse("netbpf exec box").is_err());
    }

    #[test]
    fn wrong_usage_is_told_in_one_line() {
        for (line, expected) in [
            ("netbpf attach --pid 1", "the following required arguments were not provided: --name <N>"),
            ("netbpf create --ip 1.2.3", "invalid value '1.2.3' for '--ip <A>': invalid IPv4 address syntax"),
            ("netbpf create --ip6 10.0.0.1", "invalid value '10.0.0.1' for '--ip6 <A>': invalid IPv6 address syntax"),
            ("netbpf rm --al", "unexpected argument '--al' found"),
        ] {
            let Err(error) = parse(line) else { panic!("{line}") };
            let told = usage_line(&error.to_string());
            assert!(told.starts_with(expected), "{told}");
            assert!(!told.contains('\n'), "{told}");
        }
    }

    /// What stands between backticks in a text.
    fn code(text: &str) -> impl Iterator<Item = &str> {
        text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
    }

    #[test]
    fn the_page_for_docker_users_names_commands_and_flags_that_there_are() {
        let page = include_str!("../../../docs/docker-users.md");
        let cells = page.lines().filter_map(|line| line.strip_prefix('|')?.split('|').nth(1));
        let flags = cells.flat_map(code).filter(|it| it.starts_with('-')).map(|flags| format!("netbpf create {flags}"));
        let commands = code(page).filter(|it| it.starts_with("netbpf ")).map(str::to_owned);
        let grammar = Arguments::command();
        for line in flags.chain(commands) {
            // A verb alone stands for whatever follows it.
            let is_verb = line.split(' ').skip(1).try_fold(&grammar, |verb, word| verb.find_subcommand(word)).is_some();
            let Arguments { verb, .. } = match parse(&line) {
                Ok(arguments) => arguments,
                Err(_) if is_verb => continue,
                Err(error) => panic!("{line}: {error}"),
            };
            if let Verb::Create(create) = verb {
                for spec in create.request().publish {
                    spec.parse::<netbpf_user::spec::PublishSpec>().unwrap_or_else(|error| panic!("{line}: {error}"));
                }
            }
        }
    }

    #[test]
    fn the_page_for_docker_users_names_settings_that_there_are() {
        let page = include_str!("../../../docs/docker-users.md");
        // What stands in one row goes together.
        let rows = page.lines().map(|line| code(line).filter(|it| it.contains(" = ")).collect::<Vec<_>>().join("\n"));
        let rows: Vec<String> = rows.filter(|settings| !settings.is_empty()).collect();
        assert!(rows.len() > 5, "{rows:?}");
        for row in rows {
            let settings: Settings = toml::from_str(&row).unwrap_or_else(|error| panic!("{row}: {error}"));
            settings.validate().unwrap_or_else(|error| panic!("{row}: {error}"));
        }
    }

    #[test]
    fn attach_takes_one_namespace() {
        assert!(parse("netbpf attach --name a --pid 1").is_ok());
        assert!(parse("netbpf attach --name a --netns /n").is_ok());
        assert!(parse("netbpf attach --name a").is_err());
        assert!(parse("netbpf attach --name a --pid 1 --netns /n").is_err());
        assert!(parse("netbpf attach --pid 1").is_err());
    }
}
