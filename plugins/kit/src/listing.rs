//! What plugins there are, for people and for scripts.

use parhelion_plugin::conformance::{Burst, burst_recovered, losses_recovered};
use parhelion_plugin::{Parameter, Parameters, Structure};
use parhelion_plugin_host::{Catalogue, Entry, Kind, Loaded, Origin};
use serde::Serialize;

/// One plugin.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    /// `code` or `model`.
    pub kind: &'static str,
    /// What the configuration calls it; with `@version`, exactly this one.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Where it comes from.
    pub origin: Source,
    /// What can be set; nothing for a model.
    pub parameters: Vec<ListedParameter>,
    /// What a code does with its defaults; none for a model.
    pub defaults: Option<Guarantee>,
}

/// Where a plugin comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Source {
    /// `built-in`, `library` or `sandbox`.
    pub form: &'static str,
    /// The file, if it is one.
    pub file: Option<String>,
}

/// A parameter of a code.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListedParameter {
    /// Its name.
    pub name: String,
    /// What it means.
    pub meaning: String,
    /// The unit of its values.
    pub unit: String,
    /// Smallest value.
    pub min: u32,
    /// Largest value.
    pub max: u32,
    /// Most values.
    pub values_max: usize,
    /// What it is if nothing is given.
    pub default: Vec<u32>,
}

/// What a structure promises, in figures and in a sentence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guarantee {
    /// The structure in a sentence.
    pub text: String,
    /// Repair bytes per source byte.
    pub overhead: f64,
    /// Source symbols from the first of a group until its last repair has left.
    pub span_symbols: u64,
    /// Losses, whichever they are, that are made up for.
    pub losses: u32,
    /// The longest burst that is made up for.
    pub burst: u64,
    /// `packets`, or `source symbols` with the repairs between them.
    pub burst_unit: &'static str,
}

/// Every plugin of a catalogue, built-in ones first.
#[must_use]
pub fn list(catalogue: &Catalogue) -> Vec<Listed> {
    catalogue.entries().iter().map(listed).collect()
}

/// One plugin.
#[must_use]
pub fn listed(entry: &Entry) -> Listed {
    let (parameters, defaults) = match &entry.plugin {
        Loaded::Code(code) => {
            (code.parameters(), code.structure(&Parameters::new()).ok().map(|it| guarantee(&it)))
        }
        Loaded::Model(_) => (&[][..], None),
    };
    Listed {
        kind: match entry.plugin.kind() {
            Kind::Code => "code",
            Kind::Model => "model",
        },
        name: entry.plugin.name().to_owned(),
        version: entry.plugin.version(),
        origin: match &entry.origin {
            Origin::BuiltIn => Source { form: "built-in", file: None },
            Origin::Library(file) => Source { form: "library", file: Some(file.display().to_string()) },
            Origin::Sandbox(file) => Source { form: "sandbox", file: Some(file.display().to_string()) },
        },
        parameters: parameters.iter().map(ListedParameter::from).collect(),
        defaults,
    }
}

impl From<&Parameter> for ListedParameter {
    fn from(parameter: &Parameter) -> Self {
        Self {
            name: parameter.name.to_string(),
            meaning: parameter.meaning.to_string(),
            unit: parameter.unit.to_string(),
            min: parameter.min,
            max: parameter.max,
            values_max: parameter.values_max,
            default: parameter.default.to_vec(),
        }
    }
}

impl ListedParameter {
    /// `r=8`, as the configuration has it.
    #[must_use]
    pub fn text(&self) -> String {
        Parameters::new().with(&self.name, &self.default).to_string()
    }

    /// `1 to 64 symbols`, or `up to 8 values, 1 to 16384 symbols`.
    #[must_use]
    pub fn range(&self) -> String {
        let Self { unit, min, max, values_max, .. } = self;
        match values_max {
            1 => format!("{min} to {max} {unit}"),
            _ => format!("up to {values_max} values, {min} to {max} {unit}"),
        }
    }
}

/// What a structure promises.
#[must_use]
pub fn guarantee(structure: &Structure) -> Guarantee {
    let (burst, burst_unit) = match burst_recovered(structure) {
        Burst::Packets(count) => (count, "packets"),
        Burst::Sources(count) => (count, "source symbols"),
    };
    Guarantee {
        text: text(structure),
        overhead: structure.overhead(),
        span_symbols: structure.span_symbols(),
        losses: losses_recovered(structure),
        burst,
        burst_unit,
    }
}

fn text(structure: &Structure) -> String {
    match structure {
        Structure::None => "no repairs".to_owned(),
        Structure::Repetition { copies, spacing } => {
            let copies = if *copies == 1 { "one copy".to_owned() } else { format!("{copies} copies") };
            format!("{copies} of each symbol, {spacing} symbols after the last")
        }
        Structure::Block { r, c, depth: 1 } => format!("blocks: any {r} of {} symbols", r + c),
        Structure::Block { r, c, depth } => {
            format!("blocks: any {r} of {} symbols, {depth} blocks in turn", r + c)
        }
        Structure::Layered { r, interleaves, delayed } => {
            let lanes = interleaves.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            let when = if *delayed { "delayed" } else { "at once" };
            format!("layers: XORs of {r} symbols {lanes} apart, {when}")
        }
        Structure::Window { r, c, window, .. } => {
            format!("sliding window: {c} repairs for {r} symbols, over the newest {window}")
        }
        Structure::Other { repairs, per, .. } => {
            format!(
                "another structure: {repairs} repairs for {per} symbols; only simulating models can price it"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_plugin_is_listed_with_its_guarantee() {
        let all = list(&Catalogue::built_in());
        let layered = all.iter().find(|it| it.name == "layered-interleaving").unwrap();
        assert_eq!((layered.kind, layered.origin.form, layered.version), ("code", "built-in", 1));
        let defaults = layered.defaults.as_ref().unwrap();
        assert_eq!((defaults.losses, defaults.burst, defaults.burst_unit), (3, 101, "source symbols"));
        assert_eq!(defaults.text, "layers: XORs of 8 symbols 1, 23, 101 apart, delayed");
        let interleaves = layered.parameters.iter().find(|it| it.name == "interleaves").unwrap();
        assert_eq!(interleaves.text(), "interleaves=1:23:101");
        assert_eq!(interleaves.range(), "up to 8 values, 1 to 16384 symbols");
        let model = all.iter().find(|it| it.kind == "model").unwrap();
        assert!(model.parameters.is_empty() && model.defaults.is_none());
    }
}
