//! Well-behaved plugins: they conform in every form, and give the same repairs in all of them.

mod common;

use std::time::{Duration, Instant};

use common::Workshop;
use parhelion_plugin::conformance::{Effort, Stream, Traffic, check, check_model};
use parhelion_plugin::{Channel, Code, ErasureCode, Exposure, Parameters};
use parhelion_plugin_host::{Catalogue, Libraries, Origin};

fn conforms(code: &dyn ErasureCode, texts: &[&str]) {
    for text in texts {
        let parameters: Parameters = text.parse().unwrap();
        let report = check(code, &parameters, 71).unwrap_or_else(|violation| panic!("{code:?}: {violation}"));
        assert!(report.recovered > 0, "{code:?} {text}: {report:?}");
    }
}

/// What a sender with this code puts on the wire.
fn stream(code: &dyn ErasureCode, parameters: &str) -> Stream {
    let traffic =
        Traffic { first: 1000, symbols: 999, symbol_bytes: 1201, uneven: true, flush_chance: 0.03, seed: 72 };
    Stream::encode(code, &parameters.parse().unwrap(), &traffic).unwrap()
}

#[test]
fn the_template_is_one_code_in_three_forms() {
    let workshop = Workshop::new();
    let built_in = common::built_in_template();
    let mut forms = vec![common::code(&workshop.rust_library(&common::template(), "template", &[]))];
    match workshop.rust_module(&common::template(), "template") {
        Some(module) => forms.push(common::code(&module)),
        None => {
            eprintln!("SKIPPED: the WebAssembly form; no rustc here has the target wasm32-unknown-unknown")
        }
    }
    conforms(built_in.as_ref(), &["r=8", "r=1", "r=5"]);
    for form in &forms {
        assert_eq!((form.name(), form.version()), (built_in.name(), built_in.version()));
        assert_eq!(form.parameters(), built_in.parameters());
        conforms(form.as_ref(), &["r=8", "r=5"]);
        for parameters in ["", "r=1", "r=64"] {
            assert_eq!(stream(form.as_ref(), parameters), stream(built_in.as_ref(), parameters));
        }
    }
}

#[test]
fn the_example_in_c_is_one_code_in_two_forms() {
    let workshop = Workshop::new();
    let library = common::code(&workshop.c_library(&common::example("xor-parity.c"), "xor", &[]));
    conforms(library.as_ref(), &["r=8", "r=1"]);
    assert_eq!(stream(library.as_ref(), "r=7"), stream(common::built_in_template().as_ref(), "r=7"));
    let Some(module) = workshop.c_module(&common::example("xor-parity.c"), "xor", &[]) else { return };
    let module = common::code(&module);
    conforms(module.as_ref(), &["r=8", "r=1"]);
    assert_eq!(stream(module.as_ref(), "r=7"), stream(library.as_ref(), "r=7"));
}

#[test]
fn triple_parity_conforms_in_two_forms() {
    let workshop = Workshop::new();
    let library = common::code(&workshop.rust_library(&common::example("triple-parity.rs"), "triple", &[]));
    conforms(library.as_ref(), &["r=8 c=3", "r=8 c=2", "r=1 c=1", "r=20 c=3", "r=128 c=3"]);
    let Some(module) = workshop.rust_module(&common::example("triple-parity.rs"), "triple") else {
        eprintln!("SKIPPED: the WebAssembly form; no rustc here has the target wasm32-unknown-unknown");
        return;
    };
    let module = common::code(&module);
    conforms(module.as_ref(), &["r=8 c=3", "r=3 c=2", "r=20 c=3"]);
    for parameters in ["", "r=5 c=2", "r=128 c=3"] {
        assert_eq!(stream(module.as_ref(), parameters), stream(library.as_ref(), parameters));
    }
}

#[test]
fn a_model_answers_the_same_in_two_forms() {
    let workshop = Workshop::new();
    let library = common::model(&workshop.c_library(&common::example("binomial.c"), "binomial", &[]));
    let module =
        workshop.c_module(&common::example("binomial.c"), "binomial", &[]).map(|file| common::model(&file));
    let built_in = Catalogue::built_in();
    let bound = built_in.model("iid-bound").unwrap();
    let codes =
        [("reed-solomon", "r=8 c=3"), ("repetition", "copies=2"), ("layered-interleaving", ""), ("none", "")];
    for (name, parameters) in codes {
        let code = Code::new(built_in.code(name).unwrap(), &parameters.parse().unwrap()).unwrap();
        for loss in [0.0, 1e-6, 0.01, 0.3, 1.0, f64::NAN] {
            for exposure in
                [Exposure::steady(1, 0b111, 8), Exposure::steady(50, 0b11, 3), Exposure::steady(9, 0, 0)]
            {
                let channel = Channel { loss, ..Channel::bursty(0.01, 3.0, 0.999) };
                let risk = library.own_risk(&channel, &code, &exposure);
                if let Some(module) = &module {
                    assert_eq!(module.own_risk(&channel, &code, &exposure), risk);
                }
                // The union bound is never below what the built-in model sums up, and close to it where both are small.
                let exact = bound.own_risk(&channel, &code, &exposure).probability();
                let risk = risk.probability();
                assert!(risk >= exact * (1.0 - 1e-9), "{code} loss {loss}: {risk:e} below {exact:e}");
                let comparable = name != "layered-interleaving" && exact < 1e-3;
                assert!(!comparable || risk <= exact * 1.001, "{code} loss {loss}: {risk:e} above {exact:e}");
            }
        }
    }
    let codes =
        codes.map(|(name, text)| Code::new(built_in.code(name).unwrap(), &text.parse().unwrap()).unwrap());
    for model in module.iter().chain([&library]) {
        check_model(model.as_ref(), &codes, 74, Effort::Quick)
            .unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(model.fault(), None);
    }
}

#[test]
fn versions_live_side_by_side() {
    let workshop = Workshop::new();
    let second = workshop.mutant("second", "xor-parity.c", &[("\\\"version\\\": 1", "\\\"version\\\": 2")]);
    workshop.c_library(&common::example("xor-parity.c"), "a-first", &[]);
    let second = workshop.c_library(&second, "b-second", &[]);
    workshop.c_library(&common::example("xor-parity.c"), "c-again", &[]);
    let mut catalogue = Catalogue::built_in();
    let refused = catalogue.load(workshop.path(), Libraries::Trusted, &|_| Ok(()));
    let texts: Vec<_> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(
        texts[0].contains("c-again.so (code xor-parity-c v1) has the name and version of another plugin")
    );
    assert_eq!(catalogue.code("xor-parity-c").unwrap().version(), 2);
    assert_eq!(catalogue.code("xor-parity-c@1").unwrap().version(), 1);
    let error = catalogue.code("xor-parity-c@3").unwrap_err().to_string();
    assert!(error.contains("did you mean \"xor-parity-c@"), "{error}");
    let entry = catalogue.entries().iter().rfind(|entry| entry.plugin.version() == 2).unwrap();
    assert_eq!(entry.origin, Origin::Library(second));
}

#[test]
fn instances_come_and_go_quickly() {
    let workshop = Workshop::new();
    let Some(module) = workshop.c_module(&common::example("xor-parity.c"), "xor", &[]) else { return };
    let module = common::code(&module);
    let start = Instant::now();
    for _ in 0..200 {
        module.encoder(&Parameters::new(), 1200).unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(2), "200 encoders took {:?}", start.elapsed());
}
