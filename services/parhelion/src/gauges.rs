//! Figures that are read now and then rather than counted as they happen.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use parhelion_actor_runtime::{Clock, restarts};
use parhelion_link_driver::LinkStats;
use parhelion_observability::{Counter, DatagramKind, Metrics, Refusing};
use parhelion_storage::{Request, SiteStatus};
use parhelion_types::{Error, ErrorKind, Role, Time};
use tokio::sync::oneshot;

use crate::backend::NodeBackend;
use crate::link::CurrentStats;
use crate::settings::Duty;

/// How often figures are read: as often as anybody scrapes.
const INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the gauges of lag, link and channel up to date until the storage actor is gone.
pub async fn keep(metrics: Metrics, clock: Arc<Clock>, node: Arc<NodeBackend>) {
    let mut timer = tokio::time::interval(INTERVAL);
    let has_mirror = node.about.duty == Duty::Primary;
    let has_link = node.about.roles.contains(&Role::Link);
    let mut counted = Counted::default();
    loop {
        timer.tick().await;
        if let Some(logs) = &node.logs {
            let (answer, status) = oneshot::channel();
            logs.storage.do_send(Request::Status { answer });
            let Ok(status) = status.await else { return };
            observe_logs(&metrics, &status, has_mirror, clock.now());
            metrics.in_flight_bytes.set_count(logs.in_flight.held_bytes() as u64);
            metrics.buffer_bytes("store").set_count(logs.store.queued_bytes() as u64);
            if let (SiteStatus::Primary { linked, .. }, false) = (&status, has_link) {
                metrics.link_up.set_count(u64::from(*linked));
            }
        }
        if has_link {
            counted.follow(&metrics, &node.link);
        }
        for (actor, count) in restarts() {
            metrics.restarts(actor).follow(count);
        }
        if let Some(planner) = node.logs.as_ref().and_then(|logs| logs.planner.get()) {
            let planning = planner.planning.lock().unwrap_or_else(PoisonError::into_inner);
            metrics.code_plans.follow(planning.changes);
            metrics.plan_waits.set_count(u64::from(planning.waits));
        }
        if let Some(belief) = node.logs.as_ref().and_then(|logs| logs.belief.as_ref()) {
            let channel = belief.lock().unwrap_or_else(PoisonError::into_inner).bounds();
            metrics.link_loss.set(channel.loss);
            metrics.link_burst.set(1.0 / channel.bad_to_good.max(f64::MIN_POSITIVE));
        }
    }
}

/// `has_mirror` by its settings: not a single site, and not one that was promoted.
fn observe_logs(metrics: &Metrics, status: &SiteStatus, has_mirror: bool, now: Time) {
    match status {
        SiteStatus::Primary { unconfirmed_bytes, logs, .. } => {
            metrics.logs.set_count(logs.len() as u64);
            // A site that mirrors to nobody has nobody to lag: an alarm would never clear.
            let lagging = match has_mirror && logs.iter().all(|log| log.fenced_by.is_none()) {
                true => logs.as_slice(),
                false => &[],
            };
            metrics.lag_bytes.set_count(lagging.iter().map(|log| log.lag_bytes).sum());
            metrics
                .lag_appends
                .set_count(lagging.iter().map(|log| log.records.saturating_sub(log.mirrored)).sum());
            let oldest = lagging.iter().filter_map(|log| log.oldest_unmirrored).min();
            metrics.lag_seconds.set_duration(oldest.map_or(Duration::ZERO, |at| now.since(at)));
            metrics.in_flight_appends.set_count(logs.iter().map(|log| log.waiting as u64).sum());
            metrics.buffer_bytes("link").set_count(*unconfirmed_bytes as u64);
            // A promotion has listed what is missing; nothing more is expected.
            metrics.missing_appends.set(0.0);
            observe_refusals(metrics, logs.iter().filter_map(|log| log.refusal.as_ref()));
        }
        SiteStatus::Mirror { logs } => {
            metrics.logs.set_count(logs.len() as u64);
            metrics.missing_appends.set_count(logs.iter().map(|log| log.announced as u64).sum());
            observe_refusals(metrics, logs.iter().filter_map(|log| log.refusal.as_ref()));
        }
    }
}

fn observe_refusals<'a>(metrics: &Metrics, refusals: impl Iterator<Item = &'a Error>) {
    let (mut fenced, mut damaged, mut unwritable) = (0, 0, 0);
    for refusal in refusals {
        match refusal.kind() {
            ErrorKind::Fenced => fenced += 1,
            ErrorKind::Corrupt => damaged += 1,
            _ => unwritable += 1,
        }
    }
    metrics.logs_refusing(Refusing::Fenced).set_count(fenced);
    metrics.logs_refusing(Refusing::Damaged).set_count(damaged);
    metrics.logs_refusing(Refusing::Unwritable).set_count(unwritable);
}

/// What of a driver's figures has been counted. The figures of a driver that is rebuilt begin anew; counters go on.
#[derive(Default)]
struct Counted {
    stats: Arc<LinkStats>,
    totals: Vec<u64>,
}

impl Counted {
    fn follow(&mut self, metrics: &Metrics, link: &CurrentStats) {
        let stats = link.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !Arc::ptr_eq(&stats, &self.stats) {
            // What the driver before this one did since it was looked at.
            self.count(metrics);
            *self = Self { stats, totals: Vec::new() };
        }
        self.count(metrics);
        metrics.link_up.set_count(self.stats.up.get());
    }

    fn count(&mut self, metrics: &Metrics) {
        let now = totals(metrics, &self.stats);
        self.totals.resize(now.len(), 0);
        for ((counter, total), counted) in now.into_iter().zip(&mut self.totals) {
            counter.add(total.saturating_sub(*counted));
            *counted = total;
        }
    }
}

/// The counters of the link, each with its total of one driver.
fn totals<'a>(metrics: &'a Metrics, stats: &LinkStats) -> Vec<(&'a Counter, u64)> {
    use DatagramKind::{Critical, Repair, Resent, Source};
    let kinds = [
        (Source, &stats.source_sent, &stats.source_bytes_sent),
        (Repair, &stats.repairs_sent, &stats.repair_bytes_sent),
        (Resent, &stats.resent, &stats.resent_bytes),
        (Critical, &stats.critical_sent, &stats.critical_bytes_sent),
    ];
    let others = [
        (&metrics.datagrams_received, &stats.datagrams_received),
        (&metrics.datagram_bytes_received, &stats.datagram_bytes_received),
        (&metrics.datagrams_lost, &stats.datagrams_lost),
        (&metrics.datagrams_dropped_by_host, &stats.host_drops),
        (&metrics.symbols_rebuilt, &stats.symbols_rebuilt),
        (&metrics.symbols_late, &stats.symbols_late),
        (&metrics.link_sessions, &stats.sessions),
        (&metrics.code_faults, &stats.code_faults),
    ];
    let sent = kinds.into_iter().flat_map(|(kind, datagrams, bytes)| {
        [(metrics.datagrams_sent(kind), datagrams), (metrics.datagram_bytes_sent(kind), bytes)]
    });
    let bursts = stats.loss_bursts.iter().enumerate();
    let bursts = bursts.filter_map(|(class, figure)| Some((metrics.loss_bursts(class)?, figure)));
    sent.chain(others).chain(bursts).map(|(counter, figure)| (counter, figure.get())).collect()
}

#[cfg(test)]
mod tests {
    use parhelion_mirror::LogStatus;
    use parhelion_types::{Degrade, LogAddress, LogId};

    use super::*;

    fn log(fenced_by: Option<u32>) -> LogStatus {
        LogStatus {
            log: LogId(0),
            name: "orders".to_owned(),
            degrade: Degrade::Block,
            epoch: 1,
            records: 30,
            durable: 30,
            mirrored: 3,
            end: LogAddress::new(0, 9000),
            lag_bytes: 7000,
            oldest_unmirrored: Some(Time::from_nanos(1_000_000_000)),
            waiting: 2,
            freed: 0,
            feed: "live",
            refusal: fenced_by.map(|_| Error::new(ErrorKind::Fenced, "fenced")),
            fenced_by,
        }
    }

    fn lag(metrics: &Metrics) -> [f64; 3] {
        [metrics.lag_bytes.get(), metrics.lag_appends.get(), metrics.lag_seconds.get()]
    }

    #[test]
    fn only_a_site_with_a_mirror_lags() {
        let metrics = Metrics::new();
        let now = Time::from_nanos(3_000_000_000);
        let status =
            |logs| SiteStatus::Primary { linked: false, unconfirmed_bytes: 5, code: "none".to_owned(), logs };
        observe_logs(&metrics, &status(vec![log(None), log(None)]), true, now);
        assert_eq!(lag(&metrics), [14_000.0, 54.0, 2.0]);
        assert_eq!(metrics.logs_refusing(Refusing::Fenced).get(), 0.0);
        // One log that is fenced tells that the other site was promoted; it was never told of the other log.
        observe_logs(&metrics, &status(vec![log(Some(2)), log(None)]), true, now);
        assert_eq!(lag(&metrics), [0.0; 3]);
        assert_eq!(metrics.logs_refusing(Refusing::Fenced).get(), 1.0);
        observe_logs(&metrics, &status(vec![log(None)]), true, now);
        observe_logs(&metrics, &status(vec![log(None)]), false, now);
        assert_eq!(lag(&metrics), [0.0; 3], "single, or promoted");
    }
}
