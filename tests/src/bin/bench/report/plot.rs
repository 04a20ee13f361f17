//! Plots: bars with the spread of their rounds, and curves over numbers of ports and flows.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::peer::Name;
use crate::plan::Plan;
use crate::results::{Results, Row, grouped};
use crate::run::{FLOW_CONNECTIONS, FLOW_PACKETS, LAST_CONNECTIONS, LAST_PACKETS};
use crate::site::Direction;
use crate::work::{CONNECTIONS, PACKETS};

/// A drawn plot.
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) file: String,
}

const SIZE: (u32, u32) = (900, 340);
/// Room at the right for who has which colour.
const LEGEND: u32 = 130;
const FONT: &str = "sans-serif";

/// Everybody has a colour of his own.
fn colour(peer: Name) -> RGBColor {
    match peer {
        Name::Loopback => RGBColor(150, 150, 150),
        Name::Veth => RGBColor(90, 90, 90),
        Name::Docker => RGBColor(33, 102, 172),
        Name::Nftables => RGBColor(103, 169, 207),
        Name::BareTcx => RGBColor(222, 184, 100),
        Name::BareXdp => RGBColor(180, 130, 40),
        Name::NetbpfTc => RGBColor(200, 55, 45),
        Name::NetbpfXdp => RGBColor(130, 20, 60),
    }
}

/// Draws all there is something for.
pub(super) fn draw(directory: &Path, results: &Results, plan: &Plan) -> Result<Vec<Plot>> {
    let [neighbours, inward, outward] = Direction::ALL.map(Direction::words);
    let answers = ["TCP", "UDP"].map(|transport| format!("{transport} request/response, {neighbours}, p50"));
    let streams = ["one CPU", "two CPUs"].map(|cpus| format!("TCP stream, {neighbours}, {cpus}"));
    let directions = [neighbours, inward, outward];
    let connections = directions.map(|direction| format!("{CONNECTIONS}, {direction}"));
    let packets = directions.map(|direction| format!("{PACKETS}, {direction}"));
    let mut plots = Vec::new();
    for (file, title, works) in [
        ("latency.svg", "Request and answer, container to container, µs (less is better)", &answers[..]),
        ("stream.svg", "TCP stream, container to container, Gbit/s", &streams[..]),
        ("connections.svg", "Connect + request + close per second", &connections[..]),
        ("packets.svg", "60-byte packets, Mpps at the receiver", &packets[..]),
    ] {
        let groups: Vec<Vec<&Row>> =
            works.iter().map(|work| rows(results, plan, work, |row| row.subject.ports == 1)).collect();
        if groups.iter().any(|group| !group.is_empty()) {
            bars(&directory.join(file), title, works, &groups).map_err(|error| anyhow!("{file}: {error}"))?;
            plots.push(Plot { title: title.into(), file: file.into() });
        }
    }
    for (file, title, work, over) in [
        (
            "ports-connections.svg",
            "Connections per second to the last of many published ports",
            LAST_CONNECTIONS,
            Over::Ports,
        ),
        ("ports-packets.svg", "Mpps to the last of many published ports", LAST_PACKETS, Over::Ports),
        ("flows-packets.svg", "Mpps of many flows in turn", FLOW_PACKETS, Over::Flows),
        ("flows-connections.svg", "Connections per second beside many flows", FLOW_CONNECTIONS, Over::Flows),
    ] {
        let rows = rows(results, plan, work, |_| true);
        if !rows.is_empty() {
            curves(&directory.join(file), title, over, &rows).map_err(|error| anyhow!("{file}: {error}"))?;
            plots.push(Plot { title: title.into(), file: file.into() });
        }
    }
    Ok(plots)
}

/// Rows of some work, in the order of the peers.
fn rows<'run>(results: &'run Results, plan: &Plan, work: &str, wanted: impl Fn(&Row) -> bool) -> Vec<&'run Row> {
    let of = |peer: &Name| {
        let peer = *peer;
        results.rows().iter().filter(move |row| row.peer == peer)
    };
    plan.peers.iter().flat_map(of).filter(|row| row.subject.work == work && wanted(row)).collect()
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn bars(path: &Path, title: &str, works: &[String], groups: &[Vec<&Row>]) -> Drawn {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let most = groups.iter().flatten().map(|row| row.ends().1).fold(0.0, f64::max);
    let widest = groups.iter().map(Vec::len).max().unwrap_or(1) as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, (FONT, 18))
        .margin(10)
        .margin_right(LEGEND)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..groups.len() as f64 * (widest + 1.5), 0.0..most * 1.15)?;
    chart.configure_mesh().disable_x_mesh().disable_x_axis().light_line_style(WHITE).draw()?;
    for (group, rows) in groups.iter().enumerate() {
        let start = group as f64 * (widest + 1.5) + 0.75;
        for (place, row) in rows.iter().enumerate() {
            let left = start + place as f64;
            let (least, most) = row.ends();
            let bar = Rectangle::new([(left + 0.1, 0.0), (left + 0.9, row.spread().middle)], colour(row.peer).filled());
            chart.draw_series([bar])?;
            chart.draw_series([PathElement::new(
                vec![(left + 0.5, least), (left + 0.5, most)],
                BLACK.stroke_width(2),
            )])?;
        }
        let label = works[group].split(", ").filter(|part| !title.contains(part) && *part != "p50");
        let label = label.collect::<Vec<_>>().join(", ");
        let label =
            label.trim_start_matches(CONNECTIONS).trim_start_matches(PACKETS).trim_start_matches(", ").to_owned();
        let (x, y) = chart.backend_coord(&(start, 0.0));
        area.draw(&Text::new(label, (x, y + 8), (FONT, 14)))?;
    }
    let mut peers: Vec<Name> = Vec::new();
    peers.extend(Name::all().filter(|peer| groups.iter().flatten().any(|row| row.peer == *peer)));
    legend(&area, &peers)
}

/// What a curve goes over.
#[derive(Clone, Copy)]
enum Over {
    Ports,
    Flows,
}

fn curves(path: &Path, title: &str, over: Over, rows: &[&Row]) -> Drawn {
    let at = |row: &Row| f64::from(if matches!(over, Over::Ports) { row.subject.ports } else { row.subject.flows });
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let last = rows.iter().map(|row| at(row)).fold(10.0, f64::max);
    let least = rows.iter().map(|row| row.ends().0).filter(|least| *least > 0.0).fold(f64::INFINITY, f64::min);
    let most = rows.iter().map(|row| row.ends().1).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, (FONT, 18))
        .margin(10)
        .margin_right(LEGEND)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((0.8..last * 1.3).log_scale(), (least * 0.7..most * 1.6).log_scale())?;
    let name = if matches!(over, Over::Ports) { "published ports" } else { "flows" };
    chart.configure_mesh().x_desc(name).x_label_formatter(&|x| grouped(*x as u32)).light_line_style(WHITE).draw()?;
    let mut peers: Vec<Name> = Vec::new();
    for row in rows {
        if !peers.contains(&row.peer) {
            peers.push(row.peer);
        }
    }
    for peer in &peers {
        let mut own: Vec<&&Row> = rows.iter().filter(|row| row.peer == *peer).collect();
        own.sort_by(|a, b| at(a).total_cmp(&at(b)));
        let points = own.iter().map(|row| (at(row), row.spread().middle.max(least)));
        chart.draw_series(LineSeries::new(points.clone(), colour(*peer).stroke_width(2)))?;
        chart.draw_series(points.map(|point| Circle::new(point, 3, colour(*peer).filled())))?;
        chart.draw_series(own.iter().map(|row| {
            let (low, high) = row.ends();
            PathElement::new(vec![(at(row), low.max(least)), (at(row), high)], colour(*peer).stroke_width(1))
        }))?;
    }
    legend(&area, &peers)
}

/// Names beside their colours, at the right of the title.
fn legend(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, peers: &[Name]) -> Drawn {
    for (place, peer) in (0..).zip(peers) {
        let (x, y) = ((SIZE.0 - LEGEND) as i32 + 15, 36 + 16 * place);
        area.draw(&Rectangle::new([(x, y), (x + 10, y + 10)], colour(*peer).filled()))?;
        area.draw(&Text::new(peer.to_string(), (x + 15, y), (FONT, 13)))?;
    }
    Ok(())
}
