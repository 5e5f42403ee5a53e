//! A durability model: independent losses, block codes and repetition. Change the name in [`Model::DESCRIPTION`] and the
//! mathematics, and hold it against the conformance kit: `parhelion plugin check`.
//!
//! # Guarantee
//! An upper bound where losses are independent. A symbol of a block of g source symbols, k repairs of which are on the wire,
//! is lost for good if it is lost and k or more of the other g + k - 1 packets are, too; a repeated one if all its copies
//! are. For any other code the figure is what it would be without one. No bound if losses come in bursts.

mod parhelion_plugin;

use parhelion_plugin::{Model, Question, Structure};

/// The model of this plugin.
pub struct Binomial;

parhelion_plugin::export_model!(Binomial);

/// Rounding errors grow with the number of terms; nobody makes larger blocks.
const GROUP_MAX: u32 = 4096;

impl Model for Binomial {
    const DESCRIPTION: &'static str = r#"{"kind": "model", "name": "binomial", "version": 1}"#;

    fn own_risk(question: &Question) -> f64 {
        let (p, code) = (question.loss, &question.code);
        if !(0.0..=1.0).contains(&p) {
            return 1.0; // a loss that is not a number promises nothing
        }
        // Bits beyond the code's indices say nothing.
        let repairs = |indices: u32| match indices {
            0..=63 => (question.coverage & ((1 << indices) - 1)).count_ones(),
            _ => question.coverage.count_ones(),
        };
        let group = question.group_max.max(1);
        let symbol = match code.kind {
            Structure::REPETITION => p.powi(1 + repairs(code.copies) as i32),
            Structure::BLOCK if repairs(code.c) > 0 && group < GROUP_MAX => {
                p * at_least(repairs(code.c), group + repairs(code.c) - 1, p)
            }
            _ => p,
        };
        // Union bound over the symbols of the append.
        (symbol * f64::from(question.symbols)).min(1.0)
    }
}

/// P(`least` or more of `trials` independent packets are lost): term by term from the first that counts, each of which is
/// the last one times the odds and the change of the binomial coefficient.
fn at_least(least: u32, trials: u32, p: f64) -> f64 {
    if least == 0 || p >= 1.0 {
        return 1.0;
    }
    if p <= 0.0 || least > trials {
        return 0.0;
    }
    let first = (1..=least).fold(1.0, |term, k| term * p * f64::from(trials - least + k) / f64::from(k));
    let (mut term, mut sum) = (first, 0.0);
    for lost in least..=trials {
        sum += term;
        term *= p / (1.0 - p) * f64::from(trials - lost) / f64::from(lost + 1);
    }
    // The other packets arrive: a factor of every term.
    (sum * (1.0 - p).powi((trials - least) as i32)).min(1.0)
}
