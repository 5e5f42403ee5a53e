//! Two sites, and what passes between them in a stretch of time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use parhelion_wan::{Emulator, LinkConfig, Namespaces, Side, WanConfig, WanCounters};
use parhelion_wire::{SOURCE_HEADER_BYTES, SYMBOL_PREFIX_BYTES};
use serde_json::Value;

use crate::error::BenchError;
use crate::lab::{Lab, Workplace};
use crate::load::Load;
use crate::site::{LOOPBACK, Place, Running, Site};
use crate::usage::Usage;

/// A primary, a mirror, and the link between them. Dropping it ends all of them and removes their data.
#[derive(Debug)]
pub(crate) struct Pair {
    pub primary: Site,
    pub mirror: Site,
    pub emulator: Option<Emulator>,
    namespaces: Option<Namespaces>,
    directory: Workplace,
}

/// The emulated link: `rate` bits per second both ways, `one_way` delay, a queue of 50 ms.
#[must_use]
pub(crate) fn line(rate: u64, one_way: Duration) -> LinkConfig {
    let queue = rate / 8 / 20;
    LinkConfig {
        delay: one_way,
        rate: Some(rate),
        queue_bytes: queue.max(QUEUE_BYTES_MIN),
        ..LinkConfig::default()
    }
}

const QUEUE_BYTES_MIN: u64 = 128 << 10;

/// Seed of the emulated losses: a run can be repeated.
const SEED: u64 = 1;

/// A new pair of sites is linked within this time, also over a long link that loses packets.
const LINKED_LIMIT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

impl Pair {
    /// Starts mirror, link and primary and waits until they are linked. Without a link the sites are on this
    /// host's loopback.
    pub(crate) async fn start(
        lab: &Lab,
        link: Option<LinkConfig>,
        settings: &[String],
    ) -> Result<Self, BenchError> {
        let directory = lab.workplace()?;
        let namespaces = if link.is_some() { Some(Namespaces::create()?) } else { None };
        let listen = SocketAddr::new(namespaces.as_ref().map_or(LOOPBACK, |_| Side::B.address()), 0);
        let place = |side| Place {
            directory: directory.path(),
            namespace: namespaces.as_ref().map(|namespaces| (namespaces, side)),
        };
        let mut common = vec![format!("link.mtu={}", parhelion_wan::MTU_BYTES)];
        if let Some(rate) = link.as_ref().and_then(|link| link.rate) {
            common.push(format!("link.rate={rate}bit"));
        }
        common.extend_from_slice(settings);

        let mut of_mirror = common.clone();
        of_mirror.extend(
            ["link.listen_bulk", "link.listen_critical", "link.listen_tcp"]
                .map(|key| format!("{key}={listen}")),
        );
        let mirror = Site::start(lab, "mirror", &of_mirror, place(Side::B)).await?;
        let addresses = mirror.link.ok_or_else(|| BenchError::Figure {
            what: "a mirror",
            reason: "it named no addresses of its link when it was ready".to_owned(),
        })?;
        let emulator = match (&namespaces, link) {
            (Some(namespaces), Some(link)) => {
                let mut command = Command::new(&lab.binary);
                command.arg(parhelion_drill::EMULATOR_SUBCOMMAND);
                let wan = WanConfig::symmetric(SEED, link);
                Some(Emulator::spawn_packet(command, &wan, namespaces)?)
            }
            _ => None,
        };
        let mut of_primary = common;
        of_primary.extend([
            format!("link.peer_bulk={}", addresses.bulk),
            format!("link.peer_critical={}", addresses.critical),
            format!("link.peer_tcp={}", addresses.tcp),
        ]);
        let primary = Site::start(lab, "primary", &of_primary, place(Side::A)).await?;
        let pair = Self { primary, mirror, emulator, namespaces, directory };
        pair.linked().await?;
        Ok(pair)
    }

    /// Starts writers at the primary's site.
    pub(crate) fn load(&self, lab: &Lab, load: &Load) -> Result<Running, BenchError> {
        let namespace = self.namespaces.as_ref().map(|namespaces| (namespaces, Side::A));
        self.primary.load(lab, Place { directory: self.directory.path(), namespace }, load)
    }

    /// What has been done so far, with appends of `append_bytes` in all logs from `running`'s first.
    pub(crate) async fn sample(&mut self, load: &Load, running: &Running) -> Result<Sample, BenchError> {
        let mirror = self.mirror.status().await?;
        let at = Instant::now();
        let primary = self.primary.status().await?;
        let records = durable_records(&mirror, running.first_log, load.logs);
        Ok(Sample {
            at,
            // The record that created each log is no append.
            mirrored_bytes: records.saturating_sub(u64::from(load.logs)) * u64::from(load.append_bytes),
            primary: link_figures(&primary),
            mirror: link_figures(&mirror),
            wan: self.emulator.as_mut().map(Emulator::counters).transpose()?,
            usage: [self.primary.usage()?, self.mirror.usage()?, running.usage()?],
        })
    }

    /// What is done in the `span` from now on.
    pub(crate) async fn watch(
        &mut self,
        load: &Load,
        running: &Running,
        span: Duration,
    ) -> Result<Stretch, BenchError> {
        let from = self.sample(load, running).await?;
        tokio::time::sleep(span).await;
        let to = self.sample(load, running).await?;
        self.primary.process.check_alive()?;
        self.mirror.process.check_alive()?;
        Ok(Stretch { from, to })
    }

    /// Waits until the mirror has confirmed all records, so that one turn does not burden the next.
    pub(crate) async fn drain(&self, limit: Duration) -> Result<(), BenchError> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            let status = self.primary.status().await?;
            let behind = |log: &Value| log["lag_appends"].as_u64().is_none_or(|lag| lag > 0);
            if !status["logs"]["logs"].as_array().is_none_or(|logs| logs.iter().any(behind)) {
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Bulk packets that the primary has sent since it was started.
    pub(crate) async fn packets_sent(&self) -> Result<u64, BenchError> {
        let status = self.primary.status().await?;
        Ok(link_figures(&status).get("datagrams_sent").copied().unwrap_or(0))
    }

    /// Packets that the hosts of the sites dropped by themselves: sent, and received.
    pub(crate) fn host_drops(&self) -> Result<[u64; 2], BenchError> {
        let mut drops = [0, 0];
        if let Some(sites) = &self.namespaces {
            for side in Side::BOTH {
                let at = sites.host_drops(side)?;
                drops = [drops[0] + at.sent, drops[1] + at.received];
            }
        }
        Ok(drops)
    }

    async fn linked(&self) -> Result<(), BenchError> {
        let begun = Instant::now();
        while self.primary.status().await?["logs"]["linked"] != true {
            if begun.elapsed() > LINKED_LIMIT {
                return Err(BenchError::Figure {
                    what: "a pair of sites",
                    reason: format!(
                        "no link after {LINKED_LIMIT:?}; see primary.log in {}",
                        self.directory.path().display()
                    ),
                });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }
}

/// What has been done up to one moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    at: Instant,
    /// Bytes of appends that are synced at the mirror.
    mirrored_bytes: u64,
    primary: BTreeMap<String, u64>,
    mirror: BTreeMap<String, u64>,
    wan: Option<WanCounters>,
    /// Of primary, mirror and writers.
    usage: [Usage; 3],
}

/// What was done between two moments.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    from: Sample,
    to: Sample,
}

impl Stretch {
    /// How long it was.
    pub(crate) fn span(&self) -> Duration {
        self.to.at - self.from.at
    }

    /// Bits of appends that became durable at the mirror, per second, in millions.
    pub(crate) fn mirrored_mbits(&self) -> f64 {
        let bytes = self.to.mirrored_bytes.saturating_sub(self.from.mirrored_bytes);
        bytes as f64 * 8.0 / 1e6 / self.span().as_secs_f64()
    }

    /// Increase of a figure of the primary's link.
    pub(crate) fn sent(&self, name: &str) -> u64 {
        difference(&self.from.primary, &self.to.primary, name)
    }

    /// Increase of a figure of the mirror's link.
    pub(crate) fn received(&self, name: &str) -> u64 {
        difference(&self.from.mirror, &self.to.mirror, name)
    }

    /// Bytes of appends per byte of IP packet when every packet carries a full source symbol: what the headers of IP,
    /// UDP, QUIC, datagram and symbol leave. Measured from the packets that crossed the link.
    pub(crate) fn payload_share(&self) -> Option<f64> {
        let (from, to) = (self.from.wan.as_ref()?, self.to.wan.as_ref()?);
        let [from, to] = [from, to].map(|wan| wan.a_to_b.link.bulk.offered);
        let packets = to.packets.checked_sub(from.packets).filter(|packets| *packets > 0)?;
        let packet_bytes = (to.bytes - from.bytes) as f64 / packets as f64;
        let source_bytes = self.sent("source_bytes_sent") as f64 / self.sent("source_sent").max(1) as f64;
        let header_bytes = (SOURCE_HEADER_BYTES + SYMBOL_PREFIX_BYTES) as f64;
        Some((source_bytes - header_bytes) / packet_bytes)
    }

    /// What the link did and which threads did it, for the notes.
    pub(crate) fn explain(&self, what: &str) -> Vec<String> {
        let seconds = self.span().as_secs_f64();
        let datagrams = self.sent("datagrams_sent").max(1) as f64;
        let gauge = |name: &str| self.to.primary.get(name).copied().unwrap_or(0);
        let mut notes = vec![format!(
            "{what}: {:.0} datagrams/s, {:.1} per send, {:.1} % repairs, {} resent, wire lag {} us, rtt {} us, \
             {:.1} MB unconfirmed; mirror received {:.0} datagrams/s, dropped {} after arrival",
            datagrams / seconds,
            datagrams / self.sent("bulk_sends").max(1) as f64,
            self.sent("repairs_sent") as f64 * 100.0 / datagrams,
            self.sent("resent"),
            gauge("wire_lag_micros"),
            gauge("rtt_micros"),
            gauge("buffered_bytes") as f64 / 1e6,
            self.received("datagrams_received") as f64 / seconds,
            self.received("host_drops"),
        )];
        for (name, (from, to)) in
            ["primary", "mirror", "writers"].iter().zip(self.from.usage.iter().zip(&self.to.usage))
        {
            notes.push(format!("  {name}: {}", to.describe_since(from, self.span())));
        }
        if let (Some(from), Some(to)) = (&self.from.wan, &self.to.wan) {
            let cores = (to.cpu_nanos - from.cpu_nanos) as f64 / 1e9 / seconds;
            let dropped = |wan: &WanCounters| wan.a_to_b.link.bulk.queue_dropped.packets;
            notes.push(format!(
                "  emulator: {cores:.2} cores, {} packets late, {} dropped at the full queue",
                to.a_to_b.timeliness.late - from.a_to_b.timeliness.late,
                dropped(to) - dropped(from),
            ));
        }
        notes
    }
}

fn difference(from: &BTreeMap<String, u64>, to: &BTreeMap<String, u64>, name: &str) -> u64 {
    let at = |figures: &BTreeMap<String, u64>| figures.get(name).copied().unwrap_or(0);
    at(to).saturating_sub(at(from))
}

fn link_figures(status: &Value) -> BTreeMap<String, u64> {
    let figures = status["link"].as_object().into_iter().flatten();
    figures.filter_map(|(name, value)| Some((name.clone(), value.as_u64()?))).collect()
}

/// Records that are synced at the mirror, of `count` logs from `first` on.
fn durable_records(status: &Value, first: u64, count: u32) -> u64 {
    let logs = status["logs"]["logs"].as_array().into_iter().flatten();
    let ours = first..first + u64::from(count.max(1));
    let ours = logs.filter(|log| log["log"].as_u64().is_some_and(|log| ours.contains(&log)));
    ours.filter_map(|log| log["durable"].as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_loads_own_logs_count() {
        let log = |log: u64, durable: u64| json!({ "log": log, "durable": durable });
        let status = json!({ "logs": { "logs": [log(0, 5), log(1, 10), log(2, 20), log(3, 40)] } });
        assert_eq!(durable_records(&status, 1, 2), 30);
        assert_eq!(durable_records(&status, 9, 1), 0);
        assert_eq!(durable_records(&Value::Null, 0, 1), 0);
    }

    #[test]
    fn figures_of_the_link_are_differences() {
        let from = link_figures(&json!({ "link": { "resent": 3, "note": "x" } }));
        let to = link_figures(&json!({ "link": { "resent": 10, "sessions": 1 } }));
        assert_eq!((difference(&from, &to, "resent"), difference(&from, &to, "none")), (7, 0));
        assert_eq!(difference(&to, &from, "resent"), 0);
    }

    #[test]
    fn the_line_queues_fifty_milliseconds() {
        let link = line(300_000_000, Duration::from_millis(25));
        link.validate().unwrap();
        assert_eq!(link.queue_bytes, 1_875_000);
        assert_eq!(line(1_000_000, Duration::ZERO).queue_bytes, QUEUE_BYTES_MIN);
    }
}
