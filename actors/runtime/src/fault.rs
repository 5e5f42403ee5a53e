//! Faults that are injected on purpose, to see that a process survives what it should.
//!
//! Armed once per process, by whoever tests it; see [`Faults::arm`]. A process that nobody armed has none: what is
//! left of it then is one test of an empty option per actor that is started and per reading of the wall clock.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

static FAULTS: OnceLock<Faults> = OnceLock::new();

/// What goes wrong in this process, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    start: Instant,
    faults: Vec<Fault>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    kind: Kind,
    after: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// The actor of this name panics.
    Panic { actor: String },
    /// The wall clock is set back by that much.
    WallBack { by: Duration },
}

/// A description of faults that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// Not of a form that is known.
    #[error(
        "fault {0:?} is not known; give panic:ACTOR@TIME or wall:-TIME@TIME, such as panic:encoder@2s or \
         wall:-3600s@500ms, several with commas between"
    )]
    Unknown(String),
    /// No actor has the name.
    #[error("fault {fault:?}: there is no actor {actor:?}; give one of {}", names.join(", "))]
    Actor {
        /// The fault.
        fault: String,
        /// The name.
        actor: String,
        /// Names there are.
        names: Vec<String>,
    },
    /// This process has its faults already.
    #[error("faults were armed twice in one process; name all of them at once")]
    Twice,
}

impl Faults {
    /// Arms the faults that `text` describes, for the rest of this process: `panic:encoder@2s` panics once in the
    /// actor `encoder` two seconds from now, `wall:-3600s@2s` sets the wall clock, as this process reads it, back
    /// by an hour. `actors` are the names there are.
    ///
    /// Says so in the log, as a warning: nobody should find out by its effects.
    ///
    /// # Errors
    /// The text is malformed, names an actor that is not, or faults were armed before.
    pub fn arm(text: &str, actors: &[&str]) -> Result<(), FaultError> {
        let faults = Self::parse(text, actors)?;
        for fault in &faults.faults {
            tracing::warn!(%fault, "FAULT INJECTION is armed: this process will fail on purpose");
        }
        FAULTS.set(faults).map_err(|_| FaultError::Twice)
    }

    fn parse(text: &str, actors: &[&str]) -> Result<Self, FaultError> {
        let faults = text.split(',').map(|one| Fault::parse(one.trim(), actors)).collect::<Result<_, _>>()?;
        Ok(Self { start: Instant::now(), faults })
    }
}

/// When the actor panics, if it does.
pub(crate) fn panic_at(actor: &str) -> Option<Instant> {
    let Faults { start, faults } = FAULTS.get()?;
    let mine = |fault: &&Fault| matches!(&fault.kind, Kind::Panic { actor: name } if name == actor);
    faults.iter().find(mine).map(|fault| *start + fault.after)
}

/// By how much the wall clock has been set back so far.
pub(crate) fn wall_back() -> Duration {
    let Some(Faults { start, faults }) = FAULTS.get() else { return Duration::ZERO };
    let due = faults.iter().filter(|fault| start.elapsed() >= fault.after);
    due.map(|fault| if let Kind::WallBack { by } = fault.kind { by } else { Duration::ZERO }).sum()
}

impl Fault {
    fn parse(text: &str, actors: &[&str]) -> Result<Self, FaultError> {
        let unknown = || FaultError::Unknown(text.to_owned());
        let (what, after) = text.split_once('@').ok_or_else(unknown)?;
        let after = duration(after).ok_or_else(unknown)?;
        let kind = match what.split_once(':').ok_or_else(unknown)? {
            ("panic", actor) if actors.contains(&actor) => Kind::Panic { actor: actor.to_owned() },
            ("panic", actor) => {
                let names = actors.iter().map(|&name| name.to_owned()).collect();
                return Err(FaultError::Actor { fault: text.to_owned(), actor: actor.to_owned(), names });
            }
            ("wall", by) => {
                let by = by.strip_prefix('-').and_then(duration).ok_or_else(unknown)?;
                Kind::WallBack { by }
            }
            _ => return Err(unknown()),
        };
        Ok(Self { kind, after })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Panic { actor } => write!(f, "actor {actor} panics")?,
            Kind::WallBack { by } => write!(f, "the wall clock is set back by {by:?}")?,
        }
        write!(f, " after {:?}", self.after)
    }
}

/// `250ms` or `3600s`; at most about three years, so that no sum with a time overflows.
fn duration(text: &str) -> Option<Duration> {
    const SECONDS_MAX: u64 = 100_000_000;
    let (number, millis) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s')?, 1000),
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(millis).filter(|&millis| millis <= SECONDS_MAX * 1000).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_or_refused() {
        let actors = ["encoder", "storage"];
        let faults = Faults::parse("panic:encoder@2s, wall:-3600s@500ms", &actors).unwrap();
        let expected = [
            Fault { kind: Kind::Panic { actor: "encoder".to_owned() }, after: Duration::from_secs(2) },
            Fault {
                kind: Kind::WallBack { by: Duration::from_secs(3600) },
                after: Duration::from_millis(500),
            },
        ];
        assert_eq!(faults.faults, expected);
        assert_eq!(faults.faults[1].to_string(), "the wall clock is set back by 3600s after 500ms");
        let bad = ["", "panic", "panic:encoder", "panic:encoder@", "panic:encoder@soon", "wall:3600s@1s"];
        for bad in bad.into_iter().chain([
            "wall:-1h@1s",
            "wall:-1s@99999999999s",
            "melt:encoder@1s",
            "panic:encoder@-1s",
        ]) {
            let error = Faults::parse(bad, &actors).unwrap_err();
            assert!(
                matches!(error, FaultError::Unknown(_)) && error.to_string().contains("give"),
                "{bad}: {error}"
            );
        }
        let error = Faults::parse("panic:gremlin@1s", &actors).unwrap_err();
        assert_eq!(
            error.to_string(),
            "fault \"panic:gremlin@1s\": there is no actor \"gremlin\"; give one of encoder, storage"
        );
    }
}
