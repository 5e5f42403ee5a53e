//! The receiving side: a window of symbols, and the system of those that are lost.

use parhelion_plugin::{Decoder, Forgotten, RecoveredSink, RepairHead, SymbolError, Window};

use crate::coefficients::Coefficients;
use crate::system::System;

/// Rebuilds each lost symbol with the first packet that determines it.
pub(crate) struct WindowDecoder {
    coefficients: Coefficients,
    window: Window,
    system: System,
}

impl WindowDecoder {
    pub fn new(coefficients: Coefficients, window: usize, symbol_bytes: usize) -> Self {
        Self {
            coefficients,
            window: Window::new(window, symbol_bytes),
            system: System::new(window, symbol_bytes),
        }
    }

    /// Moves the window so that it holds `id`, and forgets what falls out of it.
    fn reach(&mut self, id: u64) {
        match self.window.reach(id) {
            Forgotten::All => self.system.clear(),
            Forgotten::Ids(gone) => {
                for id in gone {
                    self.system.forget(self.window.place(id));
                }
            }
        }
    }
}

impl Decoder for WindowDecoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RecoveredSink) {
        self.reach(id);
        if self.window.keep(id, payload) {
            self.system.learn(self.window.place(id), payload);
            self.system.solve(&mut self.window, out);
        }
    }

    fn repair(
        &mut self,
        head: RepairHead,
        payload: &[u8],
        out: &mut dyn RecoveredSink,
    ) -> Result<(), SymbolError> {
        self.window.check_length(payload)?;
        let Some(point) = self.coefficients.point_of(head) else { return Err(SymbolError::Head(head)) };
        if self.window.is_past(head.cover) {
            return Ok(());
        }
        // The newest symbols may be ahead of the window when everything since was lost.
        self.reach(head.cover.last());
        self.window.check_group(head, payload)?;
        if head.cover.ids().all(|id| self.window.holds(id)) {
            return Ok(());
        }
        self.system.add(&self.window, &self.coefficients, (head.cover, point), payload);
        self.system.solve(&mut self.window, out);
        Ok(())
    }

    fn expire(&mut self, id: u64) {
        self.window.expire(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parhelion_plugin::Parameters;
    use parhelion_plugin::conformance::{PacketKind, SplitMix64, Stream, Traffic};

    use crate::SlidingWindow;
    use crate::coefficients::Shape;

    struct Count(usize);

    impl RecoveredSink for Count {
        fn recovered(&mut self, _: u64, _: &[u8]) {
            self.0 += 1;
        }
    }

    const SHAPE: Shape = Shape { r: 8, c: 3, window: 128, indices: 6 };

    fn decoder() -> WindowDecoder {
        WindowDecoder::new(Coefficients::new(SHAPE), 1024, 16)
    }

    /// Streams of the same losses, 300 000 symbols each; calls `each` behind every packet that arrives.
    fn play(
        decoder: &mut WindowDecoder,
        mut lost: impl FnMut() -> bool,
        mut each: impl FnMut(&WindowDecoder, bool, usize),
    ) {
        let stream = {
            let traffic = Traffic { symbols: 300_000, seed: 1, ..Traffic::default() };
            Stream::encode(&SlidingWindow, &Parameters::new(), &traffic).unwrap()
        };
        let mut out = Count(0);
        for packet in stream.packets.iter().filter(|_| !lost()) {
            let mut is_about_lost = false;
            match packet.kind {
                PacketKind::Source(id) => decoder.source(id, stream.payload(packet), &mut out),
                PacketKind::Repair(head) => {
                    decoder.reach(head.cover.last());
                    is_about_lost = head.cover.ids().any(|id| !decoder.window.holds(id));
                    decoder.repair(head, stream.payload(packet), &mut out).unwrap();
                }
            }
            each(decoder, is_about_lost, out.0);
        }
    }

    /// A repair that includes lost symbols says something new. It may not where others include only some of these:
    /// with random factors (RFC 8681) one of 1500, here one of 9000.
    #[test]
    fn repairs_are_hardly_ever_redundant() {
        let mut random = SplitMix64::new(2);
        let mut bad = false;
        let lost = || {
            bad = random.chance(if bad { 0.8 } else { 0.01 });
            bad
        };
        let (mut rank, mut told, mut redundant) = (0, 0, 0);
        play(&mut decoder(), lost, |decoder, is_about_lost, recovered| {
            let now = decoder.system.len() + recovered;
            if is_about_lost {
                told += 1;
                redundant += u32::from(now == rank);
            }
            rank = now;
        });
        println!("{redundant} of {told} repairs were redundant");
        assert!(told > 10_000 && redundant * 3_000 < told, "{redundant} of {told}");
    }

    /// Equations that come to nothing go with the window; the rest of the time there are none.
    #[test]
    fn hopeless_equations_are_forgotten() {
        let mut decoder = decoder();
        let (mut at, mut most, mut waiting) = (0_u32, 0, 0);
        let lost = || {
            at += 1;
            at % 40_000 < 2_000 && !at.is_multiple_of(3)
        };
        play(&mut decoder, lost, |decoder, _, _| {
            most = most.max(decoder.system.len());
            waiting = decoder.system.len();
        });
        assert!((100..=512).contains(&most), "{most} equations");
        assert_eq!((waiting, decoder.system.columns()), (0, 0));
    }
}
