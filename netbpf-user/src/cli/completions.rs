//! `netbpf completions`

use std::io;
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

/// Print what makes a shell complete netbpf's verbs and flags
#[derive(Args)]
#[command(after_help = "\
Examples:
  . <(netbpf completions bash)                       for this shell
  netbpf completions zsh > /usr/local/share/zsh/site-functions/_netbpf
  netbpf completions fish > ~/.config/fish/completions/netbpf.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, mut grammar: Command) -> anyhow::Result<ExitCode> {
        clap_complete::generate(self.shell, &mut grammar, "netbpf", &mut io::stdout());
        Ok(ExitCode::SUCCESS)
    }
}
