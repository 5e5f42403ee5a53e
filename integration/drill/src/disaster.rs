//! One disaster, from clean processes to a count of what is left (SMFS section 5.3).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parhelion_types::Time;
use parhelion_wan::{Direction, Loss, Side, TcpProgress, Timeliness, WanCounters, monotonic_now};
use serde_json::Value;

use crate::ack::Ack;
use crate::check::CheckArguments;
use crate::classify::{Departure, Findings, Losses, Offered};
use crate::cluster::{CHECK_SUBCOMMAND, Cluster, QUEUE, WRITERS_SUBCOMMAND};
use crate::error::DrillError;
use crate::interrupt;
use crate::mode::Mode;
use crate::options::{DrillOptions, Form};
use crate::progress::Progress;
use crate::report::{AckFigures, RunResult};
use crate::stats::Latency;
use crate::writers::{WriterArguments, WriterSummary, WritersReady};

/// What one disaster is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disaster<'a> {
    pub options: &'a DrillOptions,
    pub form: Form,
    pub mode: Mode,
    pub repetition: u32,
    /// Certificates for nodes and clients.
    pub tls: &'a Path,
    /// Empty, and for this disaster alone.
    pub directory: &'a Path,
}

impl Disaster<'_> {
    /// Carries it out: load, loss, cut and kill, promotion, count.
    pub(crate) fn run(&self, progress: &Progress) -> Result<RunResult, DrillError> {
        let seed = self.options.seed.wrapping_add(u64::from(self.repetition));
        progress.step("starting the sites");
        let mut cluster = Cluster::start(self.options, self.form, self.mode, seed, self.tls, self.directory)?;
        let acks_path = self.directory.join("acks");
        let arguments = self.writer_arguments(&cluster, seed, &acks_path);
        let arguments = write_json(&self.directory.join("writers.json"), &arguments)?;
        let mut writers = cluster.start_helper("writers", WRITERS_SUBCOMMAND, &arguments, Side::A)?;
        if !self.options.warm_up.is_zero() {
            progress.step("warming up");
        }
        let WritersReady { started_nanos } = writers.answer(PREPARE_LIMIT + self.options.warm_up)?;
        let unused = cluster.emulator.counters()?;

        progress.step("writing");
        let cut_at = Time::from_nanos(started_nanos) + self.options.duration;
        let loss_at = cut_at - self.options.link.loss_for;
        self.wait_until(loss_at, started_nanos, progress, &mut cluster, &mut writers)?;
        let before = bulk_offered(&cluster.emulator.counters()?);
        let loss = Loss::bursty(self.options.link.loss, self.options.link.burst);
        // What then waits at the bottleneck has yet to meet the loss.
        let clean_until = cluster.emulator.set_loss(None, loss)? - QUEUE;
        progress.step("losing packets");
        self.wait_until(cut_at - CUT_LEAD, started_nanos, progress, &mut cluster, &mut writers)?;

        // The cut comes first: a killed process leaves its kernel buffers to the kernel, which would go on sending.
        let cut = cluster.emulator.cut(Side::A, cut_at)?;
        cluster.primary.kill();
        let killed = monotonic_now();
        let counters = cluster.emulator.counters()?;
        progress.step("after the disaster");
        interrupt::sleep(LATE_ACKS)?;
        writers.tell_to_stop();
        let summary: WriterSummary = writers.answer(STOP_LIMIT)?;
        writers.finish(STOP_LIMIT)?;

        // What was on the fibre arrives, and the mirror gives up waiting for the rest.
        interrupt::sleep(self.options.link.one_way + SETTLE)?;
        cluster.mirror.check_alive()?;
        let findings_path = self.directory.join("findings.json");
        let arguments = CheckArguments {
            api: cluster.mirror_api,
            tls: self.tls.to_owned(),
            acks: acks_path.clone(),
            run: u64::from(self.repetition),
            cut_nanos: cut.as_nanos(),
            findings: findings_path.clone(),
        };
        let arguments = write_json(&self.directory.join("check.json"), &arguments)?;
        progress.step("promoting the mirror and looking for every append");
        cluster.start_helper("check", CHECK_SUBCOMMAND, &arguments, Side::B)?.finish(self.check_limit())?;
        let findings: Findings = read_json(&findings_path)?;
        let acks = Ack::read_all(&acks_path)?;

        let in_order = !self.mode.has_code();
        let departure =
            Departure::infer(&acks, bulk_offered(&unused), before, bulk_offered(&counters), in_order);
        let stream = self.record_stream(&mut cluster)?;
        let lost = Losses::of(&findings, departure, stream.as_ref());
        let offered = counters.a_to_b.link.total().offered.bytes;
        let offered = offered.saturating_sub(unused.a_to_b.link.total().offered.bytes);
        let figures = AckFigures::of(&acks, clean_until.as_nanos(), cut.as_nanos());
        let mut result = self.result(seed, figures, offered, &findings, lost);
        self.remark(&cluster, &summary, &counters, cut, killed, &mut result.notes)?;
        if result.lost.unnamed > 0 && counters.a_to_b.timeliness.late > 0 {
            result.notes.push(UNNAMED_BY_LATENESS.to_owned());
        }
        if result.lost.unlisted > 0 {
            result.notes.push(format!(
                "the mirror lacks {} announced appends and its list holds the first {}: whether {} of the losses were \
                 announced is not known; drill again with fewer --seconds or a lower --rate",
                findings.missing_count, findings.missing_listed, result.lost.unlisted
            ));
        }
        Ok(result)
    }

    /// The TCP stream that carried the records, as the emulator saw it: where there is one, and only one.
    fn record_stream(&self, cluster: &mut Cluster) -> Result<Option<TcpProgress>, DrillError> {
        if self.mode.has_code() {
            return Ok(None);
        }
        let mut all = cluster.emulator.tcp_progress(Direction::AToB)?;
        all.retain(|stream| stream.target == cluster.mirror_records);
        // A stream that broke and was begun again repeats records; then their places are not known.
        Ok(if all.len() == 1 { all.pop() } else { None })
    }

    /// Reading everything back takes about as long as writing it, on a loaded machine longer.
    fn check_limit(&self) -> Duration {
        CHECK_LIMIT + self.options.duration * 10
    }

    fn writer_arguments(&self, cluster: &Cluster, seed: u64, acks: &Path) -> WriterArguments {
        WriterArguments {
            run: u64::from(self.repetition),
            api: cluster.primary_api,
            tls: self.tls.to_owned(),
            input: self.options.input.clone(),
            seed,
            logs: self.options.logs.min(self.options.writers),
            writers: self.options.writers,
            append_bytes: self.options.append_bytes,
            durability: self.mode.durability(),
            max_risk: self.options.max_risk,
            load_bits_per_second: self.options.load(),
            warm_up_nanos: u64::try_from(self.options.warm_up.as_nanos()).unwrap_or(u64::MAX),
            errors_until_nanos: u64::try_from(self.options.duration.as_nanos()).unwrap_or(u64::MAX),
            acks: acks.to_owned(),
        }
    }

    /// Sleeps until `until`, showing progress, and notices signals and processes that end before their time.
    fn wait_until(
        &self,
        until: Time,
        started_nanos: u64,
        progress: &Progress,
        cluster: &mut Cluster,
        writers: &mut crate::process::Process,
    ) -> Result<(), DrillError> {
        let mut checked = Instant::now();
        loop {
            interrupt::check()?;
            let now = monotonic_now();
            let left = until.since(now);
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(interrupt::TICK));
            progress.elapsed(now.since(Time::from_nanos(started_nanos)), self.options.duration);
            if checked.elapsed() > interrupt::TICK * 5 {
                checked = Instant::now();
                cluster.primary.check_alive()?;
                cluster.mirror.check_alive()?;
                writers.check_alive()?;
            }
        }
    }

    fn result(
        &self,
        seed: u64,
        figures: AckFigures,
        offered: u64,
        findings: &Findings,
        lost: Losses,
    ) -> RunResult {
        let mirroring = mirroring_latency(&findings.status);
        let notes = if mirroring.is_some() {
            Vec::new()
        } else {
            vec!["the mirror reported no mirroring latency".to_owned()]
        };
        RunResult {
            mode: self.mode,
            repetition: self.repetition,
            seed,
            acked_appends: figures.appends,
            acked_ahead: figures.ahead,
            acked_bytes: figures.bytes,
            acked_late: figures.late,
            ack_latency_micros: figures.latency,
            mirroring_latency_micros: mirroring,
            goodput_bits_per_second: figures.bytes as f64 * 8.0 / figures.seconds.max(1e-9),
            wire_bytes: offered,
            wire_overhead: offered as f64 / (figures.bytes as f64).max(1.0),
            lost,
            altered: findings.altered.len() as u64,
            read_back: findings.read_back,
            risk_highest: figures.risk_highest,
            risk_mean: figures.risk_mean,
            risk_of_any: figures.risk_of_any,
            loss_allowance: figures.loss_allowance,
            meets_loss: self.form == Form::Packet || self.mode.has_code(),
            notes,
        }
    }

    /// Says what makes figures doubtful: a machine that was too slow, writers that met errors.
    fn remark(
        &self,
        cluster: &Cluster,
        summary: &WriterSummary,
        counters: &WanCounters,
        cut: Time,
        killed: Time,
        notes: &mut Vec<String>,
    ) -> Result<(), DrillError> {
        for (kind, count) in &summary.errors {
            notes.push(format!("writers met {count} errors of kind {kind}: {}", summary.first_error));
        }
        if killed.since(cut) > KILL_LATE {
            notes.push(format!("the primary died {:?} after the cut", killed.since(cut)));
        }
        for (way, direction) in [("A to B", &counters.a_to_b), ("B to A", &counters.b_to_a)] {
            let timeliness: &Timeliness = &direction.timeliness;
            if timeliness.refused > 0 {
                notes.push(format!("the host refused {} packets {way}: it was too slow", timeliness.refused));
            }
            if timeliness.late * 1000 > timeliness.deliveries {
                notes.push(format!(
                    "the emulator delivered {} of {} packets {way} more than {:?} late: the machine was busy",
                    timeliness.late,
                    timeliness.deliveries,
                    Timeliness::LATE
                ));
            }
            let dropped = direction.link.total().queue_dropped.packets;
            if dropped > 0 {
                notes.push(format!(
                    "the line's queue of {QUEUE:?} was full for {dropped} packets {way}, which it dropped, as a router does: \
                     a burst, or more load than the line carries"
                ));
            }
        }
        if let Some(sites) = &cluster.namespaces {
            for side in Side::BOTH {
                let drops = sites.host_drops(side)?;
                if drops.sent + drops.received > 0 {
                    notes.push(format!(
                        "hosts of site {side:?} dropped {} packets sent and {} received",
                        drops.sent, drops.received
                    ));
                }
            }
        } else if !self.mode.has_code() {
            notes.push("relay form: TCP met delay and rate, and no packet loss".to_owned());
        }
        Ok(())
    }
}

/// Certificates, input and connections are ready after this, even on a loaded machine.
const PREPARE_LIMIT: Duration = Duration::from_secs(60);
/// The writers give up what is unanswered and write their last records within this.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Promotion and reading the list of appends.
const CHECK_LIMIT: Duration = Duration::from_secs(300);
/// The order to cut reaches the emulator this long before the time it is for.
const CUT_LEAD: Duration = Duration::from_millis(20);
/// Acknowledgements that come after the cut are waited for this long, to be reported apart.
const LATE_ACKS: Duration = Duration::from_millis(200);
/// Beyond the fibre: reordering, decoding, writing and syncing at the mirror.
const SETTLE: Duration = Duration::from_millis(1500);
/// What the primary had handed to the network and the emulator had not yet taken in died with the link.
const UNNAMED_BY_LATENESS: &str = "losses without an announcement on a busy machine: the emulator may have been late to \
    take the announcements in; drill again with --set link.site_exit_delay=5ms, or when the machine is quiet";
const KILL_LATE: Duration = Duration::from_millis(100);

/// What the primary's site had offered of bulk traffic when the counters were taken, or at the cut before that.
fn bulk_offered(counters: &WanCounters) -> Offered {
    let link = &counters.a_to_b.link;
    let Some(at_cut) = link.at_cut else {
        return Offered { at_nanos: counters.at_nanos, bytes: link.bulk.offered.bytes };
    };
    // What the cut dropped was in the queue, both classes together, or came after it.
    let after = link.bulk.cut_dropped.bytes.saturating_sub(at_cut.queued.bytes);
    Offered { at_nanos: at_cut.at_nanos, bytes: link.bulk.offered.bytes.saturating_sub(after) }
}

/// The mirror's own measurement, from its status document.
fn mirroring_latency(status: &Value) -> Option<Latency> {
    let figures = find(status, "mirroring_latency_micros")?;
    let at = |key: &str| figures.get(key).and_then(Value::as_f64);
    let p50 = at("p50")?;
    Some(Latency {
        count: figures.get("count").and_then(Value::as_u64).unwrap_or(0),
        min: at("min")?,
        p50,
        p99: at("p99")?,
        max: at("max")?,
        mean: at("mean").unwrap_or(p50),
        stddev: at("stddev")?,
        quantiles: figures
            .get("quantiles")
            .and_then(|points| serde_json::from_value(points.clone()).ok())
            .unwrap_or_default(),
    })
}

/// The first value of that name, however deep: status documents grow.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => fields
            .get(key)
            .filter(|found| !found.is_null())
            .or_else(|| fields.values().find_map(|inner| find(inner, key))),
        Value::Array(items) => items.iter().find_map(|inner| find(inner, key)),
        _ => None,
    }
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<PathBuf, DrillError> {
    let text =
        serde_json::to_vec_pretty(value).map_err(|error| DrillError::file("writing", path)(error.into()))?;
    fs::write(path, text).map_err(DrillError::file("writing", path))?;
    Ok(path.to_owned())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, DrillError> {
    let text = fs::read(path).map_err(DrillError::file("reading", path))?;
    serde_json::from_slice(&text).map_err(|error| DrillError::file("reading", path)(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirroring_latency_is_found_wherever_the_status_has_it() {
        let status = serde_json::json!({
            "site": 2,
            "links": [{"mirroring_latency_micros": null}, {"deep": {"mirroring_latency_micros":
                {"p50": 52000, "p99": 61000.5, "min": 50100, "max": 99000, "stddev": 800.25, "count": 12}}}],
        });
        let latency = mirroring_latency(&status).unwrap();
        assert_eq!((latency.p50, latency.p99, latency.stddev, latency.count), (52000.0, 61000.5, 800.25, 12));
        assert_eq!(mirroring_latency(&serde_json::json!({"mirroring_latency_micros": {"p50": 1}})), None);
        assert_eq!(mirroring_latency(&Value::Null), None);
    }
}
