//! The file of the settings. What is wrong with it is told in one line, with file, line and setting.

use std::fmt::Display;
use std::fs;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use toml::Deserializer;
use toml::de::{DeTable, DeValue};

use super::Settings;
use super::check::Nonsense;
use crate::error::{Context as _, Error, Result};

/// Every setting with its default, or with an example where the default is none: what a wrong value is compared with.
const EXAMPLE: &str = include_str!("../../../netbpf.example.toml");

/// Words of Docker's daemon.json that look like others of ours.
const OTHER_WORDS: [(&str, &str); 3] = [("bip6", "subnet_v6"), ("data_root", "state_dir"), ("exec_root", "run_dir")];

/// How alike two words are that one may have been meant by the other (Jaro and Winkler; 1 is equal).
const ALIKE: f64 = 0.85;

/// Longest piece of the file that is repeated in a message, in characters.
const LONGEST_QUOTE: usize = 60;

/// Reads a file over the defaults.
pub(super) fn read(path: &Path) -> Result<Settings> {
    let what = || format!("read the settings in {}", path.display());
    let mut file = fs::File::open(path).context(what)?;
    // Of the file that is open: the path may be a link, and another file by now.
    crate::trust::own(path, &file.metadata().context(what)?)?;
    let mut text = String::new();
    file.read_to_string(&mut text).context(what)?;
    File { path, text: &text }.settings()
}

/// A file that is being read.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn settings(&self) -> Result<Settings> {
        let no_toml = |error: toml::de::Error| self.wrong(error.span(), format_args!("no TOML: {}", error.message()));
        let table = DeTable::parse(self.text).map_err(no_toml)?;
        self.check_names(table.get_ref())?;
        let deserializer = Deserializer::parse(self.text).map_err(no_toml)?;
        let settings: Settings = serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let name = error.path().to_string();
            self.bad_value(&name, error.inner())
        })?;
        settings.make_sense().map_err(|Nonsense { settings, error }| {
            let place = settings.iter().find_map(|name| place_of(table.get_ref(), name));
            match error {
                Error::Unsupported(line) => Error::Unsupported(self.line(place, line)),
                error => self.wrong(place, error),
            }
        })?;
        Ok(settings)
    }

    /// Refuses names that no setting has.
    fn check_names(&self, table: &DeTable<'_>) -> Result<()> {
        self.check_names_of(table, "setting", &names_of(&Settings::default()))?;
        let named = |name: &str| table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value.get_ref());
        if let Some(timeouts) = named("timeouts").and_then(DeValue::as_table) {
            self.check_names_of(timeouts, "timeout", &Settings::TIMEOUT_NAMES)?;
        }
        let pools = named("default_address_pools").and_then(DeValue::as_array);
        let fields = names_of(&Settings::default().default_address_pools[0]);
        let pools = pools.into_iter().flat_map(|pools| pools.iter());
        pools
            .filter_map(|pool| pool.get_ref().as_table())
            .try_for_each(|pool| self.check_names_of(pool, "word of an address pool", &fields))
    }

    fn check_names_of(&self, table: &DeTable<'_>, what: &str, known: &[impl AsRef<str>]) -> Result<()> {
        let is_known = |name: &str| known.iter().any(|known| known.as_ref() == name);
        let Some(key) = table.keys().find(|key| !is_known(key.get_ref())) else { return Ok(()) };
        let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
        let advice = match meant(key.get_ref(), &known) {
            Some(meant) => format!("did you mean '{meant}'?"),
            None => "netbpf.example.toml has all that there are".into(),
        };
        Err(self.wrong(Some(key.span()), format_args!("unknown {what} '{}': {advice}", key.get_ref().escape_debug())))
    }

    /// A value that cannot be one of this setting, with one that can.
    fn bad_value(&self, name: &str, error: &toml::de::Error) -> Error {
        let place = error.span();
        let given = place.clone().and_then(|place| self.text.get(place)).unwrap_or_default();
        let quote: String = given.lines().next().unwrap_or_default().chars().take(LONGEST_QUOTE).collect();
        let example = example_of(name).map(|example| format!("; write it as in {example}")).unwrap_or_default();
        self.wrong(place, format_args!("{name} cannot be {quote}: {}{example}", error.message()))
    }

    fn wrong(&self, place: Option<Range<usize>>, what: impl Display) -> Error {
        Error::Invalid(self.line(place, what))
    }

    fn line(&self, place: Option<Range<usize>>, what: impl Display) -> String {
        let before = place.and_then(|place| self.text.get(..place.start));
        let number = before.map(|before| format!(":{}", before.matches('\n').count() + 1)).unwrap_or_default();
        format!("{}{number}: {what}", self.path.display()).replace('\n', " ")
    }
}

/// Where a setting stands.
fn place_of(table: &DeTable<'_>, name: &str) -> Option<Range<usize>> {
    table.keys().find(|key| key.get_ref() == name).map(|key| key.span())
}

/// The names of the fields of a struct.
fn names_of(all: &impl serde::Serialize) -> Vec<String> {
    let value = serde_json::to_value(all).unwrap_or_default();
    value.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
}

/// The name that is likely to have been meant by another.
fn meant<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    // Docker's daemon.json has hyphens.
    let given = given.replace('-', "_").to_lowercase();
    let given = OTHER_WORDS.iter().find(|(theirs, _)| *theirs == given).map_or(&*given, |(_, ours)| ours);
    let ending = format!("_{given}");
    let exact = known.iter().find(|name| **name == given);
    let longer = known.iter().find(|name| name.ends_with(&ending));
    let likeness = |name: &str| strsim::jaro_winkler(given, name);
    let alike = known.iter().map(|name| (likeness(name), name)).filter(|(likeness, _)| *likeness >= ALIKE);
    let most = alike.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, name)| name);
    exact.or(longer).or(most).copied()
}

/// How the example says a setting: `timeouts.icmp` or `default_address_pools[0].size` by the line that holds it.
fn example_of(path: &str) -> Option<&'static str> {
    let names: Vec<&str> = path.split(['.', '[']).collect();
    let name = match names[..] {
        ["timeouts", name, ..] => name,
        [name, ..] => name,
        [] => return None,
    };
    let said = |line: &'static str| {
        let line = line.trim_start_matches('#');
        line.strip_prefix(name)?.trim_start().starts_with('=').then_some(line)
    };
    EXAMPLE.lines().find_map(said)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use netbpf_common::abi::Timeout;

    use super::*;
    use crate::config::PortRange;

    fn settings(text: &str) -> std::result::Result<Settings, String> {
        let file = File { path: Path::new("/etc/netbpf.toml"), text };
        file.settings().map_err(|error| error.to_string())
    }

    /// The example with what is commented out put in force: `#name = value`, where words have a space before them.
    fn all() -> String {
        let line = |line: &str| match line.strip_prefix('#') {
            Some(setting) if setting.starts_with(|first: char| first.is_ascii_alphabetic()) => setting.to_owned(),
            _ => line.to_owned(),
        };
        EXAMPLE.lines().map(|text| line(text) + "\n").collect()
    }

    fn names(text: &str) -> BTreeSet<String> {
        toml::from_str::<toml::Table>(text).unwrap().keys().cloned().collect()
    }

    #[test]
    fn the_example_is_what_holds_without_a_file() {
        let mut said = settings(EXAMPLE).unwrap();
        let timeouts: BTreeSet<String> = std::mem::take(&mut said.timeouts).into_keys().collect();
        assert_eq!(said, Settings::default());
        assert_eq!(timeouts, Settings::TIMEOUT_NAMES.map(str::to_owned).into());
        assert_eq!(settings(EXAMPLE).unwrap().timeout_seconds(), Timeout::DEFAULT_SECONDS);
    }

    #[test]
    fn every_setting_stands_in_the_example_and_only_those_without_a_default_are_commented_out() {
        let every: BTreeSet<String> = names_of(&Settings::default()).into_iter().collect();
        assert_eq!(names(&all()), every);
        let defaults = toml::Table::try_from(Settings::default()).unwrap();
        let with_default: BTreeSet<String> = defaults.keys().cloned().collect();
        assert_eq!(names(EXAMPLE), with_default);
    }

    #[test]
    fn every_value_of_the_example_can_be_set() {
        // What cannot stand together: Docker's word for two settings, and the family that is off by default.
        let together = all().replace("\nbip = ", "\n# ").replace("\nipv6 = false", "\nipv6 = true");
        let together = together.replace("\nmode_v6 = \"masquerade\"", "\nmode_v6 = \"prefix\"");
        settings(&together).unwrap();
        let bip = all().lines().find(|line| line.starts_with("bip = ")).unwrap().to_owned();
        settings(&bip).unwrap();
    }

    #[test]
    fn every_setting_of_the_example_says_what_it_is() {
        let mut is_said = false;
        for line in EXAMPLE.lines() {
            let is_setting = line.trim_start_matches('#').starts_with(|first: char| first.is_ascii_alphabetic());
            assert!(!is_setting || is_said || line.contains("  # "), "{line}");
            is_said = line.starts_with("# ") || is_setting && is_said && line.contains(" = ");
        }
    }

    #[test]
    fn a_file_overrides_single_settings() {
        let settings = settings("nat_ports = \"20000-30000\"\n[timeouts]\nicmp = 5\n").unwrap();
        assert_eq!(settings.nat_ports, PortRange { first: 20000, last: 30000 });
        assert_eq!(settings.timeout_seconds()[Timeout::Icmp as usize], 5);
    }

    #[test]
    fn an_unknown_name_is_told_with_the_one_that_was_meant() {
        for (text, line, meant) in [
            ("sbnet = \"10.0.0.0/24\"", 1, "setting 'sbnet': did you mean 'subnet'?"),
            ("\n\nuplink = [\"eth0\"]", 3, "setting 'uplink': did you mean 'uplinks'?"),
            ("fixed-cidr = \"10.0.0.0/24\"", 1, "'fixed-cidr': did you mean 'fixed_cidr'?"),
            ("default-address-pools = []", 1, "did you mean 'default_address_pools'?"),
            ("address_pools = []", 1, "did you mean 'default_address_pools'?"),
            ("gateway = \"10.0.0.1\"", 1, "did you mean 'default_gateway'?"),
            ("gateway_v6 = \"fd00::1\"", 1, "did you mean 'default_gateway_v6'?"),
            ("dns-opts = []", 1, "did you mean 'dns_options'?"),
            ("bip6 = \"fd00::1/64\"", 1, "did you mean 'subnet_v6'?"),
            ("data-root = \"/x\"", 1, "did you mean 'state_dir'?"),
            ("MTU = 1400", 1, "did you mean 'mtu'?"),
            ("zzz = 1", 1, "setting 'zzz': netbpf.example.toml"),
            ("mtu = 1400\n[timeouts]\nudp_repleid = 1", 3, "timeout 'udp_repleid': did you mean 'udp_replied'?"),
            ("[[default_address_pools]]\nbase = \"10.0.0.0/8\"\nsise = 24", 3, "did you mean 'size'?"),
        ] {
            let refused = settings(text).unwrap_err();
            assert!(refused.starts_with(&format!("/etc/netbpf.toml:{line}: unknown ")), "{refused}");
            assert!(refused.contains(meant) && !refused.contains('\n'), "{refused}");
        }
    }

    #[test]
    fn a_wrong_value_is_told_with_its_place_and_a_right_one() {
        for (text, line, words) in [
            ("mtu = \"big\"", 1, ["mtu cannot be \"big\"", "write it as in mtu = 65535"]),
            ("\nmtu = -1", 2, ["mtu cannot be -1", "mtu = 65535"]),
            ("subnet = \"10.0.0.0/99\"", 1, ["subnet cannot be \"10.0.0.0/99\"", "subnet = \"172.30.0.0/16\""]),
            ("subnet = \"fd00::/64\"", 1, ["subnet cannot be", "subnet = \"172.30.0.0/16\""]),
            ("nat_ports = \"9-1\"", 1, ["\"9-1\"", "16384-32767"]),
            ("mode = \"nat\"", 1, ["mode cannot be \"nat\"", "masquerade"]),
            ("ipv6 = 1", 1, ["ipv6 cannot be 1", "ipv6 = false"]),
            ("dns = [\"10.0.0.1\", \"x\"]", 1, ["dns[1] cannot be \"x\"", "dns = ["]),
            ("[timeouts]\nicmp = \"long\"", 2, ["timeouts.icmp cannot be \"long\"", "icmp = 30"]),
            (
                "default_address_pools = [{ base = \"10.0.0.0/8\", size = 999 }]",
                1,
                ["[0].size cannot be 999", "size = 24"],
            ),
            ("default_address_pools = [{ base = \"10.0.0.0/8\" }]", 1, ["missing field `size`", "size = 24"]),
            ("mtu = 1400\nmtu = 1500", 2, ["no TOML", "duplicate key"]),
            ("this is not TOML", 1, ["no TOML", ""]),
            ("\n\nhalf_open = 1000", 3, ["half_open", "power of two"]),
            ("ipv6 = true\ndefault_gateway_v6 = \"fd00::1\"", 2, ["default_gateway_v6", "subnet_v6"]),
            ("mtu = 1400\nsubnet = \"172.30.0.5/16\"", 2, ["host bits", "172.30.0.0/16"]),
            ("bip = \"10.0.0.1/24\"\nsubnet = \"10.0.0.0/24\"", 1, ["bip", "leave one"]),
            ("device = \"tun\"", 1, ["device cannot be \"tun\"", "netkit"]),
            ("xdp = \"fast\"", 1, ["xdp cannot be \"fast\"", "native"]),
        ] {
            let refused = settings(text).unwrap_err();
            assert!(refused.starts_with(&format!("/etc/netbpf.toml:{line}: ")), "{refused}");
            assert!(words.iter().all(|word| refused.contains(word)) && !refused.contains('\n'), "{refused}");
        }
    }
}
