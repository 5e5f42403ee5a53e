//! The decision to acknowledge: a pure function of what was asked and what is known.

use std::fmt;

use parhelion_types::{Durability, Risk};

/// What the client of an append waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waiting {
    /// The level.
    pub asked: Durability,
    /// Largest prefix risk at which the level `network` is reached.
    pub max_risk: Risk,
}

/// What is known of an append.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Its record, and every earlier one of its log, is durable at this site.
    pub durable: bool,
    /// A session with the mirror's site is up.
    pub linked: bool,
    /// Its announcement is on the wire.
    pub announced: bool,
    /// All its symbols and the whole of its coverage are on the wire of the session that is up.
    pub complete: bool,
    /// P(it cannot be rebuilt at the mirror).
    pub own: Risk,
    /// P(it or an earlier unmirrored append of its log cannot).
    pub prefix: Risk,
    /// It, and every earlier record of its log, is durable at the mirror.
    pub mirrored: bool,
}

/// The level that an append has reached, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reached {
    /// The strongest level that holds.
    pub level: Durability,
    /// What made it hold.
    pub reason: Reason,
}

/// Why a level holds; prints itself in words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason {
    /// Durable here and announced to the mirror.
    Announced,
    /// Durable here; no session with the mirror is up.
    Alone,
    /// Durable here, with enough on the wire.
    Covered {
        /// The prefix risk.
        prefix: Risk,
        /// What was allowed.
        max_risk: Risk,
    },
    /// Durable at both sites.
    Mirrored,
}

/// The acknowledgement that is due, if any.
///
/// - `local`: durable here and, while a session is up, announced, so that a disaster leaves a list of what
///   was lost.
/// - `network` (SMFS section 3.1): durable here, coverage complete and prefix risk at most `max_risk`; or
///   mirrored.
/// - `remote`: durable at both sites.
///
/// The answer names the strongest level that holds, which may be above the one asked for.
#[must_use]
pub fn decide(waiting: &Waiting, progress: &Progress) -> Option<Reached> {
    reached(waiting.max_risk, progress).filter(|reached| reached.level >= waiting.asked)
}

/// The strongest level that holds now; what a degraded acknowledgement reports at its deadline.
#[must_use]
pub fn reached(max_risk: Risk, progress: &Progress) -> Option<Reached> {
    let Progress { durable, linked, announced, complete, prefix, mirrored, .. } = *progress;
    if !durable {
        return None;
    }
    let (level, reason) = if mirrored {
        (Durability::Remote, Reason::Mirrored)
    } else if linked && complete && prefix <= max_risk {
        (Durability::Network, Reason::Covered { prefix, max_risk })
    } else if !linked {
        (Durability::Local, Reason::Alone)
    } else if announced {
        (Durability::Local, Reason::Announced)
    } else {
        return None;
    };
    Some(Reached { level, reason })
}

/// What an append still waits for, in words; none if its acknowledgement is due.
#[must_use]
pub fn missing(waiting: &Waiting, progress: &Progress) -> Option<String> {
    if decide(waiting, progress).is_some() {
        return None;
    }
    Some(match waiting.asked {
        _ if !progress.durable => "not yet durable at this site".to_owned(),
        Durability::Local => "the announcement is not yet on the wire".to_owned(),
        Durability::Remote => "not yet durable at the mirror".to_owned(),
        Durability::Network if !progress.linked => {
            "no session with the mirror's site is up, so nothing is on the wire".to_owned()
        }
        Durability::Network if !progress.complete => {
            "its symbols and repairs are not all on the wire".to_owned()
        }
        Durability::Network => format!(
            "prefix risk {} is above {}; it falls as the mirror confirms earlier appends",
            progress.prefix, waiting.max_risk
        ),
    })
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Announced => f.write_str("durable at this site and announced to the mirror"),
            Self::Alone => f.write_str("durable at this site; no session with the mirror's site is up"),
            Self::Covered { prefix, max_risk } => {
                write!(
                    f,
                    "durable at this site, coverage on the wire, prefix risk {prefix} at most {max_risk}"
                )
            }
            Self::Mirrored => f.write_str("durable at both sites"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination of the flags, with a risk below, at and above the limit.
    fn all() -> impl Iterator<Item = Progress> {
        (0_u32..32).flat_map(|bits| {
            let bit = move |n: u32| bits >> n & 1 == 1;
            [1e-9, 1e-6, 1e-3].map(move |prefix| Progress {
                durable: bit(0),
                linked: bit(1),
                announced: bit(2),
                complete: bit(3),
                mirrored: bit(4),
                own: Risk::bound(1e-12),
                prefix: Risk::bound(prefix),
            })
        })
    }

    #[test]
    fn the_decision_is_the_definition_of_the_levels() {
        let max_risk = Risk::asked(1e-6).unwrap();
        for p in all() {
            let network =
                p.durable && ((p.linked && p.complete && p.prefix.probability() <= 1e-6) || p.mirrored);
            let local = network || (p.durable && (p.announced || !p.linked));
            let remote = p.durable && p.mirrored;
            for (asked, due) in
                [(Durability::Local, local), (Durability::Network, network), (Durability::Remote, remote)]
            {
                let waiting = Waiting { asked, max_risk };
                let decision = decide(&waiting, &p);
                assert_eq!(decision.is_some(), due, "{asked} {p:?}");
                assert_eq!(missing(&waiting, &p).is_none(), due, "{asked} {p:?}");
                if let Some(Reached { level, .. }) = decision {
                    let strongest = if remote {
                        Durability::Remote
                    } else if network {
                        Durability::Network
                    } else {
                        asked
                    };
                    assert_eq!(level, strongest, "{asked} {p:?}");
                }
            }
        }
    }

    #[test]
    fn reasons_read_as_sentences() {
        let progress = Progress {
            durable: true,
            linked: true,
            announced: true,
            complete: true,
            own: Risk::bound(1e-8),
            prefix: Risk::bound(3e-8),
            mirrored: false,
        };
        let waiting = Waiting { asked: Durability::Network, max_risk: Risk::asked(1e-6).unwrap() };
        assert_eq!(
            decide(&waiting, &progress).unwrap().reason.to_string(),
            "durable at this site, coverage on the wire, prefix risk 3.0e-8 at most 1.0e-6"
        );
        let strict = Waiting { max_risk: Risk::asked(1e-9).unwrap(), ..waiting };
        assert!(missing(&strict, &progress).unwrap().starts_with("prefix risk 3.0e-8 is above 1.0e-9"));
    }
}
