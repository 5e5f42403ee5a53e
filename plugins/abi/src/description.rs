//! What a plugin says of itself: a JSON text, so that an author in C can write it as a string.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use parhelion_plugin::{Parameter, Parameters};
use serde::Deserialize;

/// Longest description, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 64 << 10;

/// Most parameters; each must be understood by a person.
const PARAMETERS_MAX: usize = 32;

/// Most values of a list.
const VALUES_MAX: usize = 64;

/// Longest name, in bytes. Names are in the greeting of every link and in every acknowledgement.
const NAME_BYTES_MAX: usize = 64;

/// Longest meaning or unit, in bytes.
const TEXT_BYTES_MAX: usize = 400;

/// What a plugin is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An erasure code.
    Code,
    /// A durability model.
    Model,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Code => "code",
            Self::Model => "durability model",
        })
    }
}

/// Name, version and parameters of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What it is.
    pub kind: Kind,
    /// The name in configuration: lower-case letters, digits and hyphens.
    pub name: String,
    /// Changes whenever the same parameters give other repair symbols, or the same question another figure.
    pub version: u32,
    /// The parameters of a code.
    pub parameters: Vec<Parameter>,
}

/// A description that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its description is wrong: {0}")]
pub struct DescriptionError(String);

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    /// It is no JSON of this form, or a name, a text, a number of things or a range is out of bounds.
    pub fn parse(text: &[u8]) -> Result<Self, DescriptionError> {
        if text.len() > DESCRIPTION_BYTES_MAX {
            return Err(wrong(format!("{} bytes; at most {DESCRIPTION_BYTES_MAX} are read", text.len())));
        }
        let raw: RawDescription = serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?;
        check_name("name", &raw.name)?;
        if raw.version == 0 {
            return Err(wrong("version is 0; versions count from 1".to_owned()));
        }
        if raw.kind == Kind::Model && !raw.parameters.is_empty() {
            return Err(wrong("a durability model has no parameters; remove them".to_owned()));
        }
        if raw.parameters.len() > PARAMETERS_MAX {
            return Err(wrong(format!("{} parameters; give at most {PARAMETERS_MAX}", raw.parameters.len())));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = raw.parameters.iter().find(|parameter| !names.insert(&parameter.name)) {
            return Err(wrong(format!("parameter {} is there twice; rename one", twice.name)));
        }
        let parameters = raw.parameters.into_iter().map(RawParameter::check).collect::<Result<_, _>>()?;
        Ok(Self { kind: raw.kind, name: raw.name, version: raw.version, parameters })
    }

    /// The values of all parameters in the order of the description, as the ABI passes them: a list is its length and its
    /// values. They passed [`Parameters::check`].
    #[must_use]
    pub fn values(&self, given: &Parameters) -> Vec<u32> {
        let mut flat = Vec::with_capacity(self.parameters.len());
        for parameter in &self.parameters {
            let values = given.values(parameter);
            if parameter.values_max > 1 {
                // At most `VALUES_MAX` of them.
                flat.push(values.len() as u32);
            }
            flat.extend(values);
        }
        flat
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDescription {
    kind: Kind,
    name: String,
    version: u32,
    #[serde(default)]
    parameters: Vec<RawParameter>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawParameter {
    name: String,
    meaning: String,
    unit: String,
    min: u32,
    max: u32,
    #[serde(default = "one")]
    values_max: usize,
    default: Vec<u32>,
}

fn one() -> usize {
    1
}

impl RawParameter {
    fn check(self) -> Result<Parameter, DescriptionError> {
        let Self { name, meaning, unit, min, max, values_max, default } = self;
        check_name("the name of a parameter", &name)?;
        for (what, text) in [("meaning", &meaning), ("unit", &unit)] {
            if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
                return Err(wrong(format!(
                    "the {what} of parameter {name} is not a line of 1 to {TEXT_BYTES_MAX} bytes"
                )));
            }
        }
        if min > max {
            return Err(wrong(format!("parameter {name} has min {min} above max {max}")));
        }
        if !(1..=VALUES_MAX).contains(&values_max) {
            return Err(wrong(format!(
                "parameter {name} has values_max {values_max}; give 1 to {VALUES_MAX}"
            )));
        }
        if !(1..=values_max).contains(&default.len()) || !default.iter().all(|v| (min..=max).contains(v)) {
            return Err(wrong(format!(
                "the default {default:?} of parameter {name} is not a list of 1 to {values_max} values of {min} to {max}"
            )));
        }
        Ok(Parameter {
            name: Cow::Owned(name),
            meaning: Cow::Owned(meaning),
            unit: Cow::Owned(unit),
            min,
            max,
            values_max,
            default: Cow::Owned(default),
        })
    }
}

fn check_name(what: &str, name: &str) -> Result<(), DescriptionError> {
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    let letter_first = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if letter_first && name.len() <= NAME_BYTES_MAX && name.bytes().all(lower) {
        return Ok(());
    }
    Err(wrong(format!(
        "{what} is {name:?}; start with a letter, and use at most {NAME_BYTES_MAX} lower-case letters, digits, - and _"
    )))
}

fn wrong(detail: String) -> DescriptionError {
    DescriptionError(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = r#"{"kind": "code", "name": "my-code", "version": 3, "parameters": [
        {"name": "r", "meaning": "symbols", "unit": "symbols", "min": 1, "max": 64, "default": [8]},
        {"name": "lanes", "meaning": "lanes", "unit": "symbols", "min": 1, "max": 9, "values_max": 4, "default": [1, 5]}
    ]}"#;

    #[test]
    fn values_come_in_the_order_of_the_description() {
        let description = Description::parse(CODE.as_bytes()).unwrap();
        assert_eq!((description.kind, description.version), (Kind::Code, 3));
        assert_eq!(description.values(&Parameters::new()), [8, 2, 1, 5]);
        let given: Parameters = "lanes=7 r=2".parse().unwrap();
        assert_eq!(given.check(&description.parameters), Ok(()));
        assert_eq!(description.values(&given), [2, 1, 7]);
    }

    #[test]
    fn a_model_needs_little() {
        let text = r#"{"kind": "model", "name": "m", "version": 1}"#;
        assert_eq!(Description::parse(text.as_bytes()).unwrap().kind, Kind::Model);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, said) in [
            ("\"code\"", "\"codec\"", "unknown variant `codec`"),
            ("my-code", "My Code", "name is \"My Code\"; start with a letter"),
            ("my-code", "", "name is \"\""),
            ("\"version\": 3", "\"version\": 0", "versions count from 1"),
            ("\"version\": 3", "\"version\": -1", "invalid value"),
            ("\"version\": 3,", "", "missing field `version`"),
            ("\"version\": 3", "\"version\": 3, \"author\": \"me\"", "unknown field `author`"),
            ("\"min\": 1, \"max\": 64", "\"min\": 65, \"max\": 64", "min 65 above max 64"),
            ("[8]", "[65]", "the default [65] of parameter r"),
            ("[8]", "[]", "the default [] of parameter r"),
            ("[8]", "[1, 2]", "1 to 1 values"),
            ("\"lanes\"", "\"r\"", "parameter r is there twice"),
            ("\"values_max\": 4", "\"values_max\": 65", "give 1 to 64"),
            (
                "\"meaning\": \"lanes\"",
                "\"meaning\": \"a\\nb\"",
                "the meaning of parameter lanes is not a line",
            ),
            ("\"code\"", "\"model\"", "a durability model has no parameters"),
        ] {
            assert!(CODE.contains(from), "{from}");
            let error = Description::parse(CODE.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("its description is wrong: ") && error.contains(said), "{error}");
        }
        let error = Description::parse(&vec![b' '; DESCRIPTION_BYTES_MAX + 1]).unwrap_err();
        assert!(error.to_string().contains("at most 65536"), "{error}");
        let deep = "[".repeat(DESCRIPTION_BYTES_MAX);
        assert!(Description::parse(deep.as_bytes()).is_err());
    }
}
