//! The error of a name that leads nowhere.

use parhelion_plugin_abi::Kind;

use crate::Entry;

/// No plugin has that name, or not in that version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} {name:?}; {}known: {known}", suggestion(.nearest))]
pub struct UnknownPlugin {
    /// What was looked for.
    pub kind: Kind,
    /// As given.
    pub name: String,
    /// The known name that is most like it, if one is like it at all; with the version, if one was asked for.
    pub nearest: Option<String>,
    /// Every known name; with versions, if one was asked for.
    pub known: String,
}

/// The question that an error asks back, with a space behind it.
fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("did you mean {name:?}? ")).unwrap_or_default()
}

/// Below this similarity (Jaro-Winkler, 0 to 1) a suggestion would mislead.
const SIMILAR: f64 = 0.7;

impl UnknownPlugin {
    pub(crate) fn new(kind: Kind, name: &str, entries: &[Entry]) -> Self {
        let (lower, versioned) = (name.to_lowercase(), name.contains('@'));
        let plugins = entries.iter().map(|entry| &entry.plugin).filter(|plugin| plugin.kind() == kind);
        let mut known: Vec<_> = plugins
            .map(|plugin| match versioned {
                true => format!("{}@{}", plugin.name(), plugin.version()),
                false => plugin.name().to_owned(),
            })
            .collect();
        // Several versions of one plugin are one name.
        let mut seen = std::collections::BTreeSet::new();
        known.retain(|name| seen.insert(name.clone()));
        let nearest = known
            .iter()
            .map(|candidate| (strsim::jaro_winkler(candidate, &lower), candidate))
            .filter(|(similarity, _)| *similarity >= SIMILAR)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, candidate)| candidate.clone());
        Self { kind, name: name.to_owned(), nearest, known: known.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use crate::Catalogue;

    #[test]
    fn errors_name_the_nearest() {
        let catalogue = Catalogue::built_in();
        let text = |name: &str| catalogue.code(name).unwrap_err().to_string();
        let known = catalogue.codes().map(|code| code.name()).collect::<Vec<_>>().join(", ");
        assert_eq!(
            text("layered-interleave"),
            format!(
                "unknown code \"layered-interleave\"; did you mean \"layered-interleaving\"? known: {known}"
            )
        );
        assert!(text("Reed-Solomon").contains("did you mean \"reed-solomon\"?"));
        assert!(!text("zzz").contains("did you mean"), "{}", text("zzz"));
        assert_eq!(catalogue.model("iid-bond").unwrap_err().nearest.as_deref(), Some("iid-bound"));
    }

    #[test]
    fn errors_name_the_versions_where_one_was_asked_for() {
        let catalogue = Catalogue::built_in();
        for id in ["repetition@9", "repetition@x", "repetition@"] {
            let error = catalogue.code(id).unwrap_err();
            assert_eq!(error.nearest.as_deref(), Some("repetition@1"), "{error}");
            assert!(error.known.contains("none@1"), "{error}");
        }
    }
}
