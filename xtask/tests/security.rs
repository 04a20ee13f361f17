//! What SECURITY.md says is shown by tests that there are.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The rows of its tables, without their heads.
fn rows(text: &str) -> Vec<&str> {
    let mut rows = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let is_head = lines.peek().is_some_and(|next| next.starts_with("|---"));
        if line.starts_with('|') && !line.starts_with("|---") && !is_head {
            rows.push(line);
        }
    }
    rows
}

/// The tests that a row names: `tier2::arp::NAME` of an integration test, `netbpf_user::trust::tests::NAME` of a crate.
fn tests_of(row: &str) -> impl Iterator<Item = &str> {
    row.split('`').skip(1).step_by(2).filter(|word| word.contains("::"))
}

/// The file that a test must be in.
fn file_of(root: &Path, modules: &[&str]) -> Option<PathBuf> {
    // A module of tests may stand in the file that it tests.
    let (modules, inline) = match modules {
        [before @ .., "tests"] => (modules, Some(before)),
        _ => (modules, None),
    };
    let place = |modules: &[&str]| {
        let (first, rest) = modules.split_first()?;
        let package = root.join(first.replace('_', "-")).join("src");
        let start = if package.is_dir() { package } else { root.join("tests/tests").join(first) };
        let path = rest.iter().fold(start, |path, module| path.join(module));
        let candidates = [path.with_extension("rs"), path.join("mod.rs"), path.join("main.rs"), path.join("lib.rs")];
        candidates.into_iter().find(|candidate| candidate.is_file())
    };
    place(modules).or_else(|| place(inline?))
}

fn exists(root: &Path, test: &str) -> bool {
    let parts: Vec<&str> = test.split("::").collect();
    let Some((name, modules)) = parts.split_last() else { return false };
    let text = file_of(root, modules).and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    ['(', '<'].iter().any(|end| text.contains(&format!("fn {name}{end}")))
}

#[test]
fn every_row_names_tests_and_every_test_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let rows = rows(&text);
    assert!(rows.len() > 50, "{} rows", rows.len());
    let unshown: Vec<_> = rows.iter().filter(|row| tests_of(row).next().is_none()).collect();
    assert!(unshown.is_empty(), "without a test: {unshown:#?}");
    let missing: Vec<_> = rows.iter().flat_map(|row| tests_of(row)).filter(|test| !exists(root, test)).collect();
    assert!(missing.is_empty(), "named, and not there: {missing:#?}");
}

#[test]
fn a_test_is_found_by_its_module_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    assert!(exists(root, "tier2::arp::the_gateway_and_neighbours_are_resolved"));
    assert!(exists(root, "netbpf_user::agent::check::tests::hostnames_are_labels"));
    assert!(!exists(root, "tier2::hostile::the_gateway_and_neighbours_are_resolved"));
    assert!(!exists(root, "tier2::arp::the_gateway"));
    assert!(!exists(root, "nowhere::the_gateway_and_neighbours_are_resolved"));
}
