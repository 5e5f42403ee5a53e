//! Parameters of codes and models: named lists of numbers, checked against a schema.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Values by name. Most parameters have one value; interleaves have one per layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters(BTreeMap<String, Vec<u32>>);

/// The schema of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The name in configuration.
    pub name: Cow<'static, str>,
    /// What it means.
    pub meaning: Cow<'static, str>,
    /// The unit of its values, such as "symbols".
    pub unit: Cow<'static, str>,
    /// Smallest value.
    pub min: u32,
    /// Largest value.
    pub max: u32,
    /// Most values; 1 for a plain number.
    pub values_max: usize,
    /// Used when the parameter is not given.
    pub default: Cow<'static, [u32]>,
}

impl Parameter {
    /// A parameter with one value.
    #[must_use]
    pub const fn number(
        name: &'static str,
        meaning: &'static str,
        unit: &'static str,
        (min, max): (u32, u32),
        default: &'static [u32; 1],
    ) -> Self {
        Self::list(name, meaning, unit, (min, max), 1, default)
    }

    /// A parameter with up to `values_max` values.
    #[must_use]
    pub const fn list(
        name: &'static str,
        meaning: &'static str,
        unit: &'static str,
        (min, max): (u32, u32),
        values_max: usize,
        default: &'static [u32],
    ) -> Self {
        Self {
            name: Cow::Borrowed(name),
            meaning: Cow::Borrowed(meaning),
            unit: Cow::Borrowed(unit),
            min,
            max,
            values_max,
            default: Cow::Borrowed(default),
        }
    }
}

/// Parameters that a code or model does not accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// No such parameter.
    #[error("unknown parameter {name:?}; known: {known}")]
    Unknown {
        /// As given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A value out of range.
    #[error("parameter {name} is {value}; give {min} to {max} {unit}")]
    Range {
        /// The parameter.
        name: String,
        /// As given.
        value: u32,
        /// Smallest value.
        min: u32,
        /// Largest value.
        max: u32,
        /// The unit.
        unit: String,
    },
    /// Too few or too many values.
    #[error("parameter {name} has {given} values; give 1 to {max}")]
    Count {
        /// The parameter.
        name: String,
        /// How many were given.
        given: usize,
        /// Most values.
        max: usize,
    },
    /// Values that do not fit each other.
    #[error("{0}")]
    Conflict(String),
}

impl Parameters {
    /// No parameters: every default holds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one parameter.
    #[must_use]
    pub fn with(mut self, name: &str, values: &[u32]) -> Self {
        self.0.insert(name.to_owned(), values.to_vec());
        self
    }

    /// What was given for `name`, if anything.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<&[u32]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u32])> {
        self.0.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }

    /// Checks names, counts and ranges against `schema`.
    ///
    /// # Errors
    /// The first parameter that does not fit.
    pub fn check(&self, schema: &[Parameter]) -> Result<(), ParameterError> {
        for (name, values) in &self.0 {
            let Some(parameter) = schema.iter().find(|p| p.name == *name) else {
                let known = schema.iter().map(|p| &*p.name).collect::<Vec<_>>().join(", ");
                return Err(ParameterError::Unknown { name: name.clone(), known });
            };
            if values.is_empty() || values.len() > parameter.values_max {
                return Err(ParameterError::Count {
                    name: parameter.name.to_string(),
                    given: values.len(),
                    max: parameter.values_max,
                });
            }
            if let Some(&value) = values.iter().find(|v| !(parameter.min..=parameter.max).contains(v)) {
                let Parameter { name, min, max, unit, .. } = parameter;
                let (name, unit) = (name.to_string(), unit.to_string());
                return Err(ParameterError::Range { name, value, min: *min, max: *max, unit });
            }
        }
        Ok(())
    }

    /// These, with the defaults of `schema` for all that is not given.
    #[must_use]
    pub fn complete(&self, schema: &[Parameter]) -> Self {
        schema.iter().fold(Self::new(), |all, parameter| all.with(&parameter.name, &self.values(parameter)))
    }

    /// The values of `parameter`: as given, or its default.
    #[must_use]
    pub fn values(&self, parameter: &Parameter) -> Vec<u32> {
        self.given(&parameter.name).unwrap_or(&parameter.default).to_vec()
    }

    /// The value of a parameter that has one: as given, or its default.
    #[must_use]
    pub fn value(&self, parameter: &Parameter) -> u32 {
        self.given(&parameter.name).unwrap_or(&parameter.default).first().copied().unwrap_or(parameter.min)
    }
}

impl fmt::Display for Parameters {
    /// `interleaves=1:11:101 r=8`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, values)) in self.iter().enumerate() {
            let values = values.iter().map(u32::to_string).collect::<Vec<_>>().join(":");
            write!(f, "{}{name}={values}", if n > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

/// Text that is not a list of parameters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a parameter; write name=value or name=value:value, for example r=8 interleaves=1:11:101"
)]
pub struct ParseParametersError(String);

impl FromStr for Parameters {
    type Err = ParseParametersError;

    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parameters = Self::new();
        for word in text.split_whitespace() {
            let error = || ParseParametersError(word.to_owned());
            let (name, values) = word.split_once('=').ok_or_else(error)?;
            let values =
                values.split(':').map(str::parse).collect::<Result<Vec<u32>, _>>().map_err(|_| error())?;
            if name.is_empty() {
                return Err(error());
            }
            parameters = parameters.with(name, &values);
        }
        Ok(parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: Parameter = Parameter::number("r", "", "symbols", (1, 64), &[8]);

    #[test]
    fn text_and_parameters_are_one() {
        let parameters: Parameters = "r=8 interleaves=1:11:101".parse().unwrap();
        assert_eq!(parameters.to_string(), "interleaves=1:11:101 r=8");
        assert_eq!(parameters.to_string().parse(), Ok(parameters));
        for bad in ["r", "r=", "=8", "r=x", "r=1:"] {
            assert!(bad.parse::<Parameters>().is_err(), "{bad:?} parsed");
        }
    }

    #[test]
    fn errors_name_the_parameter_and_the_range() {
        let check = |text: &str| text.parse::<Parameters>().unwrap().check(&[R]);
        assert_eq!(check("r=8"), Ok(()));
        assert_eq!(check("r=65").unwrap_err().to_string(), "parameter r is 65; give 1 to 64 symbols");
        assert_eq!(check("k=1").unwrap_err().to_string(), "unknown parameter \"k\"; known: r");
        assert_eq!(check("r=1:2").unwrap_err().to_string(), "parameter r has 2 values; give 1 to 1");
        assert_eq!(Parameters::new().value(&R), 8);
    }
}
