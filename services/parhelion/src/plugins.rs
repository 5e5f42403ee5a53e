//! The codes and models of a node: built in, and from the folder that the operator names.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use parhelion_model_trace::{Trace, TraceModel};
use parhelion_plugin::{DurabilityModel, Parameters, conformance};
use parhelion_plugin_host::{Catalogue, Libraries, Loaded, Refused};
use parhelion_storage::{NewFigures, StorageActor};

use crate::output::Failure;
use crate::settings::Settings;

/// Loads what the settings ask for; what was refused of the folder, for the operator. The others are there all the same.
pub fn load(settings: &Settings) -> Result<(Catalogue, Vec<Refused>), Failure> {
    let mut catalogue = Catalogue::built_in();
    if !settings.risk.traces.is_empty() {
        let traces = traces(Path::new(&settings.risk.traces))
            .map_err(|e| Failure::new(format!("risk.traces: {e}")))?;
        catalogue = catalogue.with_model(Arc::new(TraceModel::new(traces)));
    }
    let directory = &settings.plugins.directory;
    let refused = match directory.is_empty() {
        true => Vec::new(),
        false => {
            let libraries = if settings.plugins.libraries { Libraries::Trusted } else { Libraries::Refused };
            catalogue.load(Path::new(directory), libraries, &is_sound)
        }
    };
    Ok((catalogue, refused))
}

/// Holds a code against the conformance kit. A model is asked when it prices; nonsense counts as certain loss.
fn is_sound(plugin: &Loaded) -> Result<(), String> {
    match plugin {
        Loaded::Code(code) => conformance::check_quickly(&**code, &Parameters::new(), SEED).map(drop).map_err(|violation| {
            format!("is refuted by the conformance kit: {violation}; mend it: `parhelion plugin check` shows more")
        }),
        Loaded::Model(_) => Ok(()),
    }
}

/// The same at every start: what was taken once is taken again.
const SEED: u64 = 2008;

/// The recordings of a folder.
fn traces(folder: &Path) -> Result<Vec<Trace>, String> {
    let unreadable =
        |error: std::io::Error| format!("folder {}: {error}; give one that can be read", folder.display());
    let mut files = fs::read_dir(folder)
        .and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
        })
        .map_err(unreadable)?;
    files.retain(|file| file.extension().is_some_and(|ending| ending == "trace"));
    files.sort();
    if files.is_empty() {
        return Err(format!(
            "folder {} has no file that ends in .trace; record one, or leave it empty",
            folder.display()
        ));
    }
    let read = |file: &std::path::PathBuf| {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        text.parse().map_err(|error| format!("{}: {error}", file.display()))
    };
    files.iter().map(read).collect()
}

/// Lets a model work on figures that it could not give at once, on a thread of its own, until the node ends. The storage
/// actor hears of better ones.
pub fn let_work(model: Arc<dyn DurabilityModel>, storage: Addr<StorageActor>) {
    let work = move || {
        let mut told = model.edition();
        while storage.connected() {
            let has_more = model.work();
            let edition = model.edition();
            if edition != told {
                told = edition;
                storage.do_send(NewFigures);
            }
            if !has_more {
                std::thread::sleep(IDLE);
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("model".to_owned()).spawn(work) {
        tracing::error!(%error, "the durability model has no thread: figures that need work stay at certain loss");
    }
}

/// How soon a question that needs work is noticed.
const IDLE: Duration = Duration::from_millis(20);
