//! Lints of the repository as a whole, run as tests: `cargo test --release -p parhelion-tidy`.
//!
//! What rustc and clippy cannot see, because it lies between crates or outside Rust: which crate may
//! import which, how long files are, text that must not be in the repository, documentation that is missing, and links
//! that lead nowhere. Each test lists every offence at once, with file and line.
//!
//! The table of arrows is [`may_import`]; a new crate needs an entry there only if it breaks the rule of its folder.

/// How one crate imports another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Import {
    /// In what is built for use.
    Normal,
    /// In tests, examples and benchmarks only.
    Dev,
}

/// Whether the crate in folder `from` may import the one in folder `to`, both relative to the repository.
///
/// Protocols import only protocols below them; plugins only the plugin protocol and the types it is made of, beside what
/// several of them are built on (the catalogue and the kit import them all); actors
/// protocols, observability and the runtime of actors; services everything below them. Integration imports anything.
#[must_use]
pub fn may_import(from: &str, to: &str, import: Import) -> bool {
    if EXCEPTIONS.iter().any(|&(a, b, _)| (a, b) == (from, to)) {
        return true;
    }
    let dev = import == Import::Dev;
    match folder(from) {
        "protocols" => match (protocol_rank(from), protocol_rank(to)) {
            (Some(from), Some(to)) => to < from,
            // A core is tested with the real codes and models, never with mocks.
            _ => dev && folder(to) == "plugins",
        },
        "plugins" => {
            matches!(to, "protocols/types" | "protocols/plugin")
                || matches!(to, "plugins/galois" | "plugins/abi" | "plugins/sdk")
                || (folder(to) == "plugins" && (dev || matches!(from, "plugins/host" | "plugins/kit")))
        }
        "observability" => matches!(to, "protocols/types" | "protocols/wire"),
        "actors" => {
            matches!(folder(to), "protocols" | "observability")
                || to == "actors/runtime"
                || (dev && matches!(folder(to), "plugins" | "actors"))
        }
        "services" => {
            matches!(folder(to), "protocols" | "observability" | "actors" | "plugins")
                || (folder(to) == "services" && (from == "services/parhelion" || to == "services/client"))
                || (dev && folder(to) == "integration")
        }
        "integration" => true,
        _ => false,
    }
}

/// Arrows against the rule of their folder, each with its reason.
pub const EXCEPTIONS: [(&str, &str, &str); 8] = [
    ("plugins/trace", "plugins/monte-carlo", "both play the decoder, with the same table of what was played"),
    ("services/parhelion", "integration/wan", "`parhelion drill` puts the link emulator between its sites"),
    ("services/parhelion", "integration/drill", "`parhelion drill` is part of the one binary"),
    ("services/client", "services/gate", "questions, answers and certificates have one form for both ends"),
    ("services/http", "services/gate", "all front ends call the same backend"),
    ("actors/runtime", "actors/credit", "byte credits are for actors and for clients, which have no actors"),
    ("actors/storage", "actors/link", "storage meets the link driver through its messages, which live there"),
    ("actors/gateway", "actors/link", "the gateway stands between one driver and several storage actors"),
];

/// Height of a protocol crate: it may import lower ones.
fn protocol_rank(path: &str) -> Option<usize> {
    const RANKS: [&[&str]; 5] = [
        &["protocols/types"],
        &["protocols/wire"],
        &["protocols/plugin"],
        &["protocols/link", "protocols/risk", "protocols/log"],
        &["protocols/mirror", "protocols/plan", "protocols/fs", "protocols/kv"],
    ];
    RANKS.iter().position(|rank| rank.contains(&path))
}

fn folder(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_point_down() {
        let normal = |from, to| may_import(from, to, Import::Normal);
        assert!(normal("protocols/mirror", "protocols/log"));
        assert!(!normal("protocols/log", "protocols/mirror"));
        assert!(!normal("protocols/log", "protocols/link"));
        assert!(!normal("protocols/link", "plugins/none"));
        assert!(may_import("protocols/link", "plugins/none", Import::Dev));
        assert!(!normal("protocols/types", "observability"));
        assert!(normal("plugins/host", "plugins/none") && !normal("plugins/none", "plugins/repetition"));
        assert!(!normal("plugins/none", "protocols/wire"));
        assert!(normal("actors/link", "actors/runtime") && !normal("actors/link", "actors/storage"));
        assert!(normal("services/http", "actors/storage") && !normal("actors/storage", "services/http"));
        assert!(
            normal("services/parhelion", "integration/drill")
                && !normal("services/http", "integration/drill")
        );
        assert!(!normal("somewhere/new", "protocols/types"));
    }
}
