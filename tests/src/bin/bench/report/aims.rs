//! What netbpf is to reach, as ratios within one run. They are told, and nothing else rests on them.

use serde::Serialize;

use crate::peer::Name;
use crate::programs::Path;
use crate::results::{Results, Row, Spread, grouped};
use crate::run::{CREATE, LAST_CONNECTIONS, REMOVE};
use crate::site::Direction;
use crate::work::{CONNECTIONS, PACKETS};

/// What an aim compares.
struct Aim {
    work: String,
    ports: u32,
    peer: Name,
    bound: Bound,
}

/// What it is to be.
#[derive(Clone, Copy)]
enum Bound {
    /// At most so many times what another takes.
    AtMost(f64, Name),
    /// At least so many times what another does; of times, so many times shorter.
    AtLeast(f64, Name),
    /// Within a share of what it is with one port.
    Flat(f64),
    /// Less than this.
    Under(f64),
}

/// An aim, and whether it is met.
#[derive(Debug, Serialize)]
pub(crate) struct Judged {
    pub(crate) aim: String,
    /// What was measured, as the aim has it.
    pub(crate) measured: Option<Spread>,
    pub(crate) is_met: Option<bool>,
}

fn aims() -> Vec<Aim> {
    use Bound::{AtLeast, AtMost, Flat, Under};
    use Name::{BareTcx, BareXdp, Docker, Loopback, NetbpfTc, NetbpfXdp, Veth};
    let mut aims = Vec::new();
    let mut add = |work: &str, ports, peer, bounds: &[Bound]| {
        aims.extend(bounds.iter().map(|bound| Aim { work: work.into(), ports, peer, bound: *bound }));
    };
    let [neighbours, inward, outward] = Direction::ALL.map(Direction::words);
    let answers = |transport| format!("{transport} request/response, {neighbours}, p50");
    add(&answers("TCP"), 1, NetbpfTc, &[AtMost(1.05, Loopback), AtLeast(1.25, Docker)]);
    add(&answers("UDP"), 1, NetbpfTc, &[AtMost(1.05, BareTcx), AtLeast(1.25, Docker)]);
    let stream = format!("TCP stream, {neighbours}, one CPU");
    add(&stream, 1, NetbpfTc, &[AtLeast(0.95, Loopback), AtLeast(1.5, Docker)]);
    let connections = format!("{CONNECTIONS}, {inward}");
    add(&connections, 1, NetbpfTc, &[AtLeast(1.0, Veth), AtLeast(1.2, Docker)]);
    add(LAST_CONNECTIONS, 10_000, NetbpfTc, &[Flat(0.05)]);
    let packets = format!("{PACKETS}, {inward}");
    add(&packets, 1, NetbpfXdp, &[AtLeast(8.0, Docker), AtLeast(0.92, BareXdp)]);
    add(&packets, 1, NetbpfTc, &[AtLeast(3.5, Docker), AtLeast(0.88, BareTcx)]);
    let masquerade = format!("{CONNECTIONS}, {outward}");
    add(&masquerade, 1, NetbpfTc, &[AtLeast(1.2, Docker), AtLeast(1.0, Veth)]);
    add(&format!("{PACKETS}, {outward}"), 1, NetbpfTc, &[AtLeast(1.2, Docker)]);
    add("publish 10,000 ports as a range", 1, NetbpfTc, &[Under(10.0)]);
    add("publish 10,000 ports one by one", 1, NetbpfTc, &[Under(100.0)]);
    add("publish 10,000 ports one by one: memory", 1, NetbpfTc, &[Under(2048.0)]);
    add(CREATE, 1, NetbpfTc, &[Under(10.0)]);
    add(REMOVE, 1, NetbpfTc, &[Under(5.0)]);
    for path in Path::ALL {
        add(&path.work(), 1, path.peer(), &[Under(path.aim())]);
    }
    aims
}

/// All aims, those that this run says nothing of too.
pub(crate) fn judge(results: &Results) -> Vec<Judged> {
    aims().iter().map(|aim| judged(results, aim)).collect()
}

fn judged(results: &Results, aim: &Aim) -> Judged {
    let find = |peer, ports| {
        let is_it = |row: &&Row| {
            row.peer == peer && row.subject.work == aim.work && row.subject.ports == ports && row.subject.flows == 1
        };
        results.rows().iter().find(is_it)
    };
    let row = find(aim.peer, aim.ports);
    let against = |other, ports| Some((row?, find(other, ports)?));
    let what = match aim.ports {
        1 => format!("{}: {}", aim.peer, aim.work),
        ports => format!("{}: {}, {} ports", aim.peer, aim.work, grouped(ports)),
    };
    let (text, measured, is_met) = match aim.bound {
        Bound::AtMost(most, other) => {
            let ratio = against(other, aim.ports).and_then(|(row, other)| row.ratio(other));
            (format!("at most {most} × {other}"), ratio, ratio.map(|ratio| ratio.middle <= most))
        }
        Bound::AtLeast(least, other) => {
            let ratio = against(other, aim.ports).and_then(|(row, other)| super::times_better(row, other));
            (format!("at least {least} × {other}"), ratio, ratio.map(|ratio| ratio.middle >= least))
        }
        Bound::Flat(share) => {
            let ratio = against(aim.peer, 1).and_then(|(many, one)| many.ratio(one));
            let is_met = ratio.map(|ratio| (ratio.middle - 1.0).abs() <= share);
            (format!("within {:.0} % of one port", share * 100.0), ratio, is_met)
        }
        Bound::Under(most) => {
            let value = row.map(Row::spread);
            let unit = row.map_or("", |row| row.subject.unit.name());
            (format!("under {most} {unit}"), value, value.map(|value| value.middle < most))
        }
    };
    Judged { aim: format!("{what}: {}", text.trim_end()), measured, is_met }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Subject, Unit};

    fn results(own: f64, docker: f64) -> Results {
        let mut results = Results::default();
        let subject = || Subject::new("TCP request/response, container to container, p50", Unit::Micros);
        results.add(subject(), Name::NetbpfTc, own);
        results.add(subject(), Name::Docker, docker);
        results
    }

    fn of_docker(judged: Vec<Judged>) -> Judged {
        judged.into_iter().find(|it| it.aim.contains("TCP request") && it.aim.contains("docker")).expect("an aim")
    }

    #[test]
    fn an_aim_is_met_or_not_by_what_was_measured() {
        assert_eq!(of_docker(judge(&results(8.0, 10.0))).is_met, Some(true));
        assert_eq!(of_docker(judge(&results(9.0, 10.0))).is_met, Some(false));
    }

    #[test]
    fn an_aim_of_which_nothing_was_measured_is_neither() {
        assert!(judge(&Results::default()).iter().all(|it| it.measured.is_none() && it.is_met.is_none()));
    }
}
