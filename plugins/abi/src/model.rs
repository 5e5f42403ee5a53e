//! Durability models of plugins.

use std::fmt;
use std::sync::OnceLock;

use parhelion_plugin::{Channel, Code, DurabilityModel, Exposure};
use parhelion_plugin_sdk::Question;
use parhelion_types::Risk;

use crate::description::Description;
use crate::flat::question;
use crate::load::LoadError;

/// What runs a plugin's model.
pub trait ModelEngine: Send + Sync + fmt::Debug {
    /// The plugin's answer.
    ///
    /// # Errors
    /// It broke: what happened.
    fn own_risk(&self, question: &Question) -> Result<f64, String>;
}

/// A durability model of a plugin.
///
/// A model that broke once, or answered what is no probability, answers certain loss from then on, and
/// [`DurabilityModel::fault`] says why: who errs once may err in the other direction next time.
#[derive(Debug)]
pub struct PluginModel<E> {
    description: Description,
    engine: E,
    fault: OnceLock<String>,
}

impl<E: ModelEngine> PluginModel<E> {
    /// The model; it is tried on a few questions first.
    ///
    /// # Errors
    /// It breaks, or answers what is no probability.
    pub fn new(description: Description, engine: E) -> Result<Self, LoadError> {
        let model = Self { description, engine, fault: OnceLock::new() };
        for question in TRIAL {
            model.answer(&question).map_err(LoadError::Broke)?;
        }
        Ok(model)
    }

    fn answer(&self, question: &Question) -> Result<Risk, String> {
        let answer = self.engine.own_risk(question)?;
        if !(0.0..=1.0).contains(&answer) {
            return Err(format!("answered a risk of {answer}, which is not from 0 to 1"));
        }
        Ok(Risk::bound(answer))
    }
}

impl<E: ModelEngine> DurabilityModel for PluginModel<E> {
    fn name(&self) -> &str {
        &self.description.name
    }

    fn version(&self) -> u32 {
        self.description.version
    }

    fn own_risk(&self, channel: &Channel, code: &Code, exposure: &Exposure) -> Risk {
        if self.fault.get().is_some() {
            return Risk::CERTAIN;
        }
        let Some(question) = question(channel, code.structure(), exposure) else { return Risk::CERTAIN };
        self.answer(&question).unwrap_or_else(|fault| {
            let Description { name, version, .. } = &self.description;
            // Another thread may have been first; one reason is enough.
            let _ = self.fault.set(format!("durability model {name} v{version} {fault}"));
            Risk::CERTAIN
        })
    }

    fn explain(&self, _channel: &Channel, code: &Code, _exposure: &Exposure) -> Option<String> {
        if let Some(fault) = self.fault.get() {
            return Some(format!("{fault}; nothing is promised until another model is configured"));
        }
        let unknown = crate::flat::flattened(code.structure()).is_none();
        unknown.then(|| {
            format!("plugins know no code with as many layers as {code}; configure a built-in model")
        })
    }

    fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }
}

/// Questions that every model must have an answer to: a good channel, a bursty one, and one that loses everything.
const TRIAL: [Question; 3] = {
    let code = parhelion_plugin_sdk::Structure {
        kind: parhelion_plugin_sdk::Structure::BLOCK,
        r: 8,
        c: 3,
        depth: 1,
        copies: 0,
        spacing: 0,
        delayed: 0,
        layers: 0,
        interleaves: [0; 8],
        window: 0,
        indices: 0,
        repairs: 0,
        per: 0,
        span: 0,
        losses: 0,
        reserved: [0; 2],
    };
    let good = Question {
        good_to_bad: 1e-5,
        bad_to_good: 1.0,
        loss_in_bad: 1.0,
        loss: 1e-5,
        confidence: 0.999,
        packets_per_second: 10_000.0,
        coverage: 0b111,
        flushed: 0,
        symbols: 4,
        group_max: 8,
        flush_run: 0,
        flush_pause: 0,
        code,
    };
    let bursty = Question { good_to_bad: 0.01, bad_to_good: 0.2, loss: 0.05, ..good };
    let hopeless =
        Question { good_to_bad: 1.0, bad_to_good: 0.0, loss: 1.0, coverage: 0, group_max: 0, ..good };
    [good, bursty, hopeless]
};
