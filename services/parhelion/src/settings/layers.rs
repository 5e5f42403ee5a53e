//! Layers of settings: which there are, which one wins, and where each value came from.

use std::collections::BTreeMap;
use std::path::Path;

use config::{Config, Environment, File, FileFormat, Map, Source, Value, ValueKind};
use serde::Deserialize;

use super::{Settings, SettingsError};

const DEFAULTS: &str = include_str!("../../profiles/defaults.toml");

/// A named set of settings that ships with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Accepts appends and mirrors them.
    Primary,
    /// Receives another site's appends.
    Mirror,
    /// Accepts appends, mirrors them nowhere.
    Single,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Mirror => "mirror",
            Self::Single => "single",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Primary => include_str!("../../profiles/primary.toml"),
            Self::Mirror => include_str!("../../profiles/mirror.toml"),
            Self::Single => include_str!("../../profiles/single.toml"),
        }
    }
}

/// One value in force, and the layer it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// `section.key`.
    pub key: String,
    /// The value as text.
    pub value: String,
    /// The layer.
    pub origin: String,
}

/// Settings in force, with the origin of each value.
#[derive(Debug)]
pub struct Layered {
    /// The settings.
    pub settings: Settings,
    /// Each value with its origin, sorted by key.
    pub effective: Vec<Effective>,
}

/// Merges defaults, profile, file, environment and `--set` words, in this order. Variables that are given stand in
/// for those of the process.
pub fn load(
    profile: Profile,
    file: Option<&Path>,
    variables: Option<Map<String, String>>,
    set: &[String],
) -> Result<Layered, SettingsError> {
    let mut layers = vec![
        ("default".to_owned(), flatten(&File::from_str(DEFAULTS, FileFormat::Toml))?),
        (format!("profile {}", profile.name()), flatten(&File::from_str(profile.text(), FileFormat::Toml))?),
    ];
    if let Some(path) = file {
        let source = File::new(&path.to_string_lossy(), FileFormat::Toml).required(true);
        let values = flatten(&source)
            .map_err(|error| SettingsError::File { path: path.to_owned(), reason: error.to_string() })?;
        layers.push((format!("file {}", path.display()), values));
    }
    let environment = Environment::with_prefix("PARHELION").prefix_separator("__").separator("__");
    let environment = environment.source(variables);
    layers.push(("environment".to_owned(), flatten(&environment)?));
    layers.push(("--set".to_owned(), set_words(set)?));
    merge(layers)
}

fn merge(layers: Vec<(String, BTreeMap<String, Value>)>) -> Result<Layered, SettingsError> {
    let known: Vec<String> = layers[0].1.keys().cloned().collect();
    let mut in_force: BTreeMap<String, (Value, String)> = BTreeMap::new();
    for (origin, values) in layers {
        for (key, value) in values {
            if !known.contains(&key) {
                return Err(SettingsError::unknown(key, &origin, &known));
            }
            in_force.insert(key, (value, origin.clone()));
        }
    }
    let mut builder = Config::builder();
    for (key, (value, _)) in &in_force {
        builder = builder.set_override(key, value.clone())?;
    }
    let config = builder.build()?;
    let settings = Settings::deserialize(config).map_err(|error| SettingsError::Value {
        reason: error.to_string(),
        origins: blame(&error.to_string(), &in_force),
    })?;
    let effective = in_force
        .into_iter()
        .map(|(key, (value, origin))| Effective { key, value: value_text(&value), origin })
        .collect();
    Ok(Layered { settings, effective })
}

/// The layer of the key that an error of the `config` crate names, for the message.
fn blame(error: &str, in_force: &BTreeMap<String, (Value, String)>) -> String {
    in_force
        .iter()
        .find(|(key, _)| error.contains(&format!("`{key}`")))
        .map_or_else(String::new, |(key, (value, origin))| format!(" ({key} = {value} comes from: {origin})"))
}

/// A source's values under dotted keys.
fn flatten(source: &dyn Source) -> Result<BTreeMap<String, Value>, SettingsError> {
    let mut flat = BTreeMap::new();
    for (key, value) in source.collect()? {
        flatten_value(key, value, &mut flat);
    }
    Ok(flat)
}

fn flatten_value(key: String, value: Value, flat: &mut BTreeMap<String, Value>) {
    match value.kind {
        ValueKind::Table(table) => {
            for (name, value) in table {
                flatten_value(format!("{key}.{name}"), value, flat);
            }
        }
        _ => {
            flat.insert(key, value);
        }
    }
}

/// Reads `a.b=c` words. A value is text unless it reads as TOML.
fn set_words(words: &[String]) -> Result<BTreeMap<String, Value>, SettingsError> {
    let mut values = BTreeMap::new();
    for word in words {
        let (key, text) = word.split_once('=').ok_or_else(|| SettingsError::Set(word.clone()))?;
        let toml = |value: &str| flatten(&File::from_str(&format!("value = {value}"), FileFormat::Toml));
        let parsed = toml(text).ok().and_then(|mut flat| flat.remove("value"));
        values.insert(key.trim().to_owned(), parsed.unwrap_or_else(|| Value::from(text)));
    }
    Ok(values)
}

fn value_text(value: &Value) -> String {
    match &value.kind {
        ValueKind::Array(items) => {
            format!("[{}]", items.iter().map(value_text).collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: &[&str]) -> Result<Layered, SettingsError> {
        let set: Vec<String> = set.iter().map(|&word| word.to_owned()).collect();
        load(Profile::Primary, None, None, &set)
    }

    #[test]
    fn every_profile_loads() {
        for profile in [Profile::Primary, Profile::Mirror, Profile::Single] {
            load(profile, None, None, &[]).unwrap();
        }
    }

    #[test]
    fn the_reference_lists_the_defaults() {
        let reference = include_str!("../../../../docs/configuration.md");
        assert!(
            reference.contains(DEFAULTS),
            "docs/configuration.md must contain profiles/defaults.toml as it is"
        );
    }

    #[test]
    fn later_layers_win_and_say_so() {
        let layered = with(&["link.rate=300Mbit", "node.data=/tmp/x"]).unwrap();
        assert_eq!(layered.settings.link.rate.bits_per_second(), 300_000_000);
        let origin = |key: &str| layered.effective.iter().find(|e| e.key == key).unwrap().origin.clone();
        assert_eq!(origin("link.rate"), "--set");
        assert_eq!(origin("node.duty"), "profile primary");
        assert_eq!(origin("link.mtu"), "default");
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = with(&["link.rat=1Gbit"]).unwrap_err().to_string();
        assert!(
            error.contains("link.rat") && error.contains("link.rate") && error.contains("--set"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_value_names_key_and_origin() {
        let error = with(&["link.rate=fast"]).unwrap_err().to_string();
        assert!(error.contains("fast") && error.contains("300Mbit"), "{error}");
        assert!(with(&["node.duty"]).unwrap_err().to_string().contains("node.duty"));
    }
}
