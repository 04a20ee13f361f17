//! Writes what the fuzz targets begin with: `seeds DIRECTORY` makes a directory with inputs for each target
//! there, and the file `dictionary`.

use std::path::PathBuf;
use std::{env, fs, io};

use netbpf_tests::fuzz::{TARGETS, dictionary};

fn main() -> io::Result<()> {
    let Some(directory) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: seeds DIRECTORY"));
    };
    for target in TARGETS {
        let directory = directory.join(target.name);
        fs::create_dir_all(&directory)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(directory.join(format!("seed-{number:03}")), seed)?;
        }
    }
    fs::write(directory.join("dictionary"), dictionary())
}
