//! Promises by size, against the losses that followed.

use serde::{Deserialize, Serialize};

use crate::catalogue::Class;
use crate::cell::Heading;
use crate::life::Outcome;
use crate::statistics::clopper_pearson;

/// Bins of promised risk, for each model, kind of channel and confidence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reliability {
    /// The curves, in the order in which they were met.
    pub curves: Vec<Curve>,
}

/// One model on channels of one kind at one confidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The model.
    pub model: String,
    /// The kind of channel.
    pub class: Class,
    /// Whether the model's own assumption holds there.
    pub is_supposed: bool,
    /// The confidence.
    pub confidence: f64,
    /// By promised risk, ascending; empty ones too.
    pub bins: Vec<Bin>,
}

/// Promises of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Disasters.
    pub disasters: u64,
    /// Sum of what was promised.
    pub promised: f64,
    /// Of the disasters, with a loss.
    pub lost: u64,
}

impl Bin {
    /// Mean promise.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.promised / self.disasters as f64
    }

    /// Share that was lost.
    #[must_use]
    pub fn seen(&self) -> f64 {
        self.lost as f64 / self.disasters as f64
    }

    /// Its exact interval, 99 %.
    #[must_use]
    pub fn interval(&self) -> (f64, f64) {
        clopper_pearson(self.lost, self.disasters, 0.99)
    }
}

impl Reliability {
    /// Counts the disasters of a cell.
    pub(crate) fn take(&mut self, heading: &Heading, lives: &[Outcome], level: usize, model: usize) {
        let Heading { class, model: ref name, confidence, is_supposed, .. } = *heading;
        let same = |curve: &Curve| {
            (curve.class, &curve.model, curve.confidence, curve.is_supposed)
                == (class, name, confidence, is_supposed)
        };
        let at = self.curves.iter().position(same).unwrap_or_else(|| {
            let bins = vec![Bin::default(); BINS];
            self.curves.push(Curve { model: name.clone(), class, is_supposed, confidence, bins });
            self.curves.len() - 1
        });
        let own = lives
            .iter()
            .flat_map(|life| &life.disasters)
            .filter(|disaster| disaster.level == level && disaster.model == model);
        for disaster in own {
            let Some(promised) = disaster.promised else { continue };
            let promised = promised.probability();
            let bin = &mut self.curves[at].bins[bin_of(promised)];
            bin.disasters += 1;
            bin.promised += promised;
            bin.lost += u64::from(disaster.is_lost);
        }
    }
}

/// Two for each power of ten.
const BINS_PER_DECADE: f64 = 2.0;

/// From [`LOWEST`] to 1.
const BINS: usize = 16;

/// What is smaller is in the first bin: the whole run has not enough disasters to try it.
pub const LOWEST: f64 = 1e-8;

fn bin_of(promised: f64) -> usize {
    ((promised.max(LOWEST) / LOWEST).log10() * BINS_PER_DECADE).floor().clamp(0.0, (BINS - 1) as f64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_half_decades() {
        assert_eq!(
            [0.0, 1e-12, 1.01e-8, 0.31e-7, 0.32e-7, 0.2, 0.4, 1.0].map(bin_of),
            [0, 0, 0, 0, 1, 14, 15, 15]
        );
    }
}
