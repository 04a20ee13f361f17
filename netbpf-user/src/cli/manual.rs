//! `netbpf manual`: the pages of the manual, for packages.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_mangen::roff::{Roff, bold, roman};

/// Write the manual, a page per verb and one about the settings, into a directory
#[derive(Args)]
#[command(hide = true)]
pub(super) struct Manual {
    /// Where the pages go
    directory: PathBuf,
}

impl Manual {
    pub(super) fn run(self, grammar: Command) -> anyhow::Result<ExitCode> {
        let Self { directory } = self;
        let write = || {
            fs::create_dir_all(&directory)?;
            clap_mangen::generate_to(grammar, &directory)?;
            fs::write(directory.join("netbpf.toml.5"), settings_page().render())
        };
        write().with_context(|| format!("cannot write the manual into {}", directory.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The example explains itself.
fn settings_page() -> Roff {
    let mut page = Roff::new();
    page.control("TH", ["netbpf.toml", "5"]);
    page.control("SH", ["NAME"]);
    page.text([roman("netbpf.toml - settings of the netbpf agent")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        roman("The agent reads them once, when it starts: "),
        bold("netbpf agent --config FILE"),
        roman(". The packaged service names /etc/netbpf/netbpf.toml. Below is every setting with its default."),
    ]);
    page.control("SH", ["SETTINGS"]);
    page.control("nf", []);
    page.text([roman(include_str!("../../../netbpf.example.toml"))]);
    page.control("fi", []);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("netbpf-agent"), roman("(1)")]);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_about_settings_has_every_line_of_the_example() {
        // As roff writes hyphens, apostrophes, and dots that begin a line.
        let page = settings_page().render().replace(r"\-", "-").replace(r"\*(Aq", "'").replace(r"\&", "");
        for line in include_str!("../../../netbpf.example.toml").lines().filter(|line| !line.is_empty()) {
            assert!(page.lines().any(|shown| shown == line), "{line}");
        }
    }
}
