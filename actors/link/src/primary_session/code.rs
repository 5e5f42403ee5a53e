//! Changes of the code on a live link: offered to the mirror first, then made.

use parhelion_plugin::Code;
use parhelion_types::Time;
use parhelion_wire::frame;
use parhelion_wire::link::{ChangeCodeV1, OfferCodeV1};
use tokio::sync::oneshot;

use super::{Phase, PrimarySession, Records};
use crate::interface::LinkEvent;
use crate::session::{code_message, find_code};

/// A change of code that the mirror was asked about.
pub(super) struct Offer {
    number: u64,
    code: Code,
    flush_pause: Option<u32>,
    done: Done,
}

/// Whoever asked for a change may have gone when it is made; it stands.
type Done = oneshot::Sender<Result<(), String>>;

/// Offers that wait for the mirror's word.
const OFFERS_MAX: usize = 16;

impl PrimarySession {
    /// Asks the mirror whether it takes the code. One that it does not know would end the session if it were used.
    pub(super) fn offer_code(&mut self, name: &str, parameters: &str, flush_pause: Option<u32>, done: Done) {
        match self.offer(name, parameters) {
            Ok((number, code)) => self.offers.push_back(Offer { number, code, flush_pause, done }),
            Err(reason) => drop(done.send(Err(reason))),
        }
    }

    fn offer(&mut self, name: &str, parameters: &str) -> Result<(u64, Code), String> {
        let code = find_code(&self.config.codes, name, parameters)?;
        match (&mut self.records, &mut self.control, self.phase) {
            (Records::Quic(_), Some(_), Phase::Up) if self.offers.len() >= OFFERS_MAX => {
                Err("other changes of code wait for the mirror; try again later".to_owned())
            }
            (Records::Quic(bulk), Some(control), Phase::Up) => {
                let number = self.next_offer;
                let message = code_message(&code, 0, 0, bulk.symbol_bytes());
                let offer = OfferCodeV1 { code: message, number };
                control.send(frame(&offer, b"", 0).map_err(|error| error.to_string())?);
                self.next_offer += 1;
                Ok((number, code))
            }
            (Records::Tcp(_), ..) => {
                Err("records go over TCP, which takes no code; set the link's transport to quic".to_owned())
            }
            (_, _, Phase::Draining { .. }) => Err("the link is closing".to_owned()),
            // The hello may be out already, with the old code; it is not a session yet, so the next one will do.
            _ => Err("the link is not up; try again when it is".to_owned()),
        }
    }

    /// The mirror's word on an offer.
    pub(super) fn handle_code_answer(&mut self, now: Time, number: u64, error: Option<String>) {
        let Some(at) = self.offers.iter().position(|offer| offer.number == number) else { return };
        let Some(Offer { code, flush_pause, done, .. }) = self.offers.remove(at) else { return };
        let _ = done.send(match error {
            Some(error) => Err(format!("the mirror does not take the code: {error}")),
            None => self.change_code(now, code, flush_pause),
        });
    }

    fn change_code(&mut self, now: Time, code: Code, flush_pause: Option<u32>) -> Result<(), String> {
        let (Records::Quic(bulk), Some(control), Phase::Up) =
            (&mut self.records, &mut self.control, self.phase)
        else {
            return Err("the link is closing".to_owned());
        };
        let epoch = bulk.change_code(now, &code).map_err(|error| error.to_string())?;
        if let Some(flush_pause) = flush_pause {
            self.config.flush_pause = flush_pause;
            bulk.sender.set_flush_pause(flush_pause);
        }
        let message = ChangeCodeV1 {
            code: code_message(&code, epoch.epoch, epoch.first_symbol, bulk.symbol_bytes()),
            flush_pause: self.config.flush_pause,
        };
        control.send(frame(&message, b"", 0).map_err(|error| error.to_string())?);
        self.code_epoch = epoch.epoch;
        self.code = code.clone();
        tracing::info!(%code, epoch = epoch.epoch, flush_pause = self.config.flush_pause, "code changed");
        self.events.push(LinkEvent::CodeChanged(code));
        Ok(())
    }
}
