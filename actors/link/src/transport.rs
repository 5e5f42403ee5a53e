//! What makes a QUIC connection a lane: its mark, its name in the handshake, its transport parameters.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn_proto::{AckFrequencyConfig, IdleTimeout, TransportConfig, VarInt};

use crate::config::{Congestion, LaneConfig};
use crate::error::LinkError;
use crate::provisioned::Provisioned;
use crate::udp::TrafficClass;

/// Which of the two lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneKind {
    Critical,
    Bulk,
}

/// Why an end closed a connection; the number that QUIC carries beside the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum CloseCode {
    /// Told to stop.
    Stopped = 0,
    /// The certificate or the session was refused.
    Refused = 1,
    /// The peer broke the protocol.
    Protocol = 2,
    /// The session ended on the other lane, or a newer one took its place.
    SessionOver = 3,
}

/// Datagrams received and not yet taken; one batch from the kernel must fit.
const DATAGRAM_RECEIVE_BYTES: usize = 8 << 20;
/// Datagrams handed over and not yet packed; one burst of the largest datagrams must fit.
const DATAGRAM_SEND_BYTES: usize = 8 << 20;
/// Streams that a peer may open: one control or binding stream, and one to spare.
const STREAMS_MAX: u32 = 2;
/// Round trip assumed before one was measured. The handshake's timeouts follow from it, and quinn waits for
/// three of them at least before it gives up: its own guess of a third of a second makes that three seconds.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Packets acknowledged at one go on the bulk lane. Nothing waits for those acknowledgements but QUIC's
/// own bookkeeping, so the reverse path can be spared.
const BULK_ACK_THRESHOLD: u32 = 40;
/// Bound on how long such an acknowledgement waits.
const BULK_ACK_DELAY: Duration = Duration::from_millis(20);

impl LaneKind {
    /// Tells lanes apart in the handshake, so that a wrong port is refused with a reason.
    pub(crate) fn protocol(self) -> &'static [u8] {
        match self {
            Self::Critical => b"parhelion-critical/1",
            Self::Bulk => b"parhelion-bulk/1",
        }
    }

    pub(crate) fn class(self) -> TrafficClass {
        match self {
            Self::Critical => TrafficClass::Expedited,
            Self::Bulk => TrafficClass::Assured,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Bulk => "bulk",
        }
    }
}

/// The transport parameters of a lane.
pub(crate) fn transport(
    kind: LaneKind,
    congestion: Congestion,
    config: &LaneConfig,
) -> Result<TransportConfig, LinkError> {
    let idle =
        IdleTimeout::try_from(config.idle_timeout).map_err(|error| LinkError::Settings(error.to_string()))?;
    // The critical lane carries little, and nothing may hold it up: it is never throttled.
    let congestion: Arc<dyn ControllerFactory + Send + Sync> = match (kind, congestion) {
        (LaneKind::Critical, _) | (_, Congestion::Provisioned) => Arc::new(Provisioned),
        (LaneKind::Bulk, Congestion::Bbr) => Arc::new(BbrConfig::default()),
        (LaneKind::Bulk, Congestion::Cubic) => Arc::new(CubicConfig::default()),
    };
    let mut transport = TransportConfig::default();
    transport
        .initial_mtu(config.payload_bytes())
        .min_mtu(config.payload_bytes())
        .mtu_discovery_config(None)
        .max_idle_timeout(Some(idle))
        .initial_rtt(INITIAL_RTT)
        .keep_alive_interval(Some(config.keep_alive()))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BYTES))
        .datagram_send_buffer_size(DATAGRAM_SEND_BYTES)
        .congestion_controller_factory(congestion);
    if kind == LaneKind::Bulk {
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(BULK_ACK_THRESHOLD))
            .max_ack_delay(Some(BULK_ACK_DELAY))
            // A gap is the code's business, not a reason to acknowledge.
            .reordering_threshold(VarInt::from_u32(0));
        transport.ack_frequency_config(Some(acks));
    }
    Ok(transport)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_has_its_own_mark_and_name() {
        // Architecture: the critical lane is expedited, the bulk lane assured. Swapped, bulk would starve the promises.
        assert_eq!(LaneKind::Critical.class(), TrafficClass::Expedited);
        assert_eq!(LaneKind::Bulk.class(), TrafficClass::Assured);
        // The names are part of the protocol.
        assert_eq!(LaneKind::Critical.protocol(), b"parhelion-critical/1");
        assert_eq!(LaneKind::Bulk.protocol(), b"parhelion-bulk/1");
        assert_eq!((LaneKind::Critical.name(), LaneKind::Bulk.name()), ("critical", "bulk"));
    }
}
