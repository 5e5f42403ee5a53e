//! Builds real plugins, with what the machine has: clang for C; for Rust to WebAssembly the target of rustup, or another
//! rustc that has one.

#![allow(dead_code)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use parhelion_plugin::{DurabilityModel, ErasureCode};
use parhelion_plugin_host::{Entry, Loaded, open};

/// A folder of built plugins, which goes away with it.
pub struct Workshop {
    folder: tempfile::TempDir,
}

/// Exports of a code, which a linker that is given an archive must be told.
const EXPORTS: [&str; 12] = [
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
    "own_risk",
];

impl Workshop {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// An example with some of its text replaced.
    pub fn mutant(&self, name: &str, of: &str, changes: &[(&str, &str)]) -> PathBuf {
        let mut text = std::fs::read_to_string(example(of)).unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "{of} has no {from:?} any more");
            text = text.replacen(from, to, 1);
        }
        // The SDK is not beside it any more.
        let text = text.replace("../sdk/", &format!("{}/", plugins().join("sdk").display()));
        let path = self.path().join(name).with_extension(Path::new(of).extension().unwrap());
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A C source as a shared library called `name`.so.
    pub fn c_library(&self, source: &Path, name: &str, flags: &[&str]) -> PathBuf {
        let out = self.path().join(name).with_extension("so");
        let mut clang = Command::new("clang");
        clang.args(["-shared", "-fPIC"]);
        self.c(clang, source, &out, flags)
    }

    /// A C source as a module called `name`.wasm; none where no linker for WebAssembly is installed.
    pub fn c_module(&self, source: &Path, name: &str, flags: &[&str]) -> Option<PathBuf> {
        let out = self.path().join(name).with_extension("wasm");
        let mut linker = OsString::from("-fuse-ld=");
        linker.push(wasm_linker()?);
        let mut clang = Command::new("clang");
        clang.args(["--target=wasm32", "-mbulk-memory", "-msimd128", "-nostdlib"]).arg(linker);
        clang.args(["-Wl,--no-entry", "-Wl,--export-dynamic"]);
        Some(self.c(clang, source, &out, flags))
    }

    fn c(&self, mut clang: Command, source: &Path, out: &Path, flags: &[&str]) -> PathBuf {
        clang.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-I"]).arg(plugins().join("sdk"));
        clang.args(flags).arg("-o").arg(out).arg(source);
        run(&mut clang);
        out.to_owned()
    }

    /// A Rust source as a shared library.
    pub fn rust_library(&self, source: &Path, name: &str, flags: &[&str]) -> PathBuf {
        let out = self.path().join(name).with_extension("so");
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition", "2021", "-O", "--crate-type", "cdylib", "--crate-name", "plugin"]);
        run(rustc.args(flags).arg("-o").arg(&out).arg(source));
        out
    }

    /// A Rust source as a module; none where nothing can build it.
    pub fn rust_module(&self, source: &Path, name: &str) -> Option<PathBuf> {
        const TARGET: &str = "wasm32-unknown-unknown";
        let out = self.path().join(name).with_extension("wasm");
        let linker = wasm_linker()?;
        let rustc = ["rustc", "/usr/bin/rustc"].into_iter().find(|rustc| {
            let libraries =
                Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
            libraries.is_ok_and(|output| {
                output.status.success() && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir()
            })
        })?;
        // A distribution's rustc comes without its linker, so the objects are linked apart.
        let archive = self.path().join(name).with_extension("a");
        let mut compile = Command::new(rustc);
        compile.args(["--edition", "2021", "-O", "--crate-type", "staticlib", "--crate-name", "plugin"]);
        compile.args([
            "--target",
            TARGET,
            "-C",
            "target-feature=+simd128,+bulk-memory",
            "-C",
            "panic=abort",
            "-o",
        ]);
        run(compile.arg(&archive).arg(source));
        let mut link = Command::new(linker);
        link.args(["--no-entry", "--gc-sections", "--strip-all"]);
        link.args(EXPORTS.map(|name| format!("--export-if-defined=parhelion_{name}")));
        // What nobody refers to is not taken out of an archive, unless it is asked for.
        link.args(EXPORTS.map(|name| format!("--undefined=parhelion_{name}")));
        run(link.arg(&archive).arg("-o").arg(&out));
        Some(out)
    }
}

/// The folder of all plugins. As it is now: a checkout elsewhere may have built this.
pub fn plugins() -> PathBuf {
    let host = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    Path::new(&host).parent().unwrap().to_owned()
}

pub fn example(name: &str) -> PathBuf {
    plugins().join("examples").join(name)
}

pub fn template() -> PathBuf {
    plugins().join("template/src/lib.rs")
}

/// The template, compiled in.
pub fn built_in_template() -> Arc<dyn ErasureCode> {
    // The table of the template is one of this ABI, declared in its own copy of the SDK.
    let table = (&raw const parhelion_plugin_template::PLUGIN).cast();
    // SAFETY: that copy is the same file, so the two types have the same layout.
    let table = unsafe { &*table };
    match parhelion_plugin_library::built_in(table).unwrap() {
        Loaded::Code(code) => code,
        Loaded::Model(model) => panic!("{model:?} is no code"),
    }
}

pub fn entry(file: &Path) -> Entry {
    open(file).unwrap_or_else(|refused| panic!("{refused}"))
}

pub fn code(file: &Path) -> Arc<dyn ErasureCode> {
    match entry(file).plugin {
        Loaded::Code(code) => code,
        Loaded::Model(model) => panic!("{model:?} is no code"),
    }
}

pub fn model(file: &Path) -> Arc<dyn DurabilityModel> {
    match entry(file).plugin {
        Loaded::Model(model) => model,
        Loaded::Code(code) => panic!("{code:?} is no model"),
    }
}

/// `wasm-ld`, or the one that rustup brings.
fn wasm_linker() -> Option<PathBuf> {
    let rustup = Command::new("rustc").args(["--print", "sysroot"]).output().ok().map(|output| {
        let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        sysroot.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/gcc-ld/wasm-ld")
    });
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths)
        .flat_map(|path| ["wasm-ld", "wasm-ld-14", "wasm-ld-15", "wasm-ld-16"].map(|name| path.join(name)))
        .chain(rustup)
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: no wasm-ld on this machine; install lld, or Rust by rustup");
    }
    found
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
