//! `docs/metrics.md` lists what a node publishes: all of it, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use parhelion_observability::Metrics;

const DOCUMENT: &str = include_str!("../../docs/metrics.md");

/// What the document and the code must agree on.
#[derive(Debug, PartialEq, Eq)]
struct Declared {
    kind: String,
    unit: String,
    labels: BTreeSet<String>,
}

/// From the tables of the document.
fn documented() -> BTreeMap<String, Declared> {
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `parhelion_"));
    let parse = |row: &str| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, unit, labels, meaning, place] = cells[..] else {
            panic!("not six cells: {row}");
        };
        assert!(!meaning.is_empty() && !place.is_empty(), "{row}");
        let labels = labels.split(", ").filter(|label| *label != "-");
        let labels = labels.map(|label| label.trim_matches('`').to_owned()).collect();
        let declared = Declared { kind: kind.to_owned(), unit: unit.replace('-', ""), labels };
        (name.trim_matches('`').to_owned(), declared)
    };
    let all: Vec<_> = rows.map(parse).collect();
    let count = all.len();
    let all: BTreeMap<_, _> = all.into_iter().collect();
    assert_eq!(all.len(), count, "a metric is listed twice");
    all
}

/// From what a node publishes.
fn published() -> BTreeMap<String, Declared> {
    let metrics = Metrics::new();
    // These have no series before the first actor or buffer is named.
    metrics.restarts("encoder").inc();
    metrics.buffer_bytes("link").set(1.0);
    let text = metrics.prometheus_text();
    let about = |what: &str| {
        let about = text.lines().filter_map(|line| line.strip_prefix(what)?.split_once(' '));
        about.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>()
    };
    let units = about("# UNIT ");
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let declared = about("# TYPE ").into_iter().map(|(family, kind)| {
        let name = if kind == "counter" { format!("{family}_total") } else { family.clone() };
        let first = samples.iter().find_map(|line| line.strip_prefix(&name));
        let first = first.unwrap_or_else(|| panic!("no sample of {name}"));
        let labels = first.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
        let labels = labels.into_iter().flat_map(|(labels, _)| labels.split(','));
        let labels = labels.filter_map(|label| label.split_once('=')).map(|(key, _)| key.to_owned());
        let labels = labels.filter(|key| key != "le").collect();
        let unit = units.get(&family).cloned().unwrap_or_default();
        (name, Declared { kind, unit, labels })
    });
    declared.collect()
}

#[test]
fn the_document_lists_every_metric_as_it_is_published() {
    let (documented, published) = (documented(), published());
    assert!(published.len() > 30, "{published:?}");
    for (name, declared) in &published {
        assert_eq!(documented.get(name), Some(declared), "{name} in docs/metrics.md");
    }
    for name in documented.keys() {
        assert!(published.contains_key(name), "docs/metrics.md has {name}, which no node publishes");
    }
}

/// An alarm on a name that does not exist never fires.
#[test]
fn expressions_name_metrics_that_are_there() {
    let published = published();
    let text = Metrics::new().prometheus_text();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut expressions = Vec::new();
    for block in DOCUMENT.split("```promql").skip(1) {
        expressions.push(block.split("```").next().unwrap());
    }
    assert_eq!(expressions.len(), 5, "the five to alarm on");
    let code = DOCUMENT.split('`').filter(|code| code.contains("parhelion_") && code.contains('('));
    expressions.extend(code);
    assert!(expressions.len() > 10, "{expressions:?}");
    for expression in expressions {
        let mut rest = expression;
        while let Some(at) = rest.find("parhelion_") {
            rest = &rest[at..];
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let name = &rest[..end];
            let family = name.strip_suffix("_bucket").unwrap_or(name);
            let declared = published.get(family).unwrap_or_else(|| panic!("no {name} for {expression}"));
            assert_eq!(declared.kind == "histogram", family != name, "{expression}");
            rest = &rest[end..];
            // What it selects by is a label of the metric, with a value that there is.
            let Some((selector, _)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
                continue;
            };
            let (label, values) = selector.split_once(['=', '!']).unwrap();
            assert!(declared.labels.contains(label), "{expression}");
            for value in values.trim_matches(['=', '~', '"']).split('|') {
                let sample = format!("{label}=\"{value}\"");
                assert!(text.contains(&sample), "no {sample} for {expression}");
            }
        }
    }
}
