//! Plugins that are wrong or mean: each is the example with one change, and each is stopped and named.

mod common;

use std::time::{Duration, Instant};

use common::Workshop;
use parhelion_plugin::conformance::check_quickly;
use parhelion_plugin::{
    Channel, Code, Cover, DurabilityModel, Encoder, Exposure, Parameters, RecoveredSink, RepairHead,
    RepairSink,
};
use parhelion_plugin_host::{Catalogue, Libraries, Loaded};
use parhelion_types::Risk;

#[derive(Default)]
struct Sink {
    repairs: Vec<(RepairHead, Vec<u8>)>,
    recovered: u64,
}

impl RepairSink for Sink {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        self.repairs.push((head, payload.to_vec()));
    }
}

impl RecoveredSink for Sink {
    fn recovered(&mut self, _id: u64, _payload: &[u8]) {
        self.recovered += 1;
    }
}

/// Longer than a call that burns all its fuel, even on a busy machine.
const SOON: Duration = Duration::from_secs(5);

fn encode(encoder: &mut dyn Encoder, ids: std::ops::Range<u64>) -> Sink {
    let mut sink = Sink::default();
    for id in ids {
        encoder.source(id, &[id as u8; 100], &mut sink);
    }
    encoder.flush(&mut sink);
    sink
}

#[test]
fn an_encoder_that_breaks_falls_silent_and_says_why() {
    const STEP: &str = "    add(e->sum, payload, bytes);\n";
    const HEAD: &str = ".stride = 1, .count = (uint16_t)e->count}";
    let workshop = Workshop::new();
    let breaks = [
        ("loops", STEP, "for (volatile int k = 0;;) k++;", "ran out of fuel"),
        ("traps", STEP, "__builtin_trap();", "gave up: a panic"),
        ("divides", STEP, "e->bytes /= (uint32_t)(bytes - 100);", "trapped: "),
        (
            "grows",
            STEP,
            "for (;;) *(char *)parhelion_allocate(1 << 20) = 1;",
            "trapped: wasm trap: out of bounds memory",
        ),
        (
            "grows-on",
            STEP,
            "for (;;) if (!parhelion_allocate(1 << 20)) __builtin_trap();",
            "memory beyond its limit",
        ),
        ("reads", STEP, "e->bytes += *(volatile uint32_t *)0xfffffff0;", "out of bounds memory"),
        ("outbox", STEP, "e->outbox = (void *)0xfffffff0;", "points to address 0xfffffff0, which is outside"),
        (
            "payload",
            STEP,
            "e->repair.payload = 0xffffff00; e->repair.bytes = 9; e->repair.stride = 1;\
            e->repair.count = 1; e->repair.id = id; return 1;",
            "not in its memory",
        ),
        (
            "wide",
            STEP,
            "e->repair = (struct parhelion_symbol){.id = id, .payload = 1ull << 40, .bytes = 9,\
            .stride = 1, .count = 1}; return 1;",
            "not in its memory",
        ),
        ("gives-up", STEP, "return -7;", "gave up with result -7"),
        ("floods", STEP, "return 1 << 30;", "gave 1073741824 symbols at once"),
        ("no-count", HEAD, ".stride = 1, .count = 0}", "gave a repair that is none"),
        ("no-stride", HEAD, ".stride = 0, .count = 1}", "gave a repair that is none"),
        ("index", HEAD, ".stride = 1, .count = 1, .index = 1}", "gave a repair that is none"),
        ("far-index", HEAD, ".stride = 1, .count = 1, .index = 0x100}", "gave a repair that is none"),
        ("empty", ".bytes = e->bytes,", ".bytes = 0,", "gave a repair that is none"),
        ("long", ".bytes = e->bytes,", ".bytes = 101,", "gave a repair that is none"),
        ("future", HEAD, ".stride = 2, .count = (uint16_t)e->count}", "was not given lately"),
        ("past", ".id = e->first,", ".id = e->first - 1,", "was not given lately"),
        ("wraps", ".id = e->first,", ".id = ~(uint64_t)0,", "was not given lately"),
        ("old", ".id = e->first,", ".id = e->first - 8,", "was not given lately"),
    ];
    for (name, from, to, said) in breaks {
        let source = workshop.mutant(name, "xor-parity.c", &[(from, to)]);
        let Some(module) =
            workshop.c_module(&source, name, &["-Wno-unused-parameter", "-Wno-unused-function"])
        else {
            return;
        };
        let code = common::code(&module);
        // A stream that is older than its first symbols, for the repair of those that are long gone.
        let mut encoder = code.encoder(&Parameters::new(), 100).unwrap();
        let start = Instant::now();
        let sink = encode(encoder.as_mut(), 50..70);
        assert!(start.elapsed() < SOON, "{name} took {:?}", start.elapsed());
        let fault = encoder.fault().unwrap_or_else(|| panic!("{name} is not found out")).to_owned();
        assert!(fault.starts_with("code xor-parity-c v1 ") && fault.contains(said), "{name}: {fault}");
        assert!(sink.repairs.len() <= 1, "{name} gave {} repairs", sink.repairs.len());
        // It is not called again, and the next one is as good as new.
        assert!(encode(encoder.as_mut(), 70..100).repairs.is_empty());
        assert_eq!(encoder.fault(), Some(&*fault));
        assert!(code.encoder(&Parameters::new(), 100).unwrap().fault().is_none());
    }
}

#[test]
fn an_encoder_that_is_slow_runs_dry() {
    let workshop = Workshop::new();
    let change = ("    add(e->sum,", "    for (volatile int k = 0; k < 30000; k++) {}\n    add(e->sum,");
    let source = workshop.mutant("slow", "xor-parity.c", &[change]);
    let Some(module) = workshop.c_module(&source, "slow", &[]) else { return };
    let mut encoder = common::code(&module).encoder(&Parameters::new(), 100).unwrap();
    assert!(encode(encoder.as_mut(), 0..16).repairs.len() == 2, "a burst of work is allowed");
    encode(encoder.as_mut(), 16..2000);
    assert!(encoder.fault().is_some_and(|fault| fault.contains("ran out of fuel")), "{:?}", encoder.fault());
}

/// A panic does not unwind into the host, in neither form.
#[test]
fn panics_stay_in_the_plugin() {
    let workshop = Workshop::new();
    let panic = (
        "        self.count += 1;",
        "        if id == 9 { panic!(\"what now?\") }\n        self.count += 1;",
    );
    let source = workshop.mutant("panics", "triple-parity.rs", &[panic]);
    let library = workshop.rust_library(&source, "panics", &[]);
    let module = workshop.rust_module(&source, "panics");
    for (file, said) in [(Some(library), "gave up with result -100"), (module, "gave up: a panic")] {
        let Some(file) = file else { continue };
        let mut encoder = common::code(&file).encoder(&Parameters::new(), 100).unwrap();
        assert_eq!(encode(encoder.as_mut(), 0..20).repairs.len(), 3);
        assert!(encoder.fault().is_some_and(|fault| fault.contains(said)), "{:?}", encoder.fault());
    }
}

#[test]
fn a_decoder_that_breaks_falls_silent_and_says_why() {
    let workshop = Workshop::new();
    let recovered = "d->recovered = (struct parhelion_symbol){.id = lost, .payload = PARHELION_ADDRESS(d->scratch), .bytes = bytes};";
    let breaks = [
        ("loops", recovered, "for (volatile int k = 0;;) k++;", "ran out of fuel"),
        ("unheard", ".id = lost, .payload", ".id = lost + 1000000, .payload", "rebuilt symbol 1000003"),
        (
            "expired",
            ".id = lost, .payload",
            ".id = 1, .payload",
            "rebuilt symbol 1 of 100 bytes, where 2 to 7 are wanted",
        ),
        ("empty", ".bytes = bytes};", ".bytes = 0};", "of 0 bytes"),
        ("long", ".bytes = bytes};", ".bytes = 101};", "of 101 bytes"),
        ("outside", "PARHELION_ADDRESS(d->scratch), .bytes", "0xfffffff0, .bytes", "not in its memory"),
        ("refuses", recovered, "return -99;", "gave up with result -99"),
    ];
    for (name, from, to, said) in breaks {
        let source = workshop.mutant(name, "xor-parity.c", &[(from, to)]);
        let Some(module) = workshop.c_module(&source, name, &[]) else { return };
        let code = common::code(&module);
        let mut encoder = code.encoder(&Parameters::new(), 100).unwrap();
        let mut decoder = code.decoder(&Parameters::new(), 100).unwrap();
        let repairs = encode(encoder.as_mut(), 0..8).repairs;
        let (head, payload) = &repairs[0];
        let mut sink = Sink::default();
        decoder.expire(2);
        for id in (0..8).filter(|&id| id != 3) {
            decoder.source(id, &[id as u8; 100], &mut sink);
        }
        let start = Instant::now();
        decoder.repair(*head, payload, &mut sink).unwrap();
        assert!(start.elapsed() < SOON, "{name} took {:?}", start.elapsed());
        let fault = decoder.fault().unwrap_or_else(|| panic!("{name} is not found out")).to_owned();
        assert!(fault.starts_with("code xor-parity-c v1 ") && fault.contains(said), "{name}: {fault}");
        // A repair that is none is refused even now, and a true one is taken without a word.
        let none = RepairHead { cover: Cover { count: 0, ..head.cover }, index: 0 };
        assert!(decoder.repair(none, payload, &mut sink).is_err());
        assert!(decoder.repair(*head, payload, &mut sink).is_ok() && sink.recovered == 0);
    }
}

/// What loading the example with these changes says, as a library and as a module.
fn refusals(workshop: &Workshop, name: &str, changes: &[(&str, &str)], flags: &[&str]) -> Vec<String> {
    let source = workshop.mutant(name, "xor-parity.c", changes);
    let flags = [flags, &["-Wno-unused-parameter"]].concat();
    let library = Some(workshop.c_library(&source, name, &flags));
    let files = library.into_iter().chain(workshop.c_module(&source, name, &flags));
    files.map(|file| parhelion_plugin_host::open(&file).expect_err(name).to_string()).collect()
}

#[test]
fn what_cannot_be_loaded_is_refused_with_reason_and_remedy() {
    let workshop = Workshop::new();
    let structure = ["    out->kind = PARHELION_BLOCK;\n", "    out->depth = 1;\n"];
    let other_abi =
        "#include \"parhelion_window.h\"\n#undef PARHELION_ABI\n#define PARHELION_ABI 0x00020003u\n";
    let include = "#include \"parhelion_window.h\"\n";
    let say = "const char *text = \"r is odd today; make it even\";\
              for (int k = 0; k < 29; k++) reason[k] = text[k]; return -1;";
    for (name, change, said) in [
        (
            "abi",
            (include, other_abi),
            "has plugin ABI 2.3, and this node has 1.0; build it again with the SDK",
        ),
        (
            "description",
            ("\\\"max\\\": 64", "\\\"max\\\": 0"),
            "its description is wrong: parameter r has min 1 above max 0",
        ),
        ("json", ("{\\\"kind\\\"", "[\\\"kind\\\""), "its description is wrong"),
        ("reason", (structure[0], say), "refuses: r is odd today; make it even"),
        ("result", (structure[0], "return -5;"), "result -5"),
        ("kind", (structure[0], "    out->kind = 77;\n"), "says that its structure is the kind 77"),
        ("depth", (structure[1], "    out->depth = 0;\n"), "where a number is 0 that counts something"),
    ] {
        for text in refusals(&workshop, name, &[change], &[]) {
            assert!(
                text.starts_with("plugin ") && text.contains(name) && text.contains(said),
                "{name}: {text}"
            );
        }
    }
    let unexported = ("int32_t parhelion_decoder_expire(", "int32_t something_else(");
    let source = workshop.mutant("missing", "xor-parity.c", &[unexported]);
    if let Some(module) = workshop.c_module(&source, "missing", &[]) {
        let text = parhelion_plugin_host::open(&module).unwrap_err().to_string();
        assert!(
            text.contains("has no exported function parhelion_decoder_expire, which a code needs"),
            "{text}"
        );
    }
    let texts = refusals(&workshop, "unmarked", &[("PARHELION_EXPORT_CODE", "")], &[]);
    assert!(
        texts[0].contains("has no symbol parhelion_plugin, which a plugin needs; is the export macro"),
        "{texts:?}"
    );
    assert!(
        texts.get(1).is_none_or(|text| text.contains("has no exported function parhelion_abi")),
        "{texts:?}"
    );
    #[rustfmt::skip]
    let holey = ("PARHELION_EXPORT_CODE",
        "PARHELION_EXPORT_TABLE(parhelion_structure, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)");
    let source = workshop.mutant("holey", "xor-parity.c", &[holey]);
    let text =
        parhelion_plugin_host::open(&workshop.c_library(&source, "holey", &[])).unwrap_err().to_string();
    assert!(text.contains("has no function encoder_new, which a code needs"), "{text}");
}

#[test]
fn modules_have_no_way_out() {
    let workshop = Workshop::new();
    let open = |name: &str, changes: &[(&str, &str)], flags: &[&str]| {
        let source = workshop.mutant(name, "xor-parity.c", changes);
        let module = workshop.c_module(&source, name, flags)?;
        Some(parhelion_plugin_host::open(&module).expect_err(name).to_string())
    };
    let import =
        ("#include \"parhelion_window.h\"\n", "#include \"parhelion_window.h\"\nextern int outside(void);\n");
    let call = ("    out->depth = 1;\n", "    out->depth = (uint32_t)outside();\n");
    let Some(text) = open("imports", &[import, call], &["-Wl,--allow-undefined"]) else { return };
    assert!(text.contains("imports env.outside, and a plugin may import nothing"), "{text}");
    let text = open("memory", &[], &["-Wl,--import-memory"]).unwrap();
    assert!(text.contains("imports env.memory"), "{text}");
    let text = open("large", &[], &["-Wl,--initial-memory=134217728"]).unwrap();
    assert!(text.contains("cannot run: ") && text.contains("memory"), "{text}");
    let text =
        open("endless", &[("    return \"{", "    for (volatile int k = 0;;) k++;\n    return \"{")], &[])
            .unwrap();
    assert!(text.contains("broke when it was tried: ran out of fuel"), "{text}");
    let text = open("nowhere", &[("    return \"{", "    return (char *)0xffffff00;\n    return \"{")], &[])
        .unwrap();
    assert!(text.contains("a text that is not there"), "{text}");
    let other = workshop.path().join("signature.c");
    std::fs::write(
        &other,
        "__attribute__((export_name(\"parhelion_abi\"))) long long f(void) { return 65536; }",
    )
    .unwrap();
    let module = workshop.c_module(&other, "signature", &[]).unwrap();
    let text = parhelion_plugin_host::open(&module).unwrap_err().to_string();
    assert!(text.contains("exports parhelion_abi with another signature"), "{text}");
}

#[test]
fn files_that_are_no_plugins_are_refused() {
    let workshop = Workshop::new();
    let write = |name: &str, bytes: &[u8]| {
        let path = workshop.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        parhelion_plugin_host::open(&path).unwrap_err().to_string()
    };
    assert!(write("text.wasm", b"hello").contains("is not a WebAssembly module: "));
    assert!(write("cut.wasm", b"\0asm\x01\0\0\0\x01").contains("is not a WebAssembly module: "));
    assert!(write("huge.wasm", &vec![0; (4 << 20) + 1]).contains("more than 4194304 bytes"));
    assert!(write("text.so", b"hello").contains("is not a shared library: "));
    assert!(write("plugin.dll", b"hello").contains("is neither a .so nor a .wasm file"));
    let gone = parhelion_plugin_host::open(&workshop.path().join("gone.wasm")).unwrap_err().to_string();
    assert!(gone.contains("cannot be read: "), "{gone}");
    let mut catalogue = Catalogue::built_in();
    let refused = catalogue.load(&workshop.path().join("nowhere"), Libraries::Trusted, &|_| Ok(()));
    assert!(refused[0].to_string().contains("create the folder, or correct its path"), "{refused:?}");
}

#[test]
fn libraries_need_trust() {
    use std::os::unix::fs::PermissionsExt;
    let workshop = Workshop::new();
    let library = workshop.c_library(&common::example("binomial.c"), "binomial", &[]);
    let mut catalogue = Catalogue::built_in();
    let refused = catalogue.load(workshop.path(), Libraries::Refused, &|_| Ok(()));
    assert!(refused[0].reason.contains("would run with all rights of the node"), "{refused:?}");
    std::fs::set_permissions(&library, PermissionsExt::from_mode(0o777)).unwrap();
    let refused = catalogue.load(workshop.path(), Libraries::Trusted, &|_| Ok(()));
    assert!(refused[0].reason.contains("may be written by any user of this machine"), "{refused:?}");
    std::fs::set_permissions(&library, PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(catalogue.load(workshop.path(), Libraries::Trusted, &|_| Ok(())), []);
    assert_eq!(catalogue.model("binomial").unwrap().version(), 1);
}

/// The kit refutes what no range check can see, and the others are loaded all the same.
#[test]
fn codes_that_lie_are_refuted_and_the_rest_is_loaded() {
    let workshop = Workshop::new();
    let wrong_bytes =
        ("    d->recovered = (struct", "    d->scratch[bytes / 2] ^= 1;\n    d->recovered = (struct");
    let mutants = [
        ("a-wrong-bytes", wrong_bytes, "coverage claims"),
        ("b-claims-two", ("out->c = 1;", "out->c = 2;"), "coverage"),
        (
            "c-forgets",
            (
                "    if (!e->count) return 0;",
                "    if (e->count == 3) e->count = 0;\n    if (!e->count) return 0;",
            ),
            "coverage",
        ),
    ];
    for (n, (name, change, _)) in mutants.into_iter().enumerate() {
        let number = format!("\\\"name\\\": \\\"mutant-{n}\\\"");
        let source =
            workshop.mutant(name, "xor-parity.c", &[change, ("\\\"name\\\": \\\"xor-parity-c\\\"", &number)]);
        if workshop.c_module(&source, name, &[]).is_none() {
            return;
        }
    }
    workshop.c_module(&common::example("xor-parity.c"), "z-good", &[]);
    workshop.c_module(&common::example("binomial.c"), "z-model", &[]);
    let kit = |plugin: &Loaded| match plugin {
        Loaded::Code(code) => {
            check_quickly(code.as_ref(), &Parameters::new(), 73).map(|_| ()).map_err(|v| v.to_string())
        }
        Loaded::Model(_) => Ok(()),
    };
    let mut catalogue = Catalogue::built_in();
    let refused = catalogue.load(workshop.path(), Libraries::Refused, &kit);
    assert_eq!(refused.len(), mutants.len(), "{refused:?}");
    for (refused, (name, _, promise)) in refused.iter().zip(&mutants) {
        let text = refused.to_string();
        assert!(text.contains(name) && text.contains(&format!("fails conformance, {promise}: ")), "{text}");
    }
    assert!(catalogue.code("xor-parity-c").is_ok() && catalogue.model("binomial").is_ok());
    assert!(catalogue.code("mutant-0").is_err());
}

#[test]
fn a_model_that_answers_nonsense_promises_nothing_any_more() {
    const ANSWER: &str = "    return any < 1 ? any : 1;";
    let workshop = Workshop::new();
    let catalogue = Catalogue::built_in();
    let code = Code::new(catalogue.code("reed-solomon").unwrap(), &Parameters::new()).unwrap();
    let channel = Channel::independent(1e-3, 0.999);
    let ask = |model: &dyn DurabilityModel, symbols| {
        model.own_risk(&channel, &code, &Exposure::steady(symbols, 0b111, 8))
    };
    for (name, answer, said) in [
        ("nan", "any / 0 - any / 0", "answered a risk of NaN, which is not from 0 to 1"),
        ("negative", "-any", "which is not from 0 to 1"),
        ("above", "2", "answered a risk of 2, which is not from 0 to 1"),
        ("loops", "({ for (volatile int k = 0;;) k++; any; })", "ran out of fuel"),
        ("traps", "({ __builtin_trap(); any; })", "gave up"),
    ] {
        // Only appends of 77 symbols show it, so that loading does not.
        let late = format!("    if (q->symbols == 77) return {answer};\n{ANSWER}");
        let source = workshop.mutant(name, "binomial.c", &[(ANSWER, &late)]);
        let library = (!matches!(name, "loops" | "traps")).then(|| workshop.c_library(&source, name, &[]));
        for file in library.into_iter().chain(workshop.c_module(&source, name, &[])) {
            let model = common::model(&file);
            assert!(ask(model.as_ref(), 4) < Risk::CERTAIN);
            assert_eq!(model.fault(), None);
            let start = Instant::now();
            assert_eq!(ask(model.as_ref(), 77), Risk::CERTAIN);
            assert!(start.elapsed() < SOON, "{name} took {:?}", start.elapsed());
            assert_eq!(ask(model.as_ref(), 4), Risk::CERTAIN, "{name}: who errs once is not believed again");
            let fault = model.fault().unwrap();
            assert!(
                fault.starts_with("durability model binomial v1 ") && fault.contains(said),
                "{name}: {fault}"
            );
            let why = model.explain(&channel, &code, &Exposure::steady(4, 0b111, 8)).unwrap();
            assert!(why.contains(fault) && why.contains("another model"), "{why}");
        }
        // At once, it is not even loaded.
        let now = format!("    return {answer};");
        let source = workshop.mutant(name, "binomial.c", &[(ANSWER, &now)]);
        let Some(module) = workshop.c_module(&source, name, &["-Wno-unused-variable"]) else { continue };
        let text = parhelion_plugin_host::open(&module).unwrap_err().to_string();
        assert!(text.contains("broke when it was tried: ") && text.contains(said), "{name}: {text}");
    }
}
