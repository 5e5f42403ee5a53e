//! What the planner plans for.

use std::time::Duration;

use parhelion_plugin::Channel;
use parhelion_types::Risk;

/// The link, its traffic and what is asked of it, as they are now.
///
/// Nothing here must be exact or even sane: values out of range are taken for the nearest that make sense.
#[derive(Clone, Debug, PartialEq)]
pub struct Situation {
    /// What is believed of the link; the worst figure over all of them counts. With none, nothing is promised.
    pub channels: Vec<Channel>,
    /// Bytes per second that the line carries; 0 if that is not known. Then nothing is said of the time that packets take,
    /// and flushes do not pause.
    pub line_bytes_per_second: u64,
    /// Bytes that a full packet takes on the line, all headers included.
    pub packet_bytes: u32,
    /// Bytes of an append that a source symbol carries.
    pub symbol_data_bytes: u32,
    /// Source symbols per second of the traffic itself, without repairs and copies.
    pub symbols_per_second: f64,
    /// Share of that rate which the traffic may lose to make room for repairs: 0 if it must not be slowed down.
    pub slowdown_max: f64,
    /// There and back, without what the mirror does in between.
    pub round_trip: Duration,
    /// From the arrival of an append at the mirror to its confirmation: order, disk, report.
    pub mirror_delay: Duration,
    /// From leaving the host to leaving the site; nothing counts as on the wire before.
    pub site_exit: Duration,
    /// How long the queue stays empty before partial groups are flushed.
    pub flush_delay: Duration,
    /// Age of the oldest symbol without full coverage at which they are flushed although traffic goes on.
    pub flush_age: Duration,
    /// Bytes of a typical append.
    pub append_bytes: u32,
    /// Appends of one log that the mirror has not confirmed, the newest included: the prefix risk is the sum over them.
    pub appends_in_flight: f64,
    /// Share of appends behind which the queue is empty, so that a flush covers them; the others are in a stream.
    pub lone_share: f64,
    /// Largest prefix risk at which an append may be acknowledged.
    pub max_risk: Risk,
    /// Time in which it shall be.
    pub deadline: Duration,
    /// What an acknowledgement waits for.
    pub ack_when: AckWhen,
}

/// What of an append's repairs must be on the wire before it is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckWhen {
    /// As many as its risk needs (loss model, section 0, point 5).
    Enough,
    /// All that its code makes, and the risk met (SMFS section 3.1).
    #[default]
    Complete,
}

impl Default for Situation {
    /// A leased line of 300 Mbit/s over 20 ms, on which 4 KiB appends of ten logs take a third of the rate.
    fn default() -> Self {
        Self {
            channels: vec![Channel::bursty(1e-4, 3.0, 0.999)],
            line_bytes_per_second: 37_500_000,
            packet_bytes: 1300,
            symbol_data_bytes: 1180,
            symbols_per_second: 10_000.0,
            slowdown_max: 0.0,
            round_trip: Duration::from_millis(40),
            mirror_delay: Duration::from_millis(5),
            site_exit: Duration::from_micros(500),
            flush_delay: Duration::from_millis(1),
            flush_age: Duration::from_millis(4),
            append_bytes: 4096,
            appends_in_flight: 12.0,
            lone_share: 0.1,
            max_risk: Risk::bound(1e-6),
            deadline: Duration::from_millis(40),
            ack_when: AckWhen::default(),
        }
    }
}

/// A situation made fit for arithmetic: seconds, packets, and nothing out of range.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Without those that another one is worse than in every bound.
    pub(crate) channels: Vec<Channel>,
    /// Seconds that a packet takes on the line; 0 if not known.
    pub(crate) packet: f64,
    /// Packets per second that the line carries.
    pub(crate) capacity: f64,
    /// Source symbols per second.
    pub(crate) rate: f64,
    /// The least of them that must have room on the line.
    pub(crate) rate_min: f64,
    /// Source symbols of an append.
    pub(crate) symbols: u32,
    /// Seconds from the last source symbol on the wire to the mirror's word.
    pub(crate) mirror: f64,
    pub(crate) deadline: f64,
    pub(crate) site_exit: f64,
    pub(crate) flush_delay: f64,
    pub(crate) flush_age: f64,
    /// Appends of a log in flight besides the newest.
    pub(crate) others: f64,
    /// Share of lone appends; 0 or 1 if the rest does not count.
    pub(crate) lone: f64,
    pub(crate) max_risk: f64,
    pub(crate) ack_when: AckWhen,
    /// Packets of which 99 in 100 bursts have no more.
    pub(crate) burst: u32,
}

impl Terms {
    pub(crate) fn new(situation: &Situation) -> Self {
        let line = situation.line_bytes_per_second as f64;
        let packet = if line > 0.0 { f64::from(situation.packet_bytes.max(1)) / line } else { 0.0 };
        let finite = |value: f64, least: f64| if value.is_finite() { value.max(least) } else { least };
        let rate = finite(situation.symbols_per_second, 0.0).min(SYMBOLS_PER_SECOND_MAX);
        let share = finite(situation.lone_share, 0.0).min(1.0);
        let lone = match share {
            _ if rate < SYMBOLS_PER_SECOND_MIN => 1.0,
            share if share < SHARE_MIN => 0.0,
            share if share > 1.0 - SHARE_MIN => 1.0,
            share => share,
        };
        Self {
            channels: worst_of(&situation.channels),
            packet,
            capacity: if packet > 0.0 { 1.0 / packet } else { f64::INFINITY },
            rate,
            rate_min: rate * (1.0 - finite(situation.slowdown_max, 0.0).min(1.0)),
            symbols: situation.append_bytes.div_ceil(situation.symbol_data_bytes.max(1)).max(1),
            mirror: situation.round_trip.as_secs_f64() + situation.mirror_delay.as_secs_f64(),
            deadline: situation.deadline.as_secs_f64(),
            site_exit: situation.site_exit.as_secs_f64(),
            flush_delay: situation.flush_delay.as_secs_f64(),
            flush_age: situation.flush_age.max(situation.flush_delay).as_secs_f64(),
            others: finite(situation.appends_in_flight, 1.0) - 1.0,
            lone,
            max_risk: situation.max_risk.probability(),
            ack_when: situation.ack_when,
            burst: burst_p99(&situation.channels),
        }
    }

    /// Seconds in which repairs of a stream are of use: before the deadline, and before the mirror's own word.
    pub(crate) fn useful(&self) -> f64 {
        self.deadline.min(self.mirror)
    }

    pub(crate) fn has_lone(&self) -> bool {
        self.lone > 0.0
    }

    pub(crate) fn has_stream(&self) -> bool {
        self.lone < 1.0
    }
}

/// A kind of append that is rarer does not count: it waits for the mirror if it must.
const SHARE_MIN: f64 = 0.01;

/// Less is no stream.
const SYMBOLS_PER_SECOND_MIN: f64 = 1.0;

/// More than any link carries.
const SYMBOLS_PER_SECOND_MAX: f64 = 1e9;

/// Longest burst that parameters are derived from. Longer ones outlast what decoders remember.
const BURST_MAX: f64 = 8192.0;

/// Length in packets that 99 of 100 bursts do not exceed, at the worst of the channels: the bad state's stay, which is
/// geometric.
pub(crate) fn burst_p99(channels: &[Channel]) -> u32 {
    let length = |channel: &Channel| {
        if channel.bad_to_good.is_nan() || channel.good_to_bad.is_nan() {
            return BURST_MAX;
        }
        // A chain of negative memory is as good as independent.
        match (1.0 - channel.bad_to_good).max(channel.good_to_bad) {
            1.0.. => BURST_MAX,
            stays if stays <= 0.01 => 1.0,
            stays => (0.01_f64.ln() / stays.ln()).ceil(),
        }
    };
    channels.iter().map(length).fold(1.0, f64::max).clamp(1.0, BURST_MAX) as u32
}

/// The channels but those that another one dominates: a model's figure rises with every bound.
fn worst_of(channels: &[Channel]) -> Vec<Channel> {
    let mut worst: Vec<Channel> = Vec::new();
    for &channel in channels {
        if worst.iter().any(|other| is_no_worse(&channel, other)) {
            continue;
        }
        worst.retain(|other| !is_no_worse(other, &channel));
        worst.push(channel);
    }
    worst
}

fn is_no_worse(a: &Channel, b: &Channel) -> bool {
    a.good_to_bad <= b.good_to_bad
        && a.bad_to_good >= b.bad_to_good
        && a.loss_in_bad <= b.loss_in_bad
        && a.loss <= b.loss
        && a.packets_per_second == b.packets_per_second
        && a.confidence == b.confidence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_geometric() {
        let p99 = |burst| burst_p99(&[Channel::bursty(0.01, burst, 0.999)]);
        assert_eq!([1.0, 3.0, 10.0, 50.0].map(p99), [1, 12, 44, 228]);
        assert_eq!(burst_p99(&[]), 1);
        let hopeless = Channel { bad_to_good: 0.0, ..Channel::bursty(0.1, 3.0, 0.999) };
        assert_eq!(burst_p99(&[Channel::bursty(0.01, 3.0, 0.999), hopeless]), 8192);
        assert_eq!(burst_p99(&[Channel { bad_to_good: f64::NAN, ..hopeless }]), 8192);
    }

    #[test]
    fn channels_that_are_dominated_are_not_asked_about() {
        let (mild, bad) = (Channel::bursty(0.001, 3.0, 0.999), Channel::bursty(0.01, 3.0, 0.999));
        let long = Channel::bursty(1e-4, 100.0, 0.999);
        assert_eq!(worst_of(&[mild, bad, bad, mild]), [bad]);
        assert_eq!(worst_of(&[bad, mild, long]), [bad, long]);
    }

    #[test]
    fn nonsense_becomes_sense() {
        let situation = Situation {
            symbols_per_second: f64::NAN,
            appends_in_flight: f64::NEG_INFINITY,
            lone_share: -3.0,
            append_bytes: 0,
            symbol_data_bytes: 0,
            packet_bytes: 0,
            flush_age: Duration::ZERO,
            ..Situation::default()
        };
        let terms = Terms::new(&situation);
        assert_eq!((terms.rate, terms.others, terms.lone, terms.symbols), (0.0, 0.0, 1.0, 1));
        assert!(terms.flush_age >= terms.flush_delay && terms.capacity.is_finite());
        let unknown = Terms::new(&Situation { line_bytes_per_second: 0, ..situation });
        assert_eq!((unknown.packet, unknown.capacity), (0.0, f64::INFINITY));
    }
}
