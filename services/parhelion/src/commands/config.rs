//! `parhelion config`: which settings are in force, and whether a node could start with them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parhelion_gate::tls::Description;
use parhelion_types::Role;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use serde_json::{Value, json};

use crate::cli::{ConfigCommand, SettingsArgs};
use crate::commands::load;
use crate::identity;
use crate::node;
use crate::output::{Exit, Failure, print_json, print_table, say};
use crate::settings::{self, Settings};

/// Runs a command.
pub fn config(command: ConfigCommand) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Show { settings, effective, json } => show(&settings, effective, json),
        ConfigCommand::Check { settings, json } => Ok(check(&settings, json)),
    }
}

fn show(arguments: &SettingsArgs, effective: bool, as_json: bool) -> Result<Exit, Failure> {
    let rows = load(arguments)?.effective;
    if as_json {
        let entry =
            |row: &settings::Effective| json!({ "key": row.key, "value": row.value, "origin": row.origin });
        print_json(&Value::Array(rows.iter().map(entry).collect()));
    } else if effective {
        print_table(["setting", "value", "from"], rows.into_iter().map(|r| [r.key, r.value, r.origin]));
    } else {
        print_table(["setting", "value"], rows.into_iter().map(|r| [r.key, r.value]));
    }
    Ok(Exit::Done)
}

/// Tells all that would keep a node from starting, not just the first. Starts, makes and changes nothing.
fn check(arguments: &SettingsArgs, as_json: bool) -> Exit {
    let mut problems = Vec::new();
    let mut certificate = None;
    match load(arguments) {
        Ok(layered) => certificate = look_at(&layered.settings, &mut problems),
        Err(failure) => problems.push(failure.message),
    }
    let usable = problems.is_empty();
    if as_json {
        let certificate = certificate.map(|(file, has)| {
            let roles: Vec<&str> = has.roles.iter().map(|role| role.name()).collect();
            json!({
                "file": file, "site": has.site.map(|site| site.0), "roles": roles, "names": has.names,
                "good_until": timestamp(has.not_after),
            })
        });
        print_json(&json!({ "usable": usable, "problems": problems, "certificate": certificate }));
    } else {
        for problem in problems {
            eprintln!("error: {problem}");
        }
        if let Some((file, has)) = certificate.filter(|_| usable) {
            say!("the settings are usable; {} is good until {}", file.display(), timestamp(has.not_after));
        }
    }
    if usable { Exit::Done } else { Exit::Usage }
}

/// Adds what is wrong to `problems`; the certificate, where there is one.
fn look_at(settings: &Settings, problems: &mut Vec<String>) -> Option<(PathBuf, Description)> {
    problems.extend(node::problems(settings));
    if settings.has(Role::Storage) {
        for directory in settings.data_directories() {
            if let Err(reason) = check_directory(&directory) {
                let directory = directory.display();
                problems.push(format!(
                    "data directory {directory}: {reason}; make it a directory that this user may write, or choose another"
                ));
            }
        }
    }
    let found = identity::check(settings, SystemTime::now()).and_then(|identity| identity.description());
    match found {
        Ok(description) => {
            let file = settings.tls.directory.join(format!("{}.pem", settings.certificate()));
            Some((file, description))
        }
        Err(error) => {
            problems.push(error.to_string());
            None
        }
    }
}

/// Whether a directory is there and writable, or can be made. Leaves no trace.
fn check_directory(directory: &Path) -> Result<(), String> {
    // A relative path with one part has the empty path for its parent.
    let there = |path: &Path| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() };
    let mut nearest = there(directory);
    loop {
        match std::fs::metadata(&nearest) {
            Ok(found) if found.is_dir() => break,
            Ok(_) => return Err(format!("{} is no directory", nearest.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match nearest.parent() {
                Some(parent) => nearest = there(parent),
                None => return Err(error.to_string()),
            },
            // What cannot be looked at because a file is in its way is said of the file.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => match nearest.parent() {
                Some(parent) => nearest = there(parent),
                None => return Err(error.to_string()),
            },
            Err(error) => return Err(format!("{}: {error}", nearest.display())),
        }
    }
    accessat(CWD, &nearest, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|error| format!("{} cannot be written: {}", nearest.display(), io::Error::from(error)))
}

fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_there_or_can_be_made() {
        let here = std::env::current_dir().unwrap();
        check_directory(&here).unwrap();
        check_directory(&here.join("absent/and/deep")).unwrap();
        check_directory(Path::new("absent")).unwrap();
        assert!(!here.join("absent").exists(), "a check made something");
        let file = std::env::current_exe().unwrap();
        for inside in [file.clone(), file.join("data"), file.join("data/store")] {
            let reason = check_directory(&inside).unwrap_err();
            assert!(
                reason.contains(&file.display().to_string()) && reason.contains("no directory"),
                "{reason}"
            );
        }
    }
}
