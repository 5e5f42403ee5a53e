//! What a calibration found: the two numbers, and all that they rest on.

use serde::{Deserialize, Serialize};

use crate::campaign::Results;
use crate::catalogue::Class;
use crate::cell::{Cell, LINK_REFUTED, RATIO_LOSSES_MIN};
use crate::reliability::Reliability;
use crate::statistics::{binomial_tail, quantile};
use crate::worsening::Worsening;

/// Name and version of the JSON form.
pub const SCHEMA: &str = "parhelion-calibration/1";

/// Everything that was found. The same seed gives the same report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Everything that is random follows from it.
    pub seed: u64,
    /// Disasters that were judged, each at one confidence by one model.
    pub judged: u64,
    /// All disasters, with those in which the mirror had confirmed the append before its risk was low enough.
    pub disasters: u64,
    /// Channels of the grid, and codes.
    pub grid: (usize, usize),
    /// The first number: how often losses exceed the promise.
    pub promises: Vec<Promises>,
    /// The second number: by how much promises exceed the losses.
    pub sharpness: Vec<Sharpness>,
    /// P-value below which a cell is refuted: 1 % shared among all cells that were tested.
    pub refuted_below: f64,
    /// Lines that get worse.
    pub worsening: Vec<Worsening>,
    /// Promised risk against losses.
    pub reliability: Reliability,
    /// Every cell.
    pub cells: Vec<Cell>,
}

/// How often losses exceed the promise, for one model on channels of one kind at one confidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Promises {
    /// The model.
    pub model: String,
    /// The kind of channel.
    pub class: Class,
    /// Whether the model's own assumption holds there.
    pub is_supposed: bool,
    /// The confidence.
    pub confidence: f64,
    /// Disasters that were judged.
    pub judged: u64,
    /// Losses promised at most.
    pub promised: f64,
    /// Losses.
    pub lost: u64,
    /// Links, each with telemetry of its own, about which the confidence is a statement.
    pub links: u64,
    /// Of those, with more losses than promised, by any number: half of them would be if promises were exact.
    pub links_above: u64,
    /// Of those, with more losses than exact promises would see once in a hundred times.
    pub links_refuted: u64,
    /// How many may be: those whose bounds fail, and one in a hundred of the others.
    pub links_allowed: f64,
    /// P(so many or more), if each link fails with the probability that is allowed.
    pub p_value: f64,
    /// Cells that were tested, each against its promises without any allowance for the confidence.
    pub cells: u64,
    /// Of those, refuted; see [`Report::refuted_below`].
    pub cells_refuted: u64,
}

impl Promises {
    /// Whether losses exceed the promise more often than the confidence allows.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.p_value < LINK_REFUTED
    }
}

/// By how much promises exceed the losses, for one model and code at one confidence, on stationary channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sharpness {
    /// The model.
    pub model: String,
    /// The code; none for all of them.
    pub code: Option<String>,
    /// The confidence.
    pub confidence: f64,
    /// Cells with enough losses to tell.
    pub cells: usize,
    /// Median of promised over lost; none without such cells.
    pub median: Option<f64>,
    /// The largest.
    pub largest: Option<f64>,
    /// Sum of all promises over all losses, cells with few losses included; none without a loss.
    pub overall: Option<f64>,
}

impl Report {
    /// The report of a campaign.
    #[must_use]
    pub fn new(seed: u64, grid: (usize, usize), results: Results, worsening: Vec<Worsening>) -> Self {
        let Results { cells, reliability, .. } = results;
        let tested = cells.iter().filter(|cell| is_tested(cell)).count();
        let refuted_below = CELLS_REFUTED / tested.max(1) as f64;
        Self {
            schema: SCHEMA.to_owned(),
            seed,
            judged: cells.iter().map(|cell| cell.judged).sum(),
            disasters: cells.iter().map(|cell| cell.disasters).sum(),
            grid,
            promises: promises(&cells, refuted_below),
            sharpness: sharpness(&cells),
            refuted_below,
            worsening,
            reliability,
            cells,
        }
    }

    /// Cells whose losses refute their promises, worst first.
    #[must_use]
    pub fn refuted(&self) -> Vec<&Cell> {
        let mut refuted: Vec<&Cell> =
            self.cells.iter().filter(|cell| cell.p_value < self.refuted_below).collect();
        refuted.sort_by(|a, b| a.p_value.total_cmp(&b.p_value));
        refuted
    }
}

/// Whether the cell counts for the first number: not where a model is shown beyond its assumption for contrast.
fn is_tested(cell: &Cell) -> bool {
    cell.class.is_stationary() && cell.judged > 0
}

/// How likely it is that any cell of exact promises is called refuted.
const CELLS_REFUTED: f64 = 0.01;

fn promises(cells: &[Cell], refuted_below: f64) -> Vec<Promises> {
    let mut all: Vec<Promises> = Vec::new();
    for cell in cells {
        let same = |row: &Promises| {
            (&row.model, row.class, row.is_supposed, row.confidence)
                == (&cell.model, cell.class, cell.is_supposed, cell.confidence)
        };
        let at = all.iter().position(same).unwrap_or_else(|| {
            all.push(Promises {
                model: cell.model.clone(),
                class: cell.class,
                is_supposed: cell.is_supposed,
                confidence: cell.confidence,
                judged: 0,
                promised: 0.0,
                lost: 0,
                links: 0,
                links_above: 0,
                links_refuted: 0,
                links_allowed: 0.0,
                p_value: 1.0,
                cells: 0,
                cells_refuted: 0,
            });
            all.len() - 1
        });
        let row = &mut all[at];
        row.judged += cell.judged;
        row.promised += cell.promised;
        row.lost += cell.lost;
        row.links += cell.links;
        row.links_above += cell.links_above;
        row.links_refuted += cell.links_refuted;
        row.cells += u64::from(cell.judged > 0);
        row.cells_refuted += u64::from(cell.p_value < refuted_below);
    }
    for row in &mut all {
        let allowed = 1.0 - row.confidence * (1.0 - LINK_REFUTED);
        row.links_allowed = allowed * row.links as f64;
        row.p_value = binomial_tail(row.links_refuted, row.links, allowed);
    }
    // Models in the order of the grid, each from what it supposes to what it does not.
    all.sort_by_key(|row| (!row.is_supposed, row.class as u8));
    all.sort_by(|a, b| a.model.cmp(&b.model));
    all
}

fn sharpness(cells: &[Cell]) -> Vec<Sharpness> {
    let mut all = Vec::new();
    let mut keys: Vec<(&str, f64)> = Vec::new();
    let mut codes: Vec<&str> = Vec::new();
    for cell in cells {
        if !keys.contains(&(cell.model.as_str(), cell.confidence)) {
            keys.push((&cell.model, cell.confidence));
        }
        if !codes.contains(&cell.code.as_str()) {
            codes.push(&cell.code);
        }
    }
    for (model, confidence) in keys {
        for code in std::iter::once(None).chain(codes.iter().copied().map(Some)) {
            let own = cells.iter().filter(|cell| {
                (cell.model.as_str(), cell.confidence) == (model, confidence)
                    && code.is_none_or(|code| cell.code == code)
                    && cell.class.is_stationary()
                    && cell.judged > 0
            });
            let (mut promised, mut lost, mut ratios) = (0.0, 0, Vec::new());
            for cell in own {
                promised += cell.promised;
                lost += cell.lost;
                ratios.extend(cell.ratio());
            }
            ratios.sort_by(f64::total_cmp);
            all.push(Sharpness {
                model: model.to_owned(),
                code: code.map(str::to_owned),
                confidence,
                cells: ratios.len(),
                median: (!ratios.is_empty()).then(|| quantile(&ratios, 0.5)),
                largest: ratios.last().copied(),
                overall: (lost > 0).then(|| promised / lost as f64),
            });
        }
    }
    all
}

/// What a reader of the second number must know.
pub(crate) fn ratio_note() -> String {
    format!("ratios are those of cells with at least {RATIO_LOSSES_MIN} losses")
}
