//! The repository against its own rules.

use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use parhelion_tidy::{Import, may_import};

/// Longest Rust file: beyond it, it holds more than one noun.
const FILE_LINES_MAX: usize = 800;
/// Longest line of a Rust file; rustfmt keeps code at 110 and cannot break strings and comments.
const LINE_COLUMNS_MAX: usize = 150;

/// Text that must not be in the repository, and why. Written in two halves, so that this file may hold it.
const BANNED: [(&str, &str, &str); 10] = [
    ("/wo", "rk/", "a path of one machine"),
    ("/ro", "ot/", "a path of one machine"),
    ("/ho", "me/", "a path of one machine"),
    ("todo", "!", "unfinished code"),
    ("unimplement", "ed!", "unfinished code"),
    ("dbg", "!(", "a trace left behind"),
    ("FIX", "ME", "unfinished code: mend it or describe the limit"),
    ("spa", "rse+", "a package registry: dependencies are named by version alone"),
    ("arti", "factory", "a package registry: dependencies are named by version alone"),
    ("replace-w", "ith", "a package registry: mirrors are configured outside the repository"),
];

/// Endings of files that hold text worth reading.
const TEXT: [&str; 12] =
    ["rs", "toml", "md", "lock", "json", "html", "css", "js", "sh", "yml", "yaml", "txt"];

#[test]
fn every_import_is_in_the_table() {
    let metadata = metadata();
    let folder_of = |name: &str| {
        let package = metadata.workspace_packages().into_iter().find(|package| package.name == name)?;
        let folder = package.manifest_path.parent()?.strip_prefix(&metadata.workspace_root).ok()?;
        Some(folder.as_str().to_owned())
    };
    let mut offences = vec![];
    let mut arrows = 0;
    for package in metadata.workspace_packages() {
        let from = folder_of(&package.name).unwrap();
        for dependency in &package.dependencies {
            let Some(to) = folder_of(&dependency.name) else { continue };
            let dev = dependency.kind == DependencyKind::Development;
            arrows += 1;
            if !may_import(&from, &to, if dev { Import::Dev } else { Import::Normal }) {
                offences.push(format!("{from} imports {to}{}", if dev { " in tests" } else { "" }));
            }
        }
    }
    assert!(arrows > 20, "read {arrows} arrows; the metadata cannot be complete");
    expect_none(&offences, "arrows outside the table in integration/tidy/src/lib.rs");
}

#[test]
fn every_protocol_crate_is_under_the_bans_of_clippy() {
    let root = root();
    assert!(root.join("protocols/clippy.toml").is_file());
    // Clippy reads the nearest file only, so one in a crate would lift the bans.
    let nearer = files().into_iter().filter(|file| {
        file.starts_with(root.join("protocols"))
            && file.parent() != Some(&root.join("protocols"))
            && matches!(name(file), "clippy.toml" | ".clippy.toml")
    });
    expect_none(
        &nearer.map(|file| shown(&file)).collect::<Vec<_>>(),
        "files that hide protocols/clippy.toml",
    );
}

#[test]
fn files_and_lines_are_short() {
    let mut offences = vec![];
    for (file, text) in texts().filter(|(file, _)| extension(file) == "rs") {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            offences.push(format!("{}: {lines} lines, at most {FILE_LINES_MAX}", shown(&file)));
        }
        for (n, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > LINE_COLUMNS_MAX {
                offences.push(format!(
                    "{}:{}: {columns} columns, at most {LINE_COLUMNS_MAX}",
                    shown(&file),
                    n + 1
                ));
            }
        }
    }
    expect_none(&offences, "files or lines that are too long");
}

#[test]
fn nothing_banned_is_written() {
    let banned: Vec<_> = BANNED.iter().map(|(a, b, why)| (format!("{a}{b}"), why)).collect();
    let mut offences = vec![];
    for (file, text) in texts() {
        for (n, line) in text.lines().enumerate() {
            for (word, why) in banned.iter().filter(|(word, _)| line.contains(word)) {
                offences.push(format!("{}:{}: {word:?}, {why}", shown(&file), n + 1));
            }
        }
    }
    expect_none(&offences, "banned texts");
}

/// The lock file names one registry, the public one.
#[test]
fn packages_come_from_the_public_registry() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let sources: Vec<_> = lock.lines().filter(|line| line.starts_with("source = ")).collect();
    assert!(!sources.is_empty());
    let public = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let offences: Vec<_> =
        sources.into_iter().filter(|&source| source != public).map(str::to_owned).collect();
    expect_none(&offences, "other sources in Cargo.lock");
}

#[test]
fn every_crate_tells_its_story() {
    let mut offences = vec![];
    for package in metadata().workspace_packages() {
        for target in package.targets.iter().filter(|target| target.is_lib() || target.is_bin()) {
            let text = fs::read_to_string(&target.src_path).unwrap();
            let story: String = text.lines().map_while(|line| line.strip_prefix("//!")).collect();
            // Shorter than this it says no more than the name does.
            if story.trim().len() < 40 {
                offences.push(format!("{}: {:?}", shown(target.src_path.as_std_path()), story.trim()));
            }
        }
    }
    expect_none(&offences, "crates without a crate doc");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut offences = vec![];
    for (file, text) in texts().filter(|(file, _)| extension(file) == "md") {
        let mut fenced = false;
        for (n, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            }
            if fenced {
                continue;
            }
            for target in links(line) {
                let path = target.split(['#', ' ']).next().unwrap_or_default();
                let outside = path.contains("://") || path.starts_with("mailto:");
                if !path.is_empty() && !outside && !file.parent().unwrap().join(path).exists() {
                    offences.push(format!("{}:{}: {target}", shown(&file), n + 1));
                }
            }
        }
    }
    expect_none(&offences, "links that lead nowhere");
}

#[test]
fn links_are_found() {
    let found = links("see [a](b.md) and [c](../d.md#e) but not `x` (y)");
    assert_eq!(found, ["b.md", "../d.md#e"]);
}

/// Targets of `[text](target)` in a line of Markdown.
fn links(line: &str) -> Vec<&str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target)).collect()
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .current_dir(root())
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .unwrap()
}

fn root() -> PathBuf {
    // As it is now: a checkout elsewhere, with the same target directory, may have built this.
    let crate_root = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    Path::new(&crate_root).ancestors().nth(2).unwrap().to_owned()
}

/// Every file of the repository, but what git and cargo keep there.
fn files() -> Vec<PathBuf> {
    let mut files = vec![];
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                if !matches!(name(&path), ".git" | "target") {
                    folders.push(path);
                }
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(files.len() > 50, "found {} files; this cannot be the repository", files.len());
    files
}

/// Text files with their contents.
fn texts() -> impl Iterator<Item = (PathBuf, String)> {
    files().into_iter().filter(|file| TEXT.contains(&extension(file))).filter_map(|file| {
        // A file may go away while the tests run: an editor's.
        let text = fs::read_to_string(&file).ok()?;
        Some((file, text))
    })
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn expect_none(offences: &[String], what: &str) {
    assert!(offences.is_empty(), "{} {what}:\n  {}", offences.len(), offences.join("\n  "));
}
