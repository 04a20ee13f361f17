//! The page.

use std::fmt::Write as _;

use super::plot::Plot;
use super::{COMPARED, Judged, judge, number, spread, times_better, verdict};
use crate::machine::Machine;
use crate::plan::Plan;
use crate::results::Results;

/// The whole page in Markdown.
pub(super) fn page(results: &Results, machine: &Machine, plan: &Plan, plots: &[Plot]) -> String {
    let mut page = String::from("# netbpf beside its peers\n\n");
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a String does not fail.
        _ = page.write_fmt(text);
        page.push('\n');
    };
    line(format_args!(
        "Written by `cargo xtask bench`; [README.md](README.md) tells how it measures, and how to read it. Ratios matter: they are of \
         one run, in which all took turns. Figures of two runs are not to be compared.\n"
    ));
    line(format_args!("|  |  |\n|---|---|"));
    line(format_args!("| machine | {}, {} GiB |", machine.processor, machine.memory));
    line(format_args!("| kernel | {}, {} |", machine.kernel, machine.system));
    for (name, version) in &machine.versions {
        line(format_args!("| {name} | {version} |"));
    }
    line(format_args!("| netbpf built | {} |", machine.build));
    line(format_args!(
        "| rounds | {} of {} ms; {} of what is set up |\n",
        plan.effort.rounds,
        plan.effort.time.as_millis(),
        plan.effort.cost_rounds
    ));

    line(format_args!("## Aims\n\n| aim | measured | |\n|---|---:|---|"));
    for Judged { aim, ratio, is_met } in judge(results) {
        let measured = ratio.map_or_else(|| "–".into(), |ratio| format!("{ratio:.2}"));
        line(format_args!("| {aim} | {measured} | {} |", verdict(is_met)));
    }

    line(format_args!("\n## Plots\n"));
    for Plot { title, file } in plots {
        line(format_args!("![{title}]({file})\n"));
    }

    line(format_args!(
        "## Numbers\n\nMedian (least–most) of all rounds, and how many times as good as {COMPARED} that is.\n"
    ));
    for subject in results.subjects() {
        line(format_args!("### {}\n\n| | {} | × {COMPARED} |\n|---|---:|---:|", subject.words(), subject.unit.name()));
        let compared = results.row(subject, COMPARED);
        for row in plan.peers.iter().filter_map(|peer| results.row(subject, *peer)) {
            let ratio = compared.and_then(|compared| times_better(row, compared));
            line(format_args!("| {} | {} | {} |", row.peer, spread(row), ratio.map_or_else(String::new, number)));
        }
        line(format_args!(""));
    }
    for note in results.notes() {
        line(format_args!("{note}\n"));
    }
    page.trim_end().to_owned() + "\n"
}
