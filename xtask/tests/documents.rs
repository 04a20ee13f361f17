//! What the documents say of the code is so.

use std::{collections::BTreeSet, fs, path::Path};

use netbpf_common::abi::{DropReason, Event};

fn document(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_counter_is_explained_and_no_other() {
    let names = DropReason::ALL.iter().map(|reason| reason.name()).chain(Event::ALL.iter().map(|event| event.name()));
    let text = document("docs/drops.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(rows.collect::<BTreeSet<_>>(), names.collect::<BTreeSet<_>>());
}

#[test]
fn every_check_of_doctor_is_explained_and_no_other() {
    let code = document("netbpf-user/src/agent/doctor/mod.rs");
    let list = code.split("pub const CHECKS").nth(1).and_then(|rest| rest.split("];").next()).expect("the list");
    let checks: Vec<&str> =
        list.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\",")).collect();
    let text = document("docs/operations.md");
    let rows: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(checks.len() > 20, "{checks:?}");
    assert_eq!(rows, checks);
}

#[test]
fn every_file_the_architecture_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for document_path in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"] {
        let text = document(document_path);
        let named = text.split('`').skip(1).step_by(2);
        let crates = ["netbpf-common/", "netbpf-ebpf/", "netbpf-user/", "tests/", "xtask/", "docs/"];
        for path in named.filter(|path| crates.iter().any(|prefix| path.starts_with(prefix))) {
            assert!(root.join(path).exists(), "{document_path} names {path}");
        }
    }
}
