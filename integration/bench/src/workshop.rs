//! Builds plugins as their authors do, in both forms, with what the machine has.

use std::path::{Path, PathBuf};
use std::process::Command;

use parhelion_plugin_host::Kind;
use parhelion_plugin_kit::project::{Language, create};

/// The files of one plugin.
#[derive(Debug)]
pub(crate) struct Forms {
    /// The shared library.
    pub library: PathBuf,
    /// The WebAssembly module.
    pub module: PathBuf,
}

/// What `parhelion plugin new --language c` and `make` give: XOR parity. None where a tool is missing.
pub(crate) fn xor_parity(folder: &Path) -> Option<Forms> {
    const NAME: &str = "xor-parity-bench";
    create(folder, NAME, Language::C, Kind::Code).ok()?;
    let file = folder.join(NAME).join(NAME);
    run(Command::new("make").arg("-C").arg(folder.join(NAME)).env("CC", "cc"))?;
    forms(file.with_extension("so"), file.with_extension("wasm"))
}

/// The example in Rust, triple parity. None where no rustc has the target, or no linker for it is there.
pub(crate) fn triple_parity(folder: &Path) -> Option<Forms> {
    const TARGET: &str = "wasm32-unknown-unknown";
    const FILES: [(&str, &str); 3] = [
        ("examples/triple-parity.rs", include_str!("../../../plugins/examples/triple-parity.rs")),
        ("sdk/parhelion_plugin.rs", include_str!("../../../plugins/sdk/parhelion_plugin.rs")),
        ("sdk/parhelion_window.rs", include_str!("../../../plugins/sdk/parhelion_window.rs")),
    ];
    for (file, text) in FILES {
        let file = folder.join(file);
        std::fs::create_dir_all(file.parent()?).ok()?;
        std::fs::write(file, text).ok()?;
    }
    let source = folder.join(FILES[0].0);
    let library = folder.join("triple.so");
    let edition = ["--edition", "2021", "-O", "--crate-name", "plugin", "--crate-type"];
    run(Command::new("rustc").args(edition).arg("cdylib").arg("-o").arg(&library).arg(&source))?;
    // A distribution's compiler may have the target where rustup's has not; it comes without a linker, so objects are
    // linked apart.
    let linker = wasm_linker()?;
    let has_target = |rustc: &&str| {
        let found = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
        found.is_ok_and(|it| {
            it.status.success() && Path::new(String::from_utf8_lossy(&it.stdout).trim()).is_dir()
        })
    };
    let rustc = ["rustc", "/usr/bin/rustc"].into_iter().find(has_target)?;
    let (archive, module) = (folder.join("triple.a"), folder.join("triple.wasm"));
    let mut compile = Command::new(rustc);
    compile.args(edition).args([
        "staticlib",
        "--target",
        TARGET,
        "-C",
        "target-feature=+simd128",
        "-C",
        "panic=abort",
    ]);
    run(compile.arg("-o").arg(&archive).arg(&source))?;
    let mut link = Command::new(linker);
    link.args(["--no-entry", "--gc-sections", "--strip-all"]);
    for name in EXPORTS {
        link.arg(format!("--export-if-defined=parhelion_{name}"))
            .arg(format!("--undefined=parhelion_{name}"));
    }
    run(link.arg(&archive).arg("-o").arg(&module))?;
    forms(library, module)
}

/// What a linker must be told to take out of an archive.
const EXPORTS: [&str; 11] = [
    "abi",
    "alloc",
    "describe",
    "structure",
    "encoder_new",
    "encoder_source",
    "encoder_flush",
    "decoder_new",
    "decoder_source",
    "decoder_repair",
    "decoder_expire",
];

/// `wasm-ld` under whatever version, or the one that rustup brings.
fn wasm_linker() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let versions = (14..30).map(|version| format!("wasm-ld-{version}"));
    let names: Vec<String> = std::iter::once("wasm-ld".to_owned()).chain(versions).collect();
    let installed: Vec<PathBuf> = std::env::split_paths(&paths)
        .flat_map(|path| names.iter().map(move |name| path.join(name)))
        .collect();
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    let targets = Path::new(String::from_utf8_lossy(&sysroot.stdout).trim()).join("lib/rustlib");
    let rustup = std::fs::read_dir(targets).into_iter().flatten().flatten();
    let rustup = rustup.map(|target| target.path().join("bin/gcc-ld/wasm-ld"));
    installed.into_iter().chain(rustup).find(|path| path.is_file())
}

fn forms(library: PathBuf, module: PathBuf) -> Option<Forms> {
    (library.is_file() && module.is_file()).then_some(Forms { library, module })
}

/// Whether it was there and did its work.
fn run(command: &mut Command) -> Option<()> {
    match command.output() {
        Ok(output) if output.status.success() => Some(()),
        Ok(output) => {
            eprintln!("  {command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
            None
        }
        Err(error) => {
            eprintln!("  {command:?}: {error}");
            None
        }
    }
}
