//! What all benchmarks of one run share: the executable, certificates, a directory, and how long to measure.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use parhelion_drill::Process;
use tempfile::TempDir;

use crate::error::BenchError;

/// The place where benchmarks are carried out.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Turns of candidate and baseline.
    pub rounds: u32,
    /// How long one turn is measured.
    pub turn: Duration,
    /// The nodes' executable.
    pub binary: PathBuf,
    /// Certificates for both sites and for clients.
    pub tls: PathBuf,
    /// Settings given on the command line.
    pub settings: Vec<String>,
    directory: TempDir,
}

/// Making certificates takes a second on a loaded machine.
const CERTIFICATES_LIMIT: Duration = Duration::from_secs(30);

impl Lab {
    /// Finds the executable beside this one and makes certificates below `base`, or else below the system's
    /// directory for temporary files.
    pub(crate) fn new(
        rounds: u32,
        turn: Duration,
        base: Option<&Path>,
        settings: Vec<String>,
    ) -> Result<Self, BenchError> {
        let here = std::env::current_exe().map_err(BenchError::file("finding", "this executable"))?;
        let binary = here.with_file_name("parhelion");
        if !binary.is_file() {
            return Err(BenchError::NoBinary(binary));
        }
        let base = base.map_or_else(std::env::temp_dir, Path::to_owned);
        let base = base.canonicalize().map_err(BenchError::file("finding", base))?;
        let directory = tempfile::Builder::new()
            .prefix("parhelion-bench-")
            .tempdir_in(&base)
            .map_err(BenchError::file("creating a directory in", base))?;
        let tls = directory.path().join("pki");
        let mut command = Command::new(&binary);
        command.args(["pki", "init"]).arg(&tls);
        Process::start("pki", command, directory.path())?.finish(CERTIFICATES_LIMIT)?;
        Ok(Self { rounds, turn, binary, tls, settings, directory })
    }

    /// A new directory for the nodes of one system.
    pub(crate) fn workplace(&self) -> Result<Workplace, BenchError> {
        let directory = tempfile::Builder::new()
            .prefix("nodes-")
            .tempdir_in(self.directory.path())
            .map_err(BenchError::file("creating a directory in", self.directory.path()))?;
        Ok(Workplace(directory.keep()))
    }

    /// Leaves logs where they are, because they tell why a benchmark failed.
    pub(crate) fn keep(&mut self) {
        self.directory.disable_cleanup(true);
    }
}

/// A directory with the data of nodes, of which only their logs outlive it: a run writes more than a disk may
/// hold at once, and after a failure the logs are what is read.
#[derive(Debug)]
pub(crate) struct Workplace(PathBuf);

impl Workplace {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        for folder in entries.map(|entry| entry.path()).filter(|path| path.is_dir()) {
            // The directory of the whole run is removed at its end; what is left goes then.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// Says on standard error what is being done.
pub(crate) fn say(what: impl Display) {
    eprintln!("  {what}");
}
