//! What rules of nftables do to a packet, read from `nft -j list ruleset` as far as it can be read there (libnftables-json(5)).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

/// Chains that a packet may be sent on to, one from the other, as the kernel has it (NFT_JUMP_STACK_SIZE).
const DEPTH: usize = 16;

/// A packet that the rules are asked about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe<'a> {
    /// What it is for, in words.
    pub(super) what: &'a str,
    /// Where in the kernel, in this order.
    pub(super) hooks: &'a [&'a str],
    /// The device that it enters or leaves by.
    pub(super) device: &'a str,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: &'a str,
    pub(super) port: u16,
    /// Whether it is an answer.
    pub(super) is_reply: bool,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Passes,
    /// Dropped in this chain.
    Dropped(String),
    /// Dropped in this chain, unless rules before it that cannot be read let it pass.
    Unclear(String),
}

/// The rules of a network namespace.
#[derive(Debug, Default)]
pub(super) struct Ruleset<'a> {
    /// Chains with a hook: priority, and what is said of them.
    bases: Vec<(i64, &'a Value)>,
    /// Expressions of the rules of each chain, by family, table and name.
    rules: BTreeMap<[&'a str; 3], Vec<&'a Vec<Value>>>,
    /// Elements of named sets.
    sets: BTreeMap<[&'a str; 3], &'a Vec<Value>>,
}

/// How the walk through a chain ends.
enum End {
    Accept,
    Drop(String),
    /// By its end or a `return`.
    Through,
}

/// A walk of one packet.
struct Walk<'a> {
    ruleset: &'a Ruleset<'a>,
    probe: Probe<'a>,
    /// Whether a rule that could not be read might have let it pass.
    is_unclear: bool,
}

fn texts<'a, const N: usize>(of: &'a Value, names: [&str; N]) -> [&'a str; N] {
    names.map(|name| of[name].as_str().unwrap_or_default())
}

impl<'a> Ruleset<'a> {
    /// What `nft -j list ruleset` has printed.
    pub(super) fn read(listed: &'a Value) -> Self {
        let mut ruleset = Self::default();
        for object in listed["nftables"].as_array().into_iter().flatten() {
            if let Some(chain) = object.get("chain").filter(|chain| chain["hook"].is_string()) {
                ruleset.bases.push((chain["prio"].as_i64().unwrap_or(0), chain));
            } else if let Some((rule, expressions)) = object.get("rule").zip(object["rule"]["expr"].as_array()) {
                ruleset.rules.entry(texts(rule, ["family", "table", "chain"])).or_default().push(expressions);
            } else if let Some((set, elements)) =
                ["set", "map"].iter().find_map(|kind| object.get(*kind)?.get("elem")?.as_array().map(|it| (*kind, it)))
            {
                ruleset.sets.insert(texts(&object[set], ["family", "table", "name"]), elements);
            }
        }
        ruleset.bases.sort_by_key(|(priority, _)| *priority);
        ruleset
    }

    /// What becomes of a packet: every chain of its hooks has its say.
    pub(super) fn fate(&self, probe: Probe<'_>) -> Fate {
        for hook in probe.hooks {
            for (_, base) in self.bases.iter().filter(|(_, base)| base["hook"] == *hook) {
                let [family, table, name] = texts(base, ["family", "table", "name"]);
                let is_of_family = match family {
                    "ip" => probe.source.is_ipv4(),
                    "ip6" => probe.source.is_ipv6(),
                    "inet" => true,
                    _ => false,
                };
                if !is_of_family {
                    continue;
                }
                let mut walk = Walk { ruleset: self, probe, is_unclear: false };
                let end = match walk.chain([family, table, name], DEPTH) {
                    End::Through if base["policy"] == "drop" => {
                        End::Drop(format!("{family} {table} {name} (policy drop)"))
                    }
                    end => end,
                };
                match end {
                    End::Drop(place) if walk.is_unclear => return Fate::Unclear(place),
                    End::Drop(place) => return Fate::Dropped(place),
                    End::Accept | End::Through => {}
                }
            }
        }
        Fate::Passes
    }
}

impl Walk<'_> {
    fn chain(&mut self, chain: [&str; 3], depth: usize) -> End {
        let ruleset = self.ruleset;
        for rule in ruleset.rules.get(&chain).into_iter().flatten() {
            match self.rule(chain, rule, depth) {
                Some(End::Through) => return End::Through,
                Some(end) => return end,
                None => {}
            }
        }
        End::Through
    }

    /// How the walk ends at a rule; none when it goes on behind it.
    fn rule(&mut self, chain @ [family, table, name]: [&str; 3], rule: &[Value], depth: usize) -> Option<End> {
        let mut is_read = true;
        for expression in rule {
            let (kind, body) = expression.as_object()?.iter().next()?;
            let end = match &**kind {
                "match" => match self.matches(chain, body) {
                    Some(true) => continue,
                    Some(false) => return None,
                    None => {
                        is_read = false;
                        continue;
                    }
                },
                "accept" => End::Accept,
                "drop" | "reject" => End::Drop(format!("{family} {table} {name}")),
                "return" => End::Through,
                "jump" | "goto" => {
                    let target = body["target"].as_str().filter(|_| depth > 0)?;
                    let unclear_before = self.is_unclear;
                    let end = self.chain([family, table, target], depth - 1);
                    match end {
                        // Only if it goes there, which nobody knows.
                        _ if !is_read => {
                            self.is_unclear = true;
                            return None;
                        }
                        End::Through if kind == "jump" => {
                            self.is_unclear |= unclear_before;
                            continue;
                        }
                        end => return Some(end),
                    }
                }
                "vmap" => match self.verdict(chain, body) {
                    Some(Some(verdict)) => return self.rule(chain, std::slice::from_ref(verdict), depth),
                    Some(None) => continue,
                    None => {
                        self.is_unclear = true;
                        return None;
                    }
                },
                "counter" | "log" | "comment" | "mangle" | "continue" | "notrack" => continue,
                // A limit, a match of iptables, or what is newer than this: it may be so or not.
                _ => {
                    is_read = false;
                    continue;
                }
            };
            if is_read {
                return Some(end);
            }
            // A drop that may not be one is none; whatever may let it pass makes the rest unclear.
            self.is_unclear |= !matches!(end, End::Drop(_));
            return None;
        }
        // A target of iptables that ends the walk looks like anything else.
        self.is_unclear |= !is_read && rule.iter().any(|expression| expression.get("xt").is_some());
        None
    }

    /// Whether the packet is what is asked for; none when that cannot be told.
    fn matches(&self, chain: [&str; 3], body: &Value) -> Option<bool> {
        let found = self.field(&body["left"])?;
        let is_in = found.iter().any(|found| self.contains(chain, &body["right"], found) == Some(true));
        let is_known = found.iter().all(|found| self.contains(chain, &body["right"], found).is_some());
        match body["op"].as_str()? {
            _ if !is_known => None,
            "==" | "in" => Some(is_in),
            "!=" => Some(!is_in),
            _ => None,
        }
    }

    /// What a map of verdicts says of it; `Some(None)` where it has nothing to say.
    fn verdict<'v>(&self, chain: [&str; 3], body: &'v Value) -> Option<Option<&'v Value>> {
        let found = self.field(&body["key"])?;
        let entries = body["data"]["set"].as_array()?;
        let fits = |entry: &&Value| found.iter().any(|found| self.contains(chain, &entry[0], found) == Some(true));
        Some(entries.iter().find(fits).map(|entry| &entry[1]))
    }

    /// What a field of the packet is: none when that is not known, and nothing when it has no such field.
    fn field(&self, left: &Value) -> Option<Vec<String>> {
        let Probe { device, source, destination, protocol, port, is_reply, .. } = self.probe;
        let is_input = self.probe.hooks.contains(&"input");
        let of_family = |family: &str, address: IpAddr| match (family, address) {
            ("ip", IpAddr::V4(_)) | ("ip6", IpAddr::V6(_)) => vec![address.to_string()],
            _ => Vec::new(),
        };
        if let Some(key) = left["meta"]["key"].as_str() {
            return match key {
                "iif" | "iifname" if is_input => Some(vec![device.into()]),
                "oif" | "oifname" if !is_input => Some(vec![device.into()]),
                "iif" | "iifname" | "oif" | "oifname" => Some(Vec::new()),
                "l4proto" => Some(vec![protocol.into()]),
                "nfproto" => Some(vec![if source.is_ipv4() { "ipv4" } else { "ipv6" }.into()]),
                "protocol" => Some(vec![if source.is_ipv4() { "ip" } else { "ip6" }.into()]),
                "pkttype" => Some(vec!["host".into(), "unicast".into()]),
                _ => None,
            };
        }
        if left["ct"]["key"] == "state" {
            return Some(vec![if is_reply { "established" } else { "new" }.into()]);
        }
        let [of, field] = texts(&left["payload"], ["protocol", "field"]);
        match (of, field) {
            ("ip" | "ip6", "saddr") => Some(of_family(of, source)),
            ("ip" | "ip6", "daddr") => Some(of_family(of, destination)),
            ("ip", "protocol") | ("ip6", "nexthdr") => Some(vec![protocol.into()]),
            // The port that it is about is at the end which answers.
            ("th" | "udp" | "tcp", "dport") if of == "th" || of == protocol => {
                if is_reply {
                    None
                } else {
                    Some(vec![port.to_string()])
                }
            }
            ("th" | "udp" | "tcp", "sport") if of == "th" || of == protocol => {
                if is_reply {
                    Some(vec![port.to_string()])
                } else {
                    None
                }
            }
            ("udp" | "tcp" | "sctp" | "icmp" | "icmpv6", _) if of != protocol => Some(Vec::new()),
            _ => None,
        }
    }

    fn contains(&self, chain @ [family, table, _]: [&str; 3], right: &Value, found: &str) -> Option<bool> {
        let any = |elements: &Vec<Value>| {
            let each: Vec<Option<bool>> = elements.iter().map(|it| self.contains(chain, it, found)).collect();
            if each.contains(&Some(true)) { Some(true) } else { each.iter().all(Option::is_some).then_some(false) }
        };
        if let Some(prefix) = right.get("prefix") {
            let net = format!("{}/{}", prefix["addr"].as_str()?, prefix["len"]);
            return Some(net.parse::<IpNet>().ok()?.contains(&found.parse::<IpAddr>().ok()?));
        }
        if let Some(ends) = right["range"].as_array() {
            let [first, last] = [ends.first()?, ends.get(1)?];
            return match (first.as_u64(), last.as_u64()) {
                (Some(first), Some(last)) => Some((first..=last).contains(&found.parse::<u64>().ok()?)),
                _ => {
                    let address = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
                    Some((address(first)?..=address(last)?).contains(&found.parse::<IpAddr>().ok()?))
                }
            };
        }
        if let Some(element) = right.get("elem") {
            return self.contains(chain, &element["val"], found);
        }
        match right {
            Value::Array(elements) => any(elements),
            Value::Object(_) => any(right["set"].as_array()?),
            Value::Number(number) => Some(number.to_string() == found),
            Value::String(name) => match (name.strip_prefix('@'), name.strip_suffix('*')) {
                (Some(set), _) => any(self.ruleset.sets.get(&[family, table, set])?),
                (_, Some(beginning)) => Some(found.starts_with(beginning)),
                _ => Some(name == found),
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::json;

    use super::*;

    fn question() -> Probe<'static> {
        Probe {
            what: "DNS",
            hooks: &["prerouting", "input"],
            device: "netbpf0",
            source: Ipv4Addr::new(172, 30, 0, 2).into(),
            destination: Ipv4Addr::new(172, 30, 0, 1).into(),
            protocol: "udp",
            port: 32_767,
            is_reply: false,
        }
    }

    /// The fate of a question in one chain of these rules.
    fn fate_of(probe: Probe<'_>, hook: &str, policy: &str, rules: &[Value]) -> Fate {
        let mut all = vec![
            json!({"chain": {"family": "inet", "table": "f", "name": "c", "hook": hook, "prio": 0, "policy": policy}}),
            json!({"set": {"family": "inet", "table": "f", "name": "ours", "elem": ["lo", "netbpf0"]}}),
            json!({"rule": {"family": "inet", "table": "f", "chain": "sub", "expr": [{"return": null}]}}),
            json!({"rule": {"family": "inet", "table": "f", "chain": "lost", "expr": [{"drop": null}]}}),
        ];
        let rule = |expr: &Value| json!({"rule": {"family": "inet", "table": "f", "chain": "c", "expr": expr}});
        all.extend(rules.iter().map(rule));
        let listed = json!({ "nftables": all });
        Ruleset::read(&listed).fate(probe)
    }

    fn is(left: Value, op: &str, right: Value) -> Value {
        json!({"match": {"op": op, "left": left, "right": right}})
    }

    #[test]
    fn a_drop_counts_where_everything_before_it_fits() {
        let (iif, daddr) =
            (json!({"meta": {"key": "iifname"}}), json!({"payload": {"protocol": "ip", "field": "daddr"}}));
        let dropped = Fate::Dropped("inet f c".into());
        for (fits, matches) in [
            (true, vec![]),
            (true, vec![is(daddr.clone(), "==", json!("172.30.0.1")), is(iif.clone(), "!=", json!("docker0"))]),
            (false, vec![is(daddr.clone(), "==", json!("172.17.0.2")), is(iif.clone(), "!=", json!("docker0"))]),
            (true, vec![is(daddr.clone(), "==", json!({"prefix": {"addr": "172.16.0.0", "len": 12}}))]),
            (false, vec![is(daddr.clone(), "==", json!({"range": ["10.0.0.0", "10.0.0.9"]}))]),
            (true, vec![is(iif.clone(), "==", json!("@ours"))]),
            (true, vec![is(iif, "==", json!("netb*"))]),
            (true, vec![is(json!({"ct": {"key": "state"}}), "!=", json!("established"))]),
            (false, vec![is(json!({"payload": {"protocol": "tcp", "field": "dport"}}), "==", json!(80))]),
            (
                true,
                vec![is(
                    json!({"payload": {"protocol": "udp", "field": "dport"}}),
                    "==",
                    json!({"set": [1, {"range": [2, 65_535]}]}),
                )],
            ),
        ] {
            let rule = Value::Array([matches, vec![json!({"counter": {}}), json!({"drop": null})]].concat());
            let expected = if fits { dropped.clone() } else { Fate::Passes };
            assert_eq!(fate_of(question(), "prerouting", "accept", std::slice::from_ref(&rule)), expected, "{rule}");
        }
    }

    #[test]
    fn a_policy_holds_for_what_no_rule_lets_pass() {
        let by_policy = Fate::Dropped("inet f c (policy drop)".into());
        let accept = json!([is(json!({"meta": {"key": "iifname"}}), "==", json!("netbpf0")), {"accept": null}]);
        let answers =
            json!([is(json!({"ct": {"key": "state"}}), "in", json!(["established", "related"])), {"accept": null}]);
        assert_eq!(fate_of(question(), "input", "drop", &[]), by_policy);
        assert_eq!(fate_of(question(), "output", "drop", &[]), Fate::Passes, "it does not come there");
        assert_eq!(fate_of(question(), "input", "drop", &[accept]), Fate::Passes);
        assert_eq!(fate_of(question(), "input", "drop", std::slice::from_ref(&answers)), by_policy);
        let reply = Probe { is_reply: true, ..question() };
        assert_eq!(fate_of(reply, "input", "drop", &[answers]), Fate::Passes);
    }

    #[test]
    fn chains_are_followed_and_come_back() {
        let by_policy = Fate::Dropped("inet f c (policy drop)".into());
        let jump = |to: &str| json!([{"jump": {"target": to}}]);
        assert_eq!(fate_of(question(), "input", "accept", &[jump("sub")]), Fate::Passes);
        assert_eq!(fate_of(question(), "input", "accept", &[jump("lost")]), Fate::Dropped("inet f lost".into()));
        assert_eq!(fate_of(question(), "input", "drop", &[jump("sub")]), by_policy);
        let vmap = |verdict: Value| json!([{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["new", verdict], ["invalid", {"drop": null}]]}}}]);
        assert_eq!(fate_of(question(), "input", "drop", &[vmap(json!({"accept": null}))]), Fate::Passes);
        assert_eq!(fate_of(question(), "input", "drop", &[vmap(json!({"continue": null}))]), by_policy);
        let endless =
            json!({"rule": {"family": "inet", "table": "f", "chain": "c", "expr": [{"jump": {"target": "c"}}]}});
        assert_eq!(fate_of(question(), "input", "accept", &[endless["rule"]["expr"].clone()]), Fate::Passes);
    }

    #[test]
    fn what_cannot_be_read_is_never_taken_for_a_drop() {
        let foreign = json!({"xt": {"type": "match", "name": "conntrack"}});
        let unclear = Fate::Unclear("inet f c (policy drop)".into());
        assert_eq!(fate_of(question(), "input", "accept", &[json!([foreign, {"drop": null}])]), Fate::Passes);
        assert_eq!(fate_of(question(), "input", "drop", &[json!([foreign, {"accept": null}])]), unclear);
        assert_eq!(fate_of(question(), "input", "drop", &[json!([foreign])]), unclear);
        assert_eq!(fate_of(question(), "input", "drop", &[json!([foreign, {"jump": {"target": "sub"}}])]), unclear);
    }
}
