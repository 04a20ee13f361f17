//! What can be refused by looking at a request alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netbpf_common::wire::Mac;

use super::files;
use crate::error::{Error, Result};
use crate::spec::PublishSpec;
use crate::store::ExtraHost;

/// Longest name: a file name in /run/netns and, as the hostname, a label of DNS.
const LONGEST_NAME: usize = 63;

/// Most of each that a container can have. Far more than is of use, and few enough that no request keeps the others waiting.
const MOST_ALIASES: usize = 256;
const MOST_RESOLVERS: usize = 32;
const MOST_DOMAINS: usize = 64;
const MOST_OPTIONS: usize = 64;
const MOST_HOSTS: usize = 4096;
const MOST_PUBLISHES: usize = 16_384;

/// Longest option of a resolver; resolv.conf(5) knows none of half this length.
const LONGEST_OPTION: usize = 64;

/// Refuses more than so many.
pub(super) fn few(what: &str, given: usize, most: usize) -> Result<()> {
    if given <= most {
        return Ok(());
    }
    Err(Error::Invalid(format!("{given} {what} are too many: give at most {most}")))
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}`: no `/`, no `..`, nothing that a shell or a path would take for more.
pub(super) fn name(what: &str, name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && name.len() <= LONGEST_NAME && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "bad {what} name '{}': use 1 to {LONGEST_NAME} letters, digits, '_', '.' and '-', the first a letter or digit",
        name.escape_debug()
    )))
}

/// As many bytes as the kernel has room for (uname(2)).
const LONGEST_HOSTNAME: usize = 64;

/// As many bytes as DNS has room for (RFC 1035 section 2.3.4, as text).
const LONGEST_DOMAIN: usize = 253;

/// Labels that the kernel takes for a hostname.
pub(super) fn hostname(name: &str) -> Result<()> {
    labels_of("hostname", name, LONGEST_HOSTNAME)
}

/// Labels that somebody can ask for.
pub(super) fn labels(what: &str, name: &str) -> Result<()> {
    labels_of(what, name, LONGEST_DOMAIN)
}

/// Labels of letters, digits and hyphens (RFC 1123), which DNS has room for.
fn labels_of(what: &str, name: &str, longest: usize) -> Result<()> {
    let label = |label: &str| {
        (1..=LONGEST_NAME).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() <= longest && name.split('.').all(label) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "bad {what} '{}': use labels of 1 to {LONGEST_NAME} letters, digits and '-' with '.' between them, at most \
         {longest} characters",
        name.escape_debug()
    )))
}

/// Other names in a network. DNS takes upper and lower case for the same (RFC 4343).
pub(super) fn aliases(aliases: &[String]) -> Result<()> {
    few("aliases", aliases.len(), MOST_ALIASES)?;
    let mut seen = BTreeSet::new();
    for alias in aliases {
        labels("alias", alias)?;
        if !seen.insert(alias.to_lowercase()) {
            return Err(Error::Invalid(format!("the alias {alias} is given twice: leave one of them out")));
        }
    }
    Ok(())
}

/// A MAC address that one machine can have.
pub(super) fn mac(text: &str) -> Result<Mac> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| {
            let is_hex = byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
            is_hex.then(|| u8::from_str_radix(byte, 16).ok()).flatten()
        })
        .collect();
    let Some(octets) = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) else {
        return Err(Error::Invalid(format!(
            "bad MAC address '{}': write six bytes in hex, as in 02:42:ac:1e:00:05",
            text.escape_debug()
        )));
    };
    if octets[0] & 1 != 0 || octets == [0; 6] {
        return Err(Error::Invalid(format!(
            "MAC address {text} is a group's or nobody's: the first byte must be even, as in 02:42:ac:1e:00:05"
        )));
    }
    Ok(Mac::new(octets))
}

/// The hosts that a container is to be told of.
pub(super) fn extra_hosts(texts: &[String]) -> Result<Vec<ExtraHost>> {
    few("hosts to be told of", texts.len(), MOST_HOSTS)?;
    let read = |text: &String| files::extra_host(text).map(|(name, address)| ExtraHost { name, address });
    texts.iter().map(read).collect()
}

/// What stands in resolv.conf: addresses of servers, domains, and words.
pub(crate) fn resolver(servers: &[IpAddr], search: &[String], options: &[String]) -> Result<()> {
    few("resolvers", servers.len(), MOST_RESOLVERS)?;
    few("search domains", search.len(), MOST_DOMAINS)?;
    few("options of the resolver", options.len(), MOST_OPTIONS)?;
    if let Some(server) = servers.iter().find(|server| server.is_unspecified() || server.is_multicast()) {
        return Err(Error::Invalid(format!("resolver {server} is no address of a machine: name one that answers DNS")));
    }
    for domain in search.iter().filter(|domain| *domain != ".") {
        labels("search domain", domain.strip_suffix('.').unwrap_or(domain))?;
    }
    let is_word = |option: &str| {
        let is_plain = |letter: char| !letter.is_whitespace() && !letter.is_control();
        (1..=LONGEST_OPTION).contains(&option.len()) && option.chars().all(is_plain)
    };
    match options.iter().find(|option| !is_word(option)) {
        Some(option) => Err(Error::Invalid(format!(
            "bad option '{}' of the resolver: write one word of at most {LONGEST_OPTION} letters, as in ndots:2",
            option.escape_debug()
        ))),
        None => Ok(()),
    }
}

/// The SPECs of `publish` and `publish_exposed`, in this order.
pub(super) fn specs(publish: &[String], exposed: &[String]) -> Result<Vec<PublishSpec>> {
    few("publishes", publish.len() + exposed.len(), MOST_PUBLISHES)?;
    let invalid = |error: crate::spec::SpecError| Error::Invalid(error.to_string());
    let publish = publish.iter().map(|text| text.parse::<PublishSpec>().map_err(invalid));
    publish.chain(exposed.iter().map(|text| PublishSpec::exposed(text).map_err(invalid))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_are_refused() {
        for good in ["web", "0", "a.b_c-d", &"x".repeat(63)] {
            name("container", good).unwrap();
        }
        for bad in ["", "..", ".a", "-a", "a/b", "a b", "a\n", "é", &"x".repeat(64)] {
            assert!(name("container", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hostnames_are_labels() {
        hostname("web-1.example").unwrap();
        let too_long = "x.".repeat(32) + "x";
        for bad in ["", "a..b", "-a", "a b", "a.", &"x".repeat(64), &too_long] {
            assert!(hostname(bad).is_err(), "{bad:?}");
        }
        labels("alias", &too_long).unwrap();
        assert!(labels("alias", &"x.".repeat(127)).is_err());
    }

    #[test]
    fn an_alias_is_given_once_however_it_is_written() {
        let given = |names: [&str; 2]| aliases(&names.map(str::to_owned));
        given(["www", "ftp"]).unwrap();
        assert!(given(["www", "WWW"]).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn more_than_is_of_use_is_refused_in_a_line_that_says_how_much_is_too_much() {
        let texts = |text: &str, count: usize| vec![text.to_owned(); count];
        let numbered = |count: usize| (0..count).map(|number| format!("www{number}")).collect::<Vec<_>>();
        let servers = |count: usize| vec![IpAddr::from([10, 0, 0, 53]); count];
        aliases(&numbered(MOST_ALIASES)).unwrap();
        extra_hosts(&texts("db:10.0.0.9", MOST_HOSTS)).unwrap();
        resolver(&servers(MOST_RESOLVERS), &texts("example", MOST_DOMAINS), &texts("rotate", MOST_OPTIONS)).unwrap();
        specs(&texts("80", MOST_PUBLISHES / 2), &texts("80", MOST_PUBLISHES / 2)).unwrap();
        for (refused, words) in [
            (aliases(&numbered(MOST_ALIASES + 1)), "257 aliases"),
            (extra_hosts(&texts("db:10.0.0.9", MOST_HOSTS + 1)).map(drop), "4097 hosts"),
            (resolver(&servers(MOST_RESOLVERS + 1), &[], &[]), "33 resolvers"),
            (resolver(&[], &texts("example", MOST_DOMAINS + 1), &[]), "65 search domains"),
            (resolver(&[], &[], &texts("rotate", MOST_OPTIONS + 1)), "65 options"),
            (resolver(&[], &[], &texts(&"x".repeat(65), 1)), "at most 64 letters"),
            (resolver(&[], &[], &texts("a\u{7f}", 1)), "\\u{7f}"),
            (specs(&texts("80", MOST_PUBLISHES), &texts("80", 1)).map(drop), "16385 publishes"),
        ] {
            let line = refused.unwrap_err().to_string();
            assert!(line.contains(words) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_group_address_is_nobodys_mac() {
        assert_eq!(mac("02:42:ac:1e:00:05").unwrap(), Mac::new([2, 0x42, 0xac, 0x1e, 0, 5]));
        for bad in [
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "02:42",
            "2:42:ac:1e:0:5",
            "+2:42:ac:1e:00:05",
        ] {
            assert!(mac(bad).is_err(), "{bad}");
        }
    }
}
