//! A probability of loss.

use std::fmt;
use std::str::FromStr;

/// Probability, in [0, 1], that an append cannot be had from the mirror if the primary site dies
/// now. Always an upper bound at a stated confidence, never a best guess.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Risk(f64);

/// A number that is no probability.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{0} is not a risk; give a probability above 0 and at most 1, for example 1e-6")]
pub struct RiskOutOfRange(String);

impl Risk {
    /// Certain to survive: the mirror has it.
    pub const NONE: Self = Self(0.0);
    /// Nothing is promised.
    pub const CERTAIN: Self = Self(1.0);

    /// A bound computed by a model: clamped into [0, 1], and 1 when it is not a number.
    #[must_use]
    pub fn bound(probability: f64) -> Self {
        if probability.is_nan() { Self::CERTAIN } else { Self(probability.clamp(0.0, 1.0)) }
    }

    /// A risk that a caller asks for: above 0 and at most 1.
    pub fn asked(probability: f64) -> Result<Self, RiskOutOfRange> {
        if probability > 0.0 && probability <= 1.0 {
            Ok(Self(probability))
        } else {
            Err(RiskOutOfRange(probability.to_string()))
        }
    }

    /// The probability.
    #[must_use]
    pub fn probability(self) -> f64 {
        self.0
    }

    /// Bound on the probability that at least one of two events happens (union bound).
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self::bound(self.0 + other.0)
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0.0 | 1.0 => write!(f, "{}", self.0),
            0.01.. => write!(f, "{:.2}", self.0),
            _ => write!(f, "{:.1e}", self.0),
        }
    }
}

impl FromStr for Risk {
    type Err = RiskOutOfRange;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.parse().map_err(|_| RiskOutOfRange(format!("{text:?}")))?;
        Self::asked(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_risks_are_probabilities() {
        assert_eq!("1e-6".parse(), Ok(Risk(1e-6)));
        assert_eq!("1".parse(), Ok(Risk::CERTAIN));
        for bad in ["0", "-1", "1.1", "NaN", "inf", "small", ""] {
            assert!(bad.parse::<Risk>().is_err(), "{bad:?} parsed");
        }
    }

    #[test]
    fn risks_read_as_what_they_are() {
        let shown = [0.0, 1e-12, 3.14e-6, 0.0099, 0.01, 0.72, 0.999, 1.0].map(|risk| Risk(risk).to_string());
        assert_eq!(shown, ["0", "1.0e-12", "3.1e-6", "9.9e-3", "0.01", "0.72", "1.00", "1"]);
    }

    #[test]
    fn a_bound_that_is_not_a_number_promises_nothing() {
        assert_eq!(Risk::bound(f64::NAN), Risk::CERTAIN);
        assert_eq!(Risk::bound(-1e-20), Risk::NONE);
        assert_eq!(Risk::bound(0.7).or(Risk::bound(0.7)), Risk::CERTAIN);
    }
}
