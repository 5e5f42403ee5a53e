//! Quantities as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Data rate of a line, written in bits per second: `300Mbit`, `1.5Gbit`, `64kbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    bits_per_second: u64,
}

/// Text that is no data rate.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a rate; write for example 300Mbit or 1Gbit")]
pub struct ParseRateError(String);

const UNITS: [(&str, f64); 4] = [("Gbit", 1e9), ("Mbit", 1e6), ("kbit", 1e3), ("bit", 1.0)];

impl Rate {
    /// Bytes per second.
    pub fn bytes_per_second(self) -> u64 {
        self.bits_per_second / 8
    }

    /// Bits per second.
    pub fn bits_per_second(self) -> u64 {
        self.bits_per_second
    }
}

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (number, unit) =
                UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
            let bits = number.trim().parse::<f64>().ok()? * unit;
            (1.0..=1e15).contains(&bits).then_some(Self { bits_per_second: bits as u64 })
        };
        parse().ok_or_else(|| ParseRateError(text.to_owned()))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits_per_second as f64;
        let (name, unit) = UNITS.iter().find(|(_, unit)| bits >= *unit).unwrap_or(&UNITS[3]);
        write!(f, "{}{name}", bits / unit)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written_alike() {
        for (text, bits) in
            [("300Mbit", 300_000_000), ("1.5Gbit", 1_500_000_000), ("64kbit", 64_000), ("7bit", 7)]
        {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.bits_per_second(), bits);
            assert_eq!(rate.to_string(), text);
        }
        for bad in ["", "300", "Mbit", "-1Mbit", "300MB", "nanMbit", "0bit"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad:?} parsed");
        }
    }
}
