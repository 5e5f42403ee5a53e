//! Figures that are read now and then rather than counted as they happen.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use parhelion_actor_runtime::Clock;
use parhelion_observability::{DatagramKind, Metrics};
use parhelion_storage::{Request, SiteStatus};
use parhelion_types::{Role, Time};
use tokio::sync::oneshot;

use crate::backend::NodeBackend;
use crate::link::CurrentStats;

/// How often figures are read: as often as anybody scrapes.
const INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the gauges of lag, link and channel up to date until the storage actor is gone.
pub async fn keep(metrics: Metrics, clock: Arc<Clock>, node: Arc<NodeBackend>) {
    let mut timer = tokio::time::interval(INTERVAL);
    loop {
        timer.tick().await;
        if let Some(logs) = &node.logs {
            let (answer, status) = oneshot::channel();
            logs.storage.do_send(Request::Status { answer });
            let Ok(status) = status.await else { return };
            observe_logs(&metrics, &status, clock.now());
            metrics.in_flight_bytes.set_count(logs.gate.in_flight() as u64);
            metrics.buffer_bytes("store").set_count(logs.store.queued_bytes() as u64);
        }
        if node.about.roles.contains(&Role::Link) {
            observe_link(&metrics, &node.link);
        }
        if let Some(belief) = node.logs.as_ref().and_then(|logs| logs.belief.as_ref()) {
            let channel = belief.lock().unwrap_or_else(PoisonError::into_inner).channel;
            metrics.link_loss.set(channel.loss);
            metrics.link_burst.set(1.0 / channel.bad_to_good.max(f64::MIN_POSITIVE));
        }
    }
}

fn observe_logs(metrics: &Metrics, status: &SiteStatus, now: Time) {
    match status {
        SiteStatus::Primary { unconfirmed_bytes, logs, .. } => {
            metrics.logs.set_count(logs.len() as u64);
            metrics.lag_bytes.set_count(logs.iter().map(|log| log.lag_bytes).sum());
            metrics
                .lag_appends
                .set_count(logs.iter().map(|log| log.records.saturating_sub(log.mirrored)).sum());
            let oldest = logs.iter().filter_map(|log| log.oldest_unmirrored).min();
            metrics.lag_seconds.set_duration(oldest.map_or(Duration::ZERO, |at| now.since(at)));
            metrics.in_flight_appends.set_count(logs.iter().map(|log| log.waiting as u64).sum());
            metrics.buffer_bytes("link").set_count(*unconfirmed_bytes as u64);
        }
        SiteStatus::Mirror { logs } => {
            metrics.logs.set_count(logs.len() as u64);
            metrics.missing_appends.set_count(logs.iter().map(|log| log.announced as u64).sum());
        }
    }
}

fn observe_link(metrics: &Metrics, link: &CurrentStats) {
    let stats = link.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (repairs, resent) = (stats.repairs_sent.get(), stats.resent.get());
    let source = stats.datagrams_sent.get().saturating_sub(repairs + resent);
    metrics.datagrams_sent(DatagramKind::Source).follow(source);
    metrics.datagrams_sent(DatagramKind::Repair).follow(repairs);
    metrics.datagrams_sent(DatagramKind::Resent).follow(resent);
    metrics.datagrams_received.follow(stats.datagrams_received.get());
    metrics.datagram_bytes_received.follow(stats.datagram_bytes_received.get());
    metrics.datagrams_dropped_by_host.follow(stats.host_drops.get());
    metrics.link_sessions.follow(stats.sessions.get());
    metrics.link_up.set_count(stats.up.get());
}
