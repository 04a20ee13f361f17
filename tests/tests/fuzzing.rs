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
        let upset: Vec<_> = (0..seeds.len()).filter(|number| !survives(target, &seeds[*number])).collect();
        assert!(upset.is_empty(), "seeds {upset:?} of {}", target.name);
    }
}

#[test]
fn what_was_found_once_is_not_found_again() {
    let mut upset = Vec::new();
    for target in TARGETS {
        let directory = fuzz_crate().join("regressions").join(target.name);
        let inputs = files(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        upset.extend(inputs.into_iter().filter(|(_, input)| !survives(target, input)).map(|(name, _)| name));
    }
    assert!(upset.is_empty(), "{upset:?}");
}

/// The target that `ci` has no time to build for libFuzzer: here it is tried blindly, the same in every run.
#[test]
fn damaged_requests_do_not_upset_the_api() {
    const TRIES: u32 = 250_000;
    let target = TARGETS.iter().find(|target| target.name == "api").expect("it is built here");
    let seeds = (target.seeds)();
    let mut damage = Damage(0x6e65_7462_7066);
    for number in 0..TRIES {
        let mut input = seeds[damage.below(seeds.len())].clone();
        for _ in 0..=damage.below(4) {
            damage.one(&mut input, &seeds);
        }
        assert!(survives(target, &input), "try {number}: {}", String::from_utf8_lossy(&input));
    }
}

/// Numbers that look like chance (xorshift64*, Marsaglia and Vigna), and what becomes of bytes by them.
struct Damage(u64);

impl Damage {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }

    /// Another byte, a piece less, a piece twice, or a piece of another input.
    fn one(&mut self, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let end = (at + self.below(24)).min(bytes.len());
        match self.below(5) {
            0 => {
                bytes.drain(at..end);
            }
            1 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            2 => {
                let other = &others[self.below(others.len())];
                let from = self.below(other.len());
                let to = (from + self.below(48)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            3 => {
                const WORDS: [&str; 12] =
                    ["0", "-1", "65536", "\"", "/", "..", ",", "\\u0000", "::", "[", "99999999999", "\u{e9}"];
                let word = WORDS[self.below(WORDS.len())];
                bytes.splice(at..at, word.bytes());
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = self.next() as u8;
                }
            }
        }
        // An empty input has nothing to damage.
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
}

#[test]
fn every_target_is_a_program_of_the_fuzz_crate_and_every_program_a_target() {
    let programs = files(&fuzz_crate().join("src/bin")).expect("the programs are there");
    let mut programs: Vec<_> = programs.iter().filter_map(|(path, _)| path.file_stem()?.to_str()).collect();
    let mut targets: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
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
