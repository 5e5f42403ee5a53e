//! Plugins on a running link: loaded from a folder, chosen, swapped, and replaced when they break.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use parhelion_e2e::{At, Pair, PairOptions, payload, poll, skip};
use parhelion_types::{Degrade, LogId};
use serde_json::Value;

use crate::{SOON, on_the_wire};

/// The example in C, with some of its text replaced.
fn source(folder: &Path, name: &str, changes: &[(&str, &str)]) -> PathBuf {
    let mut text = std::fs::read_to_string(plugins().join("examples/xor-parity.c")).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "the example has no {from:?} any more");
        text = text.replacen(from, to, 1);
    }
    let path = folder.join(name).with_extension("c");
    std::fs::write(&path, text).unwrap();
    path
}

/// The folder of all plugins. As it is now: a checkout elsewhere may have built this.
fn plugins() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    Path::new(&here).join("../../plugins")
}

fn clang(flags: &[&str], source: &Path, out: &Path) {
    let mut clang = Command::new("clang");
    clang.args(["-std=c11", "-O2"]).args(flags).arg("-I").arg(plugins().join("sdk"));
    let built = clang.arg("-o").arg(out).arg(source).output().expect("clang is here, as RocksDB needs it");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

fn library(folder: &Path, source: &Path, name: &str) {
    clang(&["-shared", "-fPIC"], source, &folder.join(name).with_extension("so"));
}

/// Whether it was built: a linker for WebAssembly comes with rustc, in most installations.
fn module(folder: &Path, source: &Path, name: &str) -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().expect("cargo runs the tests");
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    let linker = sysroot.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/gcc-ld/wasm-ld");
    if !linker.is_file() {
        skip(&format!("no linker for WebAssembly at {}", linker.display()));
        return false;
    }
    let linker = format!("-fuse-ld={}", linker.display());
    let flags =
        ["--target=wasm32", "-mbulk-memory", "-nostdlib", &linker, "-Wl,--no-entry", "-Wl,--export-dynamic"];
    clang(&flags, source, &folder.join(name).with_extension("wasm"));
    true
}

async fn append(pair: &Pair, log: LogId, numbers: std::ops::Range<u64>, bytes: usize) {
    let client = pair.client(At::Primary).await;
    for number in numbers {
        client.append(log, payload(number, bytes), on_the_wire()).await.expect("acknowledged");
    }
}

fn status(pair: &Pair) -> Value {
    pair.tool(At::Primary, &["link", "status", "--json"]).run().done().json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_runs_the_link_and_is_swapped_live() {
    let folder = tempfile::tempdir().unwrap();
    let one = source(folder.path(), "one", &[]);
    library(folder.path(), &one, "one");
    let two = source(folder.path(), "two", &[("\\\"version\\\": 1", "\\\"version\\\": 2")]);
    let has_module = module(folder.path(), &two, "two");
    std::fs::write(folder.path().join("broken.wasm"), b"this is no module").unwrap();
    let options = PairOptions::default()
        .apart(Duration::from_millis(5))
        .both("plugins.directory", folder.path().display())
        .both("plugins.libraries", true)
        .primary("link.code", "xor-parity-c@1");
    let pair = Pair::start(options).await;
    // What cannot be loaded is named at both, and they run on.
    for site in [&pair.primary, &pair.mirror] {
        let text = std::fs::read_to_string(site.spec.log()).unwrap();
        assert!(text.contains("broken.wasm") && text.contains("the node runs on without a plugin"), "{text}");
    }
    let log = pair.client(At::Primary).await.create("orders", Degrade::Block).await.unwrap();
    assert_eq!(status(&pair)["code"], "xor-parity-c v1 r=8");
    append(&pair, log, 0..50, 20_000).await;
    if has_module {
        let change = ["link", "code", "xor-parity-c@2", "r=4", "--json"];
        let changed = pair.tool(At::Primary, &change).run().done().json();
        assert_eq!(changed["code"], "xor-parity-c v2 r=4");
        append(&pair, log, 50..100, 20_000).await;
    }
    drop(pair.tool(At::Primary, &["link", "code", "layered-interleaving", "--json"]).run().done());
    append(&pair, log, 100..120, 20_000).await;
    pair.mirrored().await;
    pair.verify();
    let link = &status(&pair)["link"];
    assert!(link["repairs_sent"].as_u64().unwrap() > 100, "{link}");
    assert_eq!((link["sessions"].as_u64(), link["code_faults"].as_u64()), (Some(1), Some(0)), "{link}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_loops_is_replaced_by_a_built_in_code() {
    let folder = tempfile::tempdir().unwrap();
    // Later than the conformance kit looks: it has to be caught on the link.
    let looping = source(
        folder.path(),
        "looping",
        &[
            ("uint32_t r, count, bytes;", "uint32_t r, count, bytes, seen;"),
            (
                "    if (!e->count) e->first = id",
                "    if (++e->seen > 40000) for (volatile int k = 0;; k++);\n    if (!e->count) e->first = id",
            ),
        ],
    );
    if !module(folder.path(), &looping, "looping") {
        return;
    }
    let options = PairOptions::default()
        .apart(Duration::from_millis(2))
        .both("plugins.directory", folder.path().display())
        .primary("link.code", "xor-parity-c");
    let pair = Pair::start(options).await;
    let log = pair.client(At::Primary).await.create("orders", Degrade::Block).await.unwrap();
    // 60 appends of 1 MB are some 46,000 symbols.
    append(&pair, log, 0..60, 1_000_000).await;
    let link = poll("the link goes on with another code", SOON, || async {
        let status = status(&pair);
        (status["code"].as_str()?.starts_with("layered-interleaving") && status["linked"] == true)
            .then_some(status)
    })
    .await;
    assert_eq!(link["link"]["code_faults"], 1, "{link}");
    let text = std::fs::read_to_string(pair.primary.spec.log()).unwrap();
    assert!(text.contains("xor-parity-c v1 r=8 broke here"), "{text}");
    append(&pair, log, 60..70, 100_000).await;
    pair.mirrored().await;
    pair.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_one_site_lacks_is_refused_with_both_named() {
    let folder = tempfile::tempdir().unwrap();
    library(folder.path(), &source(folder.path(), "one", &[]), "one");
    let options = PairOptions::default()
        .primary("plugins.directory", folder.path().display())
        .primary("plugins.libraries", true);
    let pair = Pair::start(options).await;
    let refused = pair.tool(At::Primary, &["link", "code", "xor-parity-c"]).run();
    refused.refused(2, &["the mirror does not take the code", "xor-parity-c", "not known here"]);
    let code = status(&pair)["code"].as_str().unwrap().to_owned();
    assert!(code.starts_with("layered-interleaving"), "{code}");
}
