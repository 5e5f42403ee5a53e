//! New plugins build with what an author has, pass the kit, and are what they say.

use std::path::{Path, PathBuf};
use std::process::Command;

use parhelion_plugin::Parameters;
use parhelion_plugin_host::{Kind, Loaded, Origin, open};
use parhelion_plugin_kit::examination::{examine, examine_quickly};
use parhelion_plugin_kit::project::{Language, create};

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The plugin passes the quick form of the kit.
fn passes(file: &Path, kind: Kind, name: &str) {
    let entry = open(file).unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!((entry.plugin.kind(), entry.plugin.name(), entry.plugin.version()), (kind, name, 1));
    let is_module = file.extension().is_some_and(|ending| ending == "wasm");
    assert_eq!(matches!(entry.origin, Origin::Sandbox(_)), is_module);
    examine_quickly(&entry.plugin, 71).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

#[test]
fn plugins_in_c_build_with_make() {
    let parent = tempfile::tempdir().unwrap();
    for (kind, name) in [(Kind::Code, "c-code"), (Kind::Model, "c-model")] {
        create(parent.path(), name, Language::C, kind).unwrap();
        let folder = parent.path().join(name);
        run(Command::new("make")
            .arg("-C")
            .arg(&folder)
            .env("CC", "cc")
            .env("CFLAGS", "-O2 -Wall -Wextra -Werror"));
        passes(&folder.join(name).with_extension("so"), kind, name);
        let module = folder.join(name).with_extension("wasm");
        if module.is_file() {
            passes(&module, kind, name);
        } else {
            eprintln!("SKIPPED: {} was not built; install clang and wasm-ld", module.display());
        }
    }
}

#[test]
fn plugins_in_rust_build_with_cargo() {
    let parent = tempfile::tempdir().unwrap();
    for (kind, name) in [(Kind::Code, "rust-code"), (Kind::Model, "rust-model")] {
        create(parent.path(), name, Language::Rust, kind).unwrap();
        let folder = parent.path().join(name);
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--offline", "--quiet"]).current_dir(&folder);
        // What this build was told is not for that one.
        cargo.env("CARGO_TARGET_DIR", folder.join("target")).env("RUSTFLAGS", "-D warnings");
        run(&mut cargo);
        passes(&folder.join(format!("target/release/lib{}.so", name.replace('-', "_"))), kind, name);
    }
}

/// A leak of some bytes per symbol, which no allocator of the host sees: in a library and in the sandbox.
#[test]
fn memory_that_grows_is_found_in_every_form() {
    let parent = tempfile::tempdir().unwrap();
    let name = "leaky-code";
    create(parent.path(), name, Language::C, Kind::Code).unwrap();
    let folder = parent.path().join(name);
    let source = folder.join(name).with_extension("c");
    let text = std::fs::read_to_string(&source).unwrap();
    let first = "struct encoder *e = encoder;\n    if (!e->count) e->first = id";
    assert!(text.contains(first), "{text}");
    let leak = "char *kept = parhelion_allocate(64);\n    if (kept) kept[0] = 1;\n    ";
    std::fs::write(&source, text.replacen(first, &format!("{leak}{first}"), 1)).unwrap();
    run(Command::new("make").arg("-C").arg(&folder).env("CC", "cc"));
    let forms: Vec<PathBuf> = ["so", "wasm"]
        .map(|ending| folder.join(name).with_extension(ending))
        .into_iter()
        .filter(|it| it.is_file())
        .collect();
    for form in forms {
        let entry = open(&form).unwrap_or_else(|refused| panic!("{refused}"));
        assert!(matches!(entry.plugin, Loaded::Code(_)));
        let found = examine(&entry.plugin, &Parameters::new(), 72, &mut |_| {});
        let error = found.expect_err("it leaks");
        assert_eq!(error.promise(), Some("endurance"), "{}: {error}", form.display());
    }
}
