//! Every checked-in input, through its target, without an engine: what once broke a promise never does so again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use parhelion_fuzz::{TARGETS, inputs};

/// Seeds are small: they are read by people, and an engine makes the rest.
const SEED_BYTES_MAX: usize = 4096;

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let read =
        |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    entries.map(|entry| read(entry.unwrap())).collect()
}

#[test]
fn every_input_keeps_every_promise() {
    for target in &TARGETS {
        let [seeds, regressions] = inputs(target);
        assert!(!files(&seeds).is_empty(), "{} has no seeds", target.name);
        for folder in [seeds, regressions] {
            for (name, bytes) in files(&folder) {
                eprintln!("{} {name}", target.name);
                (target.run)(&bytes);
            }
        }
    }
}

/// The formats are frozen, and so are the seeds: one that its own code writes otherwise today shows a change.
/// `PARHELION_WRITE_SEEDS=1` writes them anew.
#[test]
fn seeds_are_what_the_code_writes() {
    for target in &TARGETS {
        let [folder, _] = inputs(target);
        if std::env::var_os("PARHELION_WRITE_SEEDS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            for (name, bytes) in (target.seeds)() {
                fs::write(folder.join(name), bytes).unwrap();
            }
        }
        let files = files(&folder);
        for (name, bytes) in (target.seeds)() {
            assert!(bytes.len() <= SEED_BYTES_MAX, "{} {name} has {} bytes", target.name, bytes.len());
            assert!(files.get(name) == Some(&bytes), "{} {name} is not what the code writes", target.name);
        }
    }
}

#[test]
fn every_target_takes_nothing_and_noise() {
    let noise: Vec<u8> = (0..2000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for target in &TARGETS {
        for bytes in [&[][..], &[0], &[255; 64], &noise] {
            (target.run)(bytes);
        }
    }
}
