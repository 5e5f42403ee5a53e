//! The congestion controller of a provisioned path: none.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::congestion::{Controller, ControllerFactory};

/// For a leased line of known rate: the link core paces at that rate, and loss does not slow it.
///
/// The window is so large that it never fills and, being above 4 GiB, switches quinn's own pacer off
/// (quinn-proto, `connection/pacing.rs`). Use it only on a path whose rate is yours: it takes no notice
/// of other traffic (SMFS section 5.1 assumes such a link).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Provisioned;

/// Bytes in flight that no path reaches: 1 TiB, a hundred seconds at 80 Gbit/s.
const WINDOW_BYTES: u64 = 1 << 40;
const _: () = assert!(WINDOW_BYTES > u32::MAX as u64);

impl Controller for Provisioned {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        WINDOW_BYTES
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(*self)
    }

    fn initial_window(&self) -> u64 {
        WINDOW_BYTES
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl ControllerFactory for Provisioned {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_does_not_slow_a_provisioned_path() {
        let now = Instant::now();
        let mut controller = Arc::new(Provisioned).build(now, 1200);
        for _ in 0..100 {
            controller.on_congestion_event(now, now, true, 1 << 20);
        }
        assert_eq!(controller.window(), controller.initial_window());
    }
}
