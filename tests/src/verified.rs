//! What the kernel programs ask of a verifier, beside its limits and what was recorded of it: `tests/verified.txt`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramInfo;
use aya_obj::Object;
use aya_obj::generated::bpf_insn;
use netbpf_common::abi::program;
use netbpf_user::datapath::object;

use crate::kernel::Kernel;

/// Bytes of stack that a program and the functions that it calls have together (include/linux/filter.h, MAX_BPF_STACK).
pub const STACK: u32 = 512;

/// Says that what the running kernel tells is to be recorded.
const RECORD: &str = "NETBPF_RECORD";

/// By how many parts in a hundred a count may differ from the record: what is mended in a kernel changes its verifier a little.
const TOLERANCE: u64 = 15;

/// What a program asks of a verifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Instructions that it walks.
    pub instructions: u64,
    /// Bytes of stack.
    pub stack: u32,
}

/// By the name of the program.
pub type Programs = BTreeMap<String, Asked>;

/// The series of a kernel: the first two numbers of its release.
///
/// # Errors
/// When it does not say one.
pub fn series() -> Result<String> {
    let name = nix::sys::utsname::uname()?;
    let release = name.release().to_str().context("a release is a text")?;
    let numbers: Vec<&str> = release.split(|c: char| !c.is_ascii_digit()).take(2).collect();
    ensure!(numbers.len() == 2, "the release {release} says no series");
    Ok(numbers.join("."))
}

/// What the programs ask of the running kernel, all of them.
///
/// # Errors
/// When it refuses one, or the object has one that no instance loads.
pub fn programs() -> Result<Programs> {
    let kernel = Kernel::new(64, 16)?;
    // Loaded with the first device that needs them.
    let frame = [0; 64];
    kernel.run_express(&frame, 1)?;
    kernel.datapath.run(program::UPLINK_BARE, &frame, &[], 1)?;
    let directory = fs::read_dir(kernel.settings.bpffs.join("programs"))?.next().context("programs are pinned")??;
    let pins = fs::read_dir(directory.path())?.map(|pin| {
        let (pin, name) = pin.map(|pin| (pin.path(), pin.file_name().to_string_lossy().into_owned()))?;
        let info = ProgramInfo::from_pin(&pin)?;
        Ok((name, info.verified_instruction_count().context("the kernel counts what its verifier walks")?.into()))
    });
    let counts: BTreeMap<String, u64> = pins.collect::<Result<_>>()?;
    let stacks = stacks(object())?;
    let (loaded, built): (BTreeSet<_>, BTreeSet<_>) = (counts.keys().collect(), stacks.keys().collect());
    ensure!(loaded == built, "loaded are {loaded:?}, and the object has {built:?}");
    Ok(counts
        .into_iter()
        .zip(stacks)
        .map(|((name, instructions), (_, stack))| (name, Asked { instructions, stack }))
        .collect())
}

/// Bytes of stack that each program of an object takes at most, as the verifier that takes the most adds them up.
fn stacks(object: &[u8]) -> Result<BTreeMap<String, u32>> {
    let mut object = Object::parse(object)?;
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections)?;
    let stack = |(name, program): (&String, &aya_obj::Program)| {
        let function = object.functions.get(&program.function_key()).context("a program is a function")?;
        Ok((name.clone(), Functions::of(&function.instructions).deepest(0)))
    };
    object.programs.iter().map(stack).collect()
}

/// The functions of a program, by the place of their first instruction.
struct Functions(BTreeMap<usize, Function>);

/// A function.
#[derive(Default)]
struct Function {
    /// Bytes of its own.
    stack: u32,
    /// The functions that it calls, or has the kernel call.
    calls: BTreeSet<usize>,
}

impl Functions {
    fn of(instructions: &[bpf_insn]) -> Self {
        let begins = instructions.iter().enumerate().filter_map(called).chain([0]);
        let mut functions: BTreeMap<usize, Function> = begins.map(|begin| (begin, Function::default())).collect();
        let mut before = None;
        for (at, instruction) in instructions.iter().enumerate() {
            let (_, function) = functions.range_mut(..=at).next_back().expect("one begins at 0");
            function.stack = function.stack.max(reaches(instruction, before));
            function.calls.extend(called((at, instruction)));
            before = Some(instruction);
        }
        Self(functions)
    }

    /// Bytes of a function and of what it calls.
    fn deepest(&self, function: usize) -> u32 {
        /// On Linux 6.1 a frame takes a multiple of this, and later less (kernel/bpf/verifier.c, check_max_stack_depth).
        const UNIT: u32 = 32;
        let function = &self.0[&function];
        let below = function.calls.iter().map(|called| self.deepest(*called)).max().unwrap_or(0);
        function.stack.max(1).next_multiple_of(UNIT) + below
    }
}

/// Where the function begins that an instruction calls, or hands to a helper.
fn called((at, instruction): (usize, &bpf_insn)) -> Option<usize> {
    const CALL: u8 = 0x85;
    const PSEUDO_CALL: u8 = 1;
    const LOAD_WIDE: u8 = 0x18;
    const PSEUDO_FUNCTION: u8 = 4;
    let is_one =
        matches!((instruction.code, instruction.src_reg()), (CALL, PSEUDO_CALL) | (LOAD_WIDE, PSEUDO_FUNCTION));
    is_one.then(|| at.checked_add_signed(instruction.imm as isize + 1)).flatten()
}

/// How far below the end of its frame an instruction reaches, in bytes: by an access, or by an address that it makes of that of the
/// end, which the instruction before has copied.
fn reaches(instruction: &bpf_insn, before: Option<&bpf_insn>) -> u32 {
    const FRAME: u8 = 10;
    const CLASS: u8 = 0x07;
    const LOAD: u8 = 0x01;
    const STORE: u8 = 0x02;
    const STORE_REGISTER: u8 = 0x03;
    const ADD: u8 = 0x07;
    const MOVE: u8 = 0xbf;
    let offset = match (instruction.code & CLASS, instruction.code) {
        (LOAD, _) if instruction.src_reg() == FRAME => instruction.off.into(),
        (STORE | STORE_REGISTER, _) if instruction.dst_reg() == FRAME => instruction.off.into(),
        (_, ADD) => {
            let is_copy = |before: &bpf_insn| {
                before.code == MOVE && before.src_reg() == FRAME && before.dst_reg() == instruction.dst_reg()
            };
            if before.is_some_and(is_copy) { instruction.imm } else { 0 }
        }
        _ => 0,
    };
    offset.min(0).unsigned_abs()
}

/// What was recorded, by the series of the kernel.
#[derive(Debug)]
pub struct Record(BTreeMap<String, Programs>);

impl Record {
    fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("verified.txt")
    }

    /// Reads it.
    ///
    /// # Errors
    /// When a line is none.
    pub fn read() -> Result<Self> {
        let text = fs::read_to_string(Self::path()).context("read tests/verified.txt")?;
        let mut record = BTreeMap::<String, Programs>::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let read = || {
                let mut words = line.split_whitespace();
                let (series, name) = (words.next()?, words.next()?);
                let asked = Asked { instructions: words.next()?.parse().ok()?, stack: words.next()?.parse().ok()? };
                Some((series, name, asked))
            };
            let (series, name, asked) = read().with_context(|| format!("{line:?} is no line of a record"))?;
            record.entry(series.into()).or_default().insert(name.into(), asked);
        }
        Ok(Self(record))
    }

    /// Puts what a kernel of this series says in the place of what was recorded of it.
    ///
    /// # Errors
    /// When the file cannot be written.
    fn write(mut self, series: &str, programs: &Programs) -> Result<()> {
        self.0.insert(series.into(), programs.clone());
        let text = fs::read_to_string(Self::path())?;
        let mut lines: Vec<String> = text.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect();
        for (of, programs) in &self.0 {
            for (name, Asked { instructions, stack }) in programs {
                let line = format!("{of:<5} {name:<15} {instructions:>7} {stack:>4}");
                if of == series {
                    // Of a machine whose files go with it.
                    println!("{line}");
                }
                lines.push(line);
            }
        }
        fs::write(Self::path(), lines.join("\n") + "\n").context("write tests/verified.txt")
    }

    /// Holds what a kernel of this series says against what was recorded of it; what differs, in words. With `NETBPF_RECORD=1`
    /// it becomes the record.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn differences(self, series: &str, programs: &Programs) -> Result<Vec<String>> {
        if env::var_os(RECORD).is_some_and(|value| value == "1") {
            self.write(series, programs)?;
            return Ok(Vec::new());
        }
        let again = format!(
            "to record what this kernel says, run `{RECORD}=1 cargo test -p netbpf-tests --test tier1 verifier -- --nocapture` on \
             it as root"
        );
        let Some(recorded) = self.0.get(series) else {
            return Ok(vec![format!("tests/verified.txt has no kernel of the series {series}: {again}")]);
        };
        let names: BTreeSet<&String> = recorded.keys().chain(programs.keys()).collect();
        let differs = |name: &String| match (recorded.get(name), programs.get(name)) {
            (Some(recorded), Some(asked)) => {
                let differs =
                    recorded.instructions.abs_diff(asked.instructions) * 100 > recorded.instructions * TOLERANCE;
                differs.then(|| format!("{name}: {asked:?}, and {recorded:?} was recorded for {series}: {again}"))
            }
            (None, _) => Some(format!("{name} is not in tests/verified.txt for {series}: {again}")),
            (_, None) => Some(format!("{name} is in tests/verified.txt for {series}, and not in the object: {again}")),
        };
        Ok(names.into_iter().filter_map(differs).collect())
    }
}
