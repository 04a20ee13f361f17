//! Tier 0: what the fuzz targets begin with, and what they have found before, upsets nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{fs, io};

use netbpf_tests::fuzz::{TARGETS, Target, dictionary};

fn fuzz_crate() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn survives(target: &Target, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok()
}

/// Names and contents of a directory's files.
fn files(directory: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.iter().map(|entry| Ok((entry.path(), fs::read(entry.path())?))).collect()
}

#[test]
fn the_fixtures_upset_no_fuzz_target() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(seeds.len() > 10, "{} has {} seeds", target.name, seeds.len());
        let upset: Vec<_> = (0..seeds.len()).filter(|number| !survives(&target, &seeds[*number])).collect();
        assert!(upset.is_empty(), "seeds {upset:?} of {}", target.name);
    }
}

#[test]
fn what_was_found_once_is_not_found_again() {
    let mut upset = Vec::new();
    for target in TARGETS {
        let directory = fuzz_crate().join("regressions").join(target.name);
        let inputs = files(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        upset.extend(inputs.into_iter().filter(|(_, input)| !survives(&target, input)).map(|(name, _)| name));
    }
    assert!(upset.is_empty(), "{upset:?}");
}

#[test]
fn every_target_is_a_program_of_the_fuzz_crate_and_every_program_a_target() {
    let programs = files(&fuzz_crate().join("src/bin")).expect("the programs are there");
    let mut programs: Vec<_> = programs.iter().filter_map(|(path, _)| path.file_stem()?.to_str()).collect();
    let mut targets = TARGETS.map(|target| target.name);
    programs.sort_unstable();
    targets.sort_unstable();
    assert_eq!(programs, targets);
}

#[test]
fn the_dictionary_is_as_libfuzzer_reads_it() {
    let is_byte = |escape: &str| escape.len() == 3 && u8::from_str_radix(&escape[1..], 16).is_ok();
    for line in dictionary().lines() {
        let word = line.strip_prefix("\"\\").and_then(|line| line.strip_suffix('"')).expect(line);
        assert!(word.split('\\').all(is_byte), "{line}");
    }
}
