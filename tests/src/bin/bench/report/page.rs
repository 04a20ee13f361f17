//! The page.

use std::fmt::Write as _;

use super::plot::Plot;
use super::{COMPARED, Judged, judge, ratio_words, spread, times_better, verdict};
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
    line(format_args!("| load when it began | {} |", machine.load));
    line(format_args!(
        "| packets made by | {} |\n| rounds | {}, each with {} slices of {} ms; {} of what is set up |\n",
        machine.maker,
        plan.effort.rounds,
        plan.effort.slices,
        plan.effort.time.as_millis(),
        plan.effort.cost_rounds
    ));

    line(format_args!("## Aims\n\n| aim | measured | |\n|---|---:|---|"));
    for Judged { aim, measured, is_met } in judge(results) {
        let measured = measured.map_or_else(|| "–".into(), ratio_words);
        line(format_args!("| {aim} | {measured} | {} |", verdict(is_met)));
    }

    line(format_args!("\n## Plots\n"));
    for Plot { title, file } in plots {
        line(format_args!("![{title}]({file})\n"));
    }

    line(format_args!(
        "## Numbers\n\nMedian (least–most) of all slices; how many times as good as {COMPARED} that is, and between which the middle half of \
         the slices has it; with many ports or flows, how many times as good as with one.\n"
    ));
    for subject in results.subjects() {
        let one = (subject.ports > 1 || subject.flows > 1).then(|| subject.clone().with(1, 1));
        let (head, rule) = if one.is_some() { (" × one |", "---:|") } else { ("", "") };
        let unit = subject.unit.name();
        line(format_args!("### {}\n\n| | {unit} | × {COMPARED} |{head}\n|---|---:|---:|{rule}", subject.words()));
        let compared = results.row(subject, COMPARED);
        let words = |ratio: Option<_>| ratio.map_or_else(String::new, ratio_words);
        for peer in &plan.peers {
            if let Some(row) = results.row(subject, *peer) {
                let ratio = words(compared.and_then(|compared| times_better(row, compared)));
                let alone =
                    one.as_ref().map(|one| words(results.row(one, *peer).and_then(|one| times_better(row, one))));
                let alone = alone.map_or_else(String::new, |alone| format!(" {alone} |"));
                line(format_args!("| {peer} | {} | {ratio} |{alone}", spread(row)));
            } else if let Some(why) = results.why_not(subject, *peer) {
                line(format_args!("| {peer} | not measured: {why} | |{}", if one.is_some() { " |" } else { "" }));
            }
        }
        line(format_args!(""));
    }
    page.trim_end().to_owned() + "\n"
}
