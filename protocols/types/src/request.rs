//! Names that a client gives: the request id that makes a retry safe, and the trace it belongs to.

use std::fmt;
use std::str::FromStr;

/// Names one append for ever, whatever connection carries it. Zero means "none given".
///
/// An append sent twice with one id is stored once; both calls get the same address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

impl RequestId {
    /// No id: a retry of such an append may store it twice.
    pub const NONE: Self = Self(0);

    /// Whether the client gave no id.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for RequestId {
    type Err = std::num::ParseIntError;

    /// Reads hexadecimal digits, with or without the dashes of a UUID.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(&text.replace('-', ""), 16).map(Self)
    }
}

/// The W3C trace context of an append; it travels in the record to the other site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// Trace id; zero means "not traced".
    pub trace: u128,
    /// Id of the parent span.
    pub span: u64,
    /// Whether the root decided to sample this trace.
    pub sampled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_read_plain_hex_and_uuids() {
        let id = RequestId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("01234567-89ab-cdef-0123-456789abcdef".parse(), Ok(id));
        assert!("not hex".parse::<RequestId>().is_err());
    }
}
