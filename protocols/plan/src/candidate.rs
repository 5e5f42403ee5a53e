//! What could be in force on a link.

use std::fmt;

use parhelion_plugin::{Code, Structure};

/// A code with its parameters, and the pauses of its flushes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The code.
    pub code: Code,
    /// Packet times of the line that a flush waits between what it sends of one repair index and of the next. Codes that
    /// gain nothing by pauses, and lines of unknown rate, make none whatever this says.
    pub flush_pause: u32,
}

impl Candidate {
    /// Name and figures the way people write them: `layered-interleaving (8,3; 1,23,101)`.
    #[must_use]
    pub fn label(&self) -> String {
        match self.figures() {
            figures if figures.is_empty() => self.code.name().to_owned(),
            figures => format!("{} {figures}", self.code.name()),
        }
    }

    /// The part of [`label`](Self::label) behind the name; empty for a code without parameters.
    #[must_use]
    pub fn figures(&self) -> String {
        match self.code.structure() {
            Structure::None => String::new(),
            Structure::Repetition { copies: 1, spacing } => format!("(1 copy {spacing} later)"),
            Structure::Repetition { copies, spacing } => format!("({copies} copies {spacing} apart)"),
            Structure::Block { r, c, depth: 1 } => format!("({r},{c})"),
            Structure::Block { r, c, depth } => format!("({r},{c}; depth {depth})"),
            Structure::Layered { r, interleaves, delayed } => {
                let list = interleaves.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
                let at_once = if *delayed { "" } else { "; not delayed" };
                format!("({r},{}; {list}{at_once})", interleaves.len())
            }
            Structure::Window { r, c, window, .. } => format!("({r},{c}; window {window})"),
            Structure::Other { .. } => format!("({})", self.code.parameters()),
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label())?;
        if self.code.structure().gains_by_pauses() {
            write!(f, ", pauses of {}", self.flush_pause)?;
        }
        Ok(())
    }
}
