//! XDP live frames: a program that makes each frame anew, called by the kernel's test runner.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};

use super::frame::{First, HEADERS, LENGTH};
use super::{Flows, Generator};

const BATCH: u32 = 64;
const PROGRAM: &str = "generate";

pub(super) struct Frames {
    programs: Ebpf,
    frame: Vec<u8>,
}

/// What the program is to make.
pub(super) fn settings(first: &First, flows: Flows) -> [(&'static str, Vec<u32>); 3] {
    let words = first.bytes[..HEADERS + 2].chunks(4);
    let words = words.map(|word| u32::from_ne_bytes(word.try_into().expect("eleven words")));
    [("HEADER", words.collect()), ("ADDRESSES", vec![flows.addresses.into()]), ("PORTS", vec![flows.ports.into()])]
}

impl Frames {
    pub(super) fn new(mut programs: Ebpf, first: First) -> Result<Self> {
        let mut frame = first.bytes;
        frame.resize(LENGTH, 0);
        let program: &mut Xdp = programs.program_mut(PROGRAM).context("a generator")?.try_into()?;
        program.load()?;
        Ok(Self { programs, frame })
    }
}

impl Generator for Frames {
    /// What the runner tells is without what a call costs, which is many milliseconds.
    fn send(&mut self, packets: u32) -> Result<Duration> {
        let program: &Xdp = self.programs.program(PROGRAM).context("a generator")?.try_into()?;
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        let run = program.test_run(options).map_err(|error| anyhow!(error).context("cannot make live frames"))?;
        Ok(run.duration * packets)
    }
}
