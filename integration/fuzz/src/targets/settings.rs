//! Settings: a file, the environment and `--set` words, by the loader of the `parhelion` binary.
//!
//! Promises: nothing panics; what is accepted is within its ranges and is loaded again as the same from what `config
//! show` prints; what is refused is named.

use std::fs;

use config::Map;
use tempfile::NamedTempFile;

use crate::Script;
use crate::settings::{Layered, Profile, SettingsError, load};

const WORDS_MAX: usize = 8;

pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let profile = [Profile::Primary, Profile::Mirror, Profile::Single][usize::from(script.u8()) % 3];
    let known = keys();
    let word = |script: &mut Script<'_>| match script.u8() {
        // A known key, so that values are reached without spelling it.
        key @ 0..=199 => format!("{}={}", known[usize::from(key) % known.len()], script.text()),
        _ => script.text(),
    };
    let environment: Map<_, _> = (0..usize::from(script.u8()) % WORDS_MAX)
        .filter_map(|_| {
            let (key, value) =
                word(&mut script).split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))?;
            Some((format!("PARHELION__{}", key.replace('.', "__").to_uppercase()), value))
        })
        .collect();
    let set: Vec<String> = (0..usize::from(script.u8()) % WORDS_MAX).map(|_| word(&mut script)).collect();
    let file = NamedTempFile::with_suffix(".toml").expect("a temporary file");
    fs::write(file.path(), script.rest()).expect("a temporary file");

    let loaded = load(profile, Some(file.path()), Some(environment), &set);
    match loaded {
        Ok(layered) => check(profile, &layered),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty());
            if let SettingsError::Unknown { nearest, .. } = &error {
                assert!(known.contains(nearest), "{text}");
            }
        }
    }
}

/// The names of all settings.
fn keys() -> &'static [String] {
    static KEYS: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    KEYS.get_or_init(|| {
        let defaults = load(Profile::Single, None, Some(Map::new()), &[]).expect("defaults load");
        defaults.effective.into_iter().map(|value| value.key).collect()
    })
}

fn check(profile: Profile, layered: &Layered) {
    assert_eq!(layered.effective.len(), keys().len(), "every setting has one value and one origin");
    if layered.settings.check().is_err() {
        return;
    }
    let settings = &layered.settings;
    assert!(settings.link.rate.bytes_per_second() <= 1 << 50);
    assert!((1280..=9200).contains(&settings.link.mtu) && settings.link.share <= 1.0);
    // The same settings again, from the text of all values.
    let set: Vec<String> =
        layered.effective.iter().map(|value| format!("{}={}", value.key, value.value)).collect();
    let again = load(profile, None, Some(Map::new()), &set);
    if set.iter().all(|word| is_plain(word)) {
        let again = again.unwrap_or_else(|error| panic!("{error} of {set:?}"));
        assert_eq!(format!("{:?}", again.settings), format!("{:?}", layered.settings));
    }
}

/// Whether a word reads as TOML as it reads as text: lists and quotes may not.
fn is_plain(word: &str) -> bool {
    let value = word.split_once('=').map_or("", |(_, value)| value);
    !value.contains(['"', '\'', '\\', '{', '[', '#', '\n', '\r', '=']) && value.trim() == value
}

pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let file = |profile: u8, text: &str| [&[profile, 0, 0], text.as_bytes()].concat();
    let word = |word: &str| [&[255, word.len() as u8], word.as_bytes()].concat();
    vec![
        ("empty", vec![2]),
        (
            "file",
            file(2, "[node]\nsite = 2\n[link]\nrate = \"300Mbit\"\nflush_delay = \"2ms\"\nmtu = 9000\n"),
        ),
        ("lists", file(1, "[storage]\ndirectories = [\"a\", \"b\"]\nsegment = \"64MiB\"\n")),
        ("unknown-key", file(0, "[link]\nrat = 1\n")),
        ("ranges", file(2, "[risk]\nconfidence = 1.5\n[telemetry]\nsample = nan\n")),
        ("not-toml", file(2, "= [[\n")),
        (
            "words",
            [
                &[0, 1][..],
                &word("link.share=0.5"),
                &[2],
                &word("link.peer_bulk=192.0.2.7:7411"),
                &word("node.drain=1h"),
            ]
            .concat(),
        ),
    ]
}
