//! What a drill found, per disaster and per mode, as data.

use std::collections::BTreeMap;

use parhelion_types::{Durability, LogId};
use serde::{Deserialize, Serialize};

use crate::ack::Ack;
use crate::classify::Losses;
use crate::mode::Mode;
use crate::options::{DrillOptions, Form};
use crate::promise::{Outcome, PromiseTest};
use crate::stats::{Latency, Spread};

/// The result of a drill. Its JSON form is the document of `parhelion drill --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    /// Name and version of this document's layout.
    pub schema: String,
    /// What was asked, seed included: the same parameters repeat the drill.
    pub parameters: DrillOptions,
    /// How packets were carried.
    pub form: Form,
    /// One row per mode.
    pub modes: Vec<ModeSummary>,
    /// Every disaster, in the order they happened.
    pub runs: Vec<RunResult>,
}

/// One disaster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// The mode.
    pub mode: Mode,
    /// Which repetition, from 0.
    pub repetition: u32,
    /// The seed of link and writers.
    pub seed: u64,
    /// Appends whose acknowledgement was there at the cut.
    pub acked_appends: u64,
    /// Of those, the ones that were acknowledged before the mirror had confirmed them.
    pub acked_ahead: u64,
    /// Their bytes.
    pub acked_bytes: u64,
    /// Appends whose acknowledgement came after the cut; they count nowhere else.
    pub acked_late: u64,
    /// From sending an append to its acknowledgement, microseconds.
    pub ack_latency_micros: Latency,
    /// From acceptance to the mirror's disk, microseconds, as the mirror measured it, warming up included.
    pub mirroring_latency_micros: Option<Latency>,
    /// Acknowledged payload per second.
    pub goodput_bits_per_second: f64,
    /// Bytes of IP packets that the primary's site offered to the link, from the first append that counts to the cut.
    pub wire_bytes: u64,
    /// Those, divided by the bytes acknowledged.
    pub wire_overhead: f64,
    /// Acknowledged appends that the mirror does not have.
    pub lost: Losses,
    /// Appends that the mirror shows with other bytes than were sent.
    pub altered: u64,
    /// Appends whose bytes were read back from the mirror and hashed.
    pub read_back: u64,
    /// Highest prefix risk promised by an acknowledgement.
    pub risk_highest: f64,
    /// Mean prefix risk promised by acknowledgements.
    pub risk_mean: f64,
    /// Bound that the acknowledgements put on losing any append at the cut.
    pub risk_of_any: f64,
    /// Bound that they put on the number of appends lost at the cut, on average.
    pub loss_allowance: f64,
    /// Whether the packets of this mode met the loss of the link. Segments of a TCP connection do not in the relay form,
    /// so this mode cannot be compared with the others.
    pub meets_loss: bool,
    /// What a reader must know to trust the figures.
    pub notes: Vec<String>,
}

/// All disasters of one mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModeSummary {
    /// The mode.
    pub mode: Mode,
    /// Disasters.
    pub runs: u64,
    /// Appends acknowledged per disaster.
    pub acked_appends: Spread,
    /// Of those, the ones that were acknowledged before the mirror had confirmed them.
    pub acked_ahead: Spread,
    /// Bytes acknowledged per disaster.
    pub acked_bytes: Spread,
    /// Median of the acknowledgement latency, microseconds.
    pub ack_p50_micros: Spread,
    /// 99 % of acknowledgements are at most this late, microseconds.
    pub ack_p99_micros: Spread,
    /// The latest acknowledgement of all disasters, microseconds.
    pub ack_max_micros: f64,
    /// Median of the mirroring latency, microseconds.
    pub mirroring_p50_micros: Option<Spread>,
    /// 99 % of appends are at the mirror after at most this, microseconds.
    pub mirroring_p99_micros: Option<Spread>,
    /// Standard deviation of the mirroring latency within a disaster, microseconds.
    pub mirroring_spread_micros: Option<Spread>,
    /// Acknowledged payload per second.
    pub goodput_bits_per_second: Spread,
    /// Bytes on the wire per byte acknowledged.
    pub wire_overhead: Spread,
    /// Acknowledged appends lost per disaster.
    pub lost_appends: Spread,
    /// Acknowledged appends lost in all disasters, by cause.
    pub lost: Losses,
    /// Appends shown with other bytes than were sent, in all disasters.
    pub altered: u64,
    /// Appends whose bytes were read back from the mirror and hashed, in all disasters.
    pub read_back: u64,
    /// Highest prefix risk promised.
    pub risk_highest: f64,
    /// Mean prefix risk promised.
    pub risk_mean: f64,
    /// Whether the packets of this mode met the loss of the link, in all disasters.
    pub meets_loss: bool,
    /// Whether the losses refute the promises.
    pub promise: PromiseTest,
}

/// The layout that this version writes.
pub const SCHEMA: &str = "parhelion-drill/1";

/// What the acknowledgements of one disaster add up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AckFigures {
    pub appends: u64,
    pub ahead: u64,
    pub bytes: u64,
    pub late: u64,
    pub latency: Latency,
    /// First sending to cut, in seconds.
    pub seconds: f64,
    pub risk_highest: f64,
    pub risk_mean: f64,
    pub risk_of_any: f64,
    pub loss_allowance: f64,
}

impl AckFigures {
    /// Only what was acknowledged at or before `cut_nanos` counts. What had left before `clean_until_nanos` met no
    /// loss.
    pub(crate) fn of(acks: &[Ack], clean_until_nanos: u64, cut_nanos: u64) -> Self {
        let counted = || acks.iter().filter(|ack| ack.acked_nanos <= cut_nanos);
        let appends = counted().count() as u64;
        let first = counted().map(|ack| ack.sent_nanos).min().unwrap_or(cut_nanos);
        let risks: f64 = counted().map(|ack| ack.prefix_risk).sum();
        // The prefix risk of the last append of each log speaks for all before it; logs add up by the union bound.
        let mut last: BTreeMap<LogId, &Ack> = BTreeMap::new();
        for ack in counted() {
            let entry = last.entry(ack.log).or_insert(ack);
            if ack.address > entry.address {
                *entry = ack;
            }
        }
        // What was on the wire before the first loss arrived whatever was promised; to count its risk would let any
        // number of losses pass. The levels that promise nothing may still have it in a buffer.
        let at_risk = |ack: &&Ack| ack.acked_nanos > clean_until_nanos || ack.reached < Durability::Network;
        Self {
            appends,
            ahead: counted().filter(|ack| ack.reached < Durability::Remote).count() as u64,
            bytes: counted().map(|ack| u64::from(ack.length)).sum(),
            late: acks.len() as u64 - appends,
            latency: Latency::of_nanos(counted().map(Ack::latency_nanos)),
            seconds: cut_nanos.saturating_sub(first) as f64 / 1e9,
            risk_highest: counted().map(|ack| ack.prefix_risk).fold(0.0, f64::max),
            risk_mean: if appends == 0 { 0.0 } else { risks / appends as f64 },
            risk_of_any: last.values().map(|ack| ack.prefix_risk).sum::<f64>().min(1.0),
            // A lost append is one whose prefix is lost, so it is the prefix risks that add up.
            loss_allowance: counted().filter(at_risk).map(|ack| ack.prefix_risk).sum(),
        }
    }
}

impl DrillReport {
    /// Sums up `runs`.
    #[must_use]
    pub fn new(parameters: DrillOptions, form: Form, runs: Vec<RunResult>) -> Self {
        let modes = parameters
            .modes
            .iter()
            .map(|&mode| (mode, runs.iter().filter(|run| run.mode == mode).collect::<Vec<_>>()))
            .filter(|(_, runs)| !runs.is_empty())
            .map(|(mode, runs)| ModeSummary::of(mode, &runs))
            .collect();
        Self { schema: SCHEMA.to_owned(), parameters, form, modes, runs }
    }

    /// The document of `--json`.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Plain numbers, strings and lists: serialising them does not fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Whether the drill shows a fault: altered bytes, a loss that no announcement named, or a promise refuted.
    #[must_use]
    pub fn is_faulty(&self) -> bool {
        self.modes.iter().any(|row| row.altered > 0 || row.lost.unnamed > 0 || row.promise.refuted)
    }
}

impl ModeSummary {
    fn of(mode: Mode, runs: &[&RunResult]) -> Self {
        let spread = |figure: &dyn Fn(&RunResult) -> f64| {
            Spread::of(&runs.iter().map(|run| figure(run)).collect::<Vec<_>>())
        };
        let mirroring = |figure: &dyn Fn(&Latency) -> f64| {
            let known: Vec<f64> =
                runs.iter().filter_map(|run| run.mirroring_latency_micros.as_ref()).map(figure).collect();
            (!known.is_empty()).then(|| Spread::of(&known))
        };
        let largest =
            |figure: &dyn Fn(&RunResult) -> f64| runs.iter().map(|run| figure(run)).fold(0.0, f64::max);
        let outcomes: Vec<Outcome> = runs
            .iter()
            .map(|run| Outcome {
                risk_of_any: run.risk_of_any,
                allowance: run.loss_allowance,
                lost: run.lost.total,
            })
            .collect();
        Self {
            mode,
            runs: runs.len() as u64,
            acked_appends: spread(&|run| run.acked_appends as f64),
            acked_ahead: spread(&|run| run.acked_ahead as f64),
            acked_bytes: spread(&|run| run.acked_bytes as f64),
            ack_p50_micros: spread(&|run| run.ack_latency_micros.p50),
            ack_p99_micros: spread(&|run| run.ack_latency_micros.p99),
            ack_max_micros: largest(&|run| run.ack_latency_micros.max),
            mirroring_p50_micros: mirroring(&|latency| latency.p50),
            mirroring_p99_micros: mirroring(&|latency| latency.p99),
            mirroring_spread_micros: mirroring(&|latency| latency.stddev),
            goodput_bits_per_second: spread(&|run| run.goodput_bits_per_second),
            wire_overhead: spread(&|run| run.wire_overhead),
            lost_appends: spread(&|run| run.lost.total as f64),
            lost: runs.iter().fold(Losses::default(), |sum, run| sum.and(run.lost)),
            altered: runs.iter().map(|run| run.altered).sum(),
            read_back: runs.iter().map(|run| run.read_back).sum(),
            risk_highest: largest(&|run| run.risk_highest),
            risk_mean: spread(&|run| run.risk_mean).mean,
            meets_loss: runs.iter().all(|run| run.meets_loss),
            promise: PromiseTest::of(&outcomes),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ack::tests::ack;

    /// A plausible disaster of `mode`.
    pub(crate) fn sample_run(mode: Mode, repetition: u32) -> RunResult {
        let jitter = f64::from(repetition) * 100.0;
        let (ack, lost, risk) = match mode {
            Mode::LocalSync => (400.0, 620, 1.0),
            Mode::LocalSyncFec => (430.0, 85, 1.0),
            Mode::NetworkSync => (4_800.0, 0, 8e-7),
            Mode::RemoteSync => (103_000.0, 0, 0.0),
            Mode::RemoteSyncFec => (104_000.0, 0, 0.0),
        };
        let latency = |middle: f64| Latency {
            count: 1000,
            min: middle * 0.7,
            p50: middle + jitter,
            p99: middle * 1.8 + jitter,
            max: middle * 3.0,
            mean: middle * 1.1,
            stddev: middle * 0.2,
            quantiles: vec![
                (0.0, middle * 0.7),
                (0.1, middle * 0.8),
                (0.5, middle),
                (0.9, middle * 1.4),
                (0.99, middle * 1.8),
                (1.0, middle * 3.0),
            ],
        };
        let mirroring = if mode.has_code() { 52_000.0 } else { 61_000.0 };
        RunResult {
            mode,
            repetition,
            seed: 1 + u64::from(repetition),
            acked_appends: 54_321,
            acked_ahead: if mode.durability() == Durability::Remote { 0 } else { 54_000 },
            acked_bytes: 54_321 * 4096,
            acked_late: 3,
            ack_latency_micros: latency(ack),
            mirroring_latency_micros: Some(Latency { quantiles: Vec::new(), ..latency(mirroring) }),
            goodput_bits_per_second: 178e6,
            wire_bytes: 330_000_000,
            wire_overhead: if mode.has_code() { 1.46 } else { 1.06 },
            lost: Losses {
                total: lost,
                in_host: lost / 2,
                on_wire: lost - lost / 2 - lost / 8,
                behind_gap: lost / 8,
                inferred: lost / 2,
                ..Losses::default()
            },
            altered: 0,
            read_back: 100,
            risk_highest: risk,
            risk_mean: risk / 2.0,
            risk_of_any: risk,
            loss_allowance: risk * 1000.0,
            meets_loss: true,
            notes: vec!["sample data".to_owned()],
        }
    }

    pub(crate) fn sample_report() -> DrillReport {
        let options = DrillOptions { repeat: 3, ..DrillOptions::default() };
        let runs = Mode::ALL.into_iter().flat_map(|mode| (0..3).map(move |n| sample_run(mode, n))).collect();
        DrillReport::new(options, Form::Packet, runs)
    }

    #[test]
    fn only_what_was_acknowledged_before_the_cut_counts() {
        let mut acks: Vec<Ack> = (0..10).map(|n| ack(n, n * 1_000_000_000)).collect();
        acks[4].prefix_risk = 0.5;
        acks[5].log = LogId(2);
        acks[5].prefix_risk = 0.25;
        acks[8].prefix_risk = 1.0;
        // Append 7 was acknowledged at 7.001 s, append 8 at 8.001 s.
        let figures = AckFigures::of(&acks, 4_001_000_000, 8_000_000_000);
        assert_eq!((figures.appends, figures.late, figures.bytes), (8, 2, 8 * 4096));
        assert!((figures.seconds - 8.0).abs() < 1e-9);
        assert!((figures.risk_highest - 0.5).abs() < 1e-12);
        assert!((figures.risk_of_any - (0.25 + 1e-8)).abs() < 1e-12, "{}", figures.risk_of_any);
        // Append 4 was acknowledged at 4.001 s, before the first loss; appends 5 to 7 after it.
        assert!((figures.loss_allowance - (0.25 + 2e-8)).abs() < 1e-12, "{}", figures.loss_allowance);
        assert_eq!(figures.ahead, 8);
        acks[0].reached = Durability::Local;
        acks[0].prefix_risk = 1.0;
        acks[7].reached = Durability::Remote;
        acks[7].prefix_risk = 0.0;
        let figures = AckFigures::of(&acks, 4_001_000_000, 8_000_000_000);
        assert!((figures.loss_allowance - (1.25 + 1e-8)).abs() < 1e-12, "{}", figures.loss_allowance);
        assert_eq!(figures.ahead, 7);
        assert_eq!(figures.latency.count, 8);
        assert_eq!(AckFigures::of(&[], 3, 5).appends, 0);
    }

    #[test]
    fn a_broken_promise_shows() {
        let mut run = sample_run(Mode::NetworkSync, 0);
        run.lost = Losses { total: 1, on_wire: 1, ..Losses::default() };
        let report = DrillReport::new(DrillOptions::default(), Form::Relay, vec![run]);
        assert!(report.is_faulty());
        assert!(report.table().contains("REFUTED"));
        assert!(!sample_report().is_faulty());
        let mut run = sample_run(Mode::LocalSync, 0);
        run.lost.unlisted = 7;
        let report = DrillReport::new(DrillOptions::default(), Form::Relay, vec![run.clone()]);
        assert!(!report.is_faulty());
        run.lost.unnamed = 1;
        assert!(DrillReport::new(DrillOptions::default(), Form::Relay, vec![run]).is_faulty());
    }

    #[test]
    fn the_document_has_its_schema_and_survives() {
        let report = sample_report();
        let value: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(value["schema"], SCHEMA);
        assert_eq!(value["parameters"]["seed"], 1);
        assert_eq!(value["form"], "packet");
        assert_eq!(value["modes"].as_array().map(Vec::len), Some(5));
        assert_eq!(value["modes"][2]["mode"], "network-sync");
        assert_eq!(value["modes"][0]["lost"]["total"], 3 * 620);
        for key in ["ack_latency_micros", "mirroring_latency_micros", "wire_overhead", "lost", "risk_of_any"]
        {
            assert!(value["runs"][0].get(key).is_some(), "{key}");
        }
        // Numbers may differ in their last bit after a decimal detour; everything else is exact.
        let again: DrillReport = serde_json::from_value(value).unwrap();
        assert_eq!((&again.parameters, again.form), (&report.parameters, report.form));
        assert_eq!(again.modes[0].lost, report.modes[0].lost);
        assert_eq!(again.runs[4].notes, report.runs[4].notes);
    }
}
