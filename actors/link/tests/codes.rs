//! Both ends agree on the code, before it is used; one that breaks is replaced by another.

mod common;

use std::sync::Arc;

use common::{Mirror, Pki, Primary, codes_and, mirror_config, over_a_path, primary_config};
use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_link_driver::LinkCommand;
use parhelion_plugin::{
    Decoder, Encoder, ErasureCode, Parameter, ParameterError, Parameters, RecoveredSink, RepairHead,
    RepairSink, Structure, SymbolError,
};
use tokio::sync::oneshot;

/// Layered interleaving under another name, which breaks after some symbols.
#[derive(Debug)]
struct Fragile {
    version: u32,
    /// Source symbols after which an encoder breaks.
    encoder_breaks: u64,
    /// Repair symbols after which a decoder breaks.
    decoder_breaks: u64,
    /// Whether a decoder gives symbols that were never sent.
    makes_up: bool,
}

const SOUND: Fragile =
    Fragile { version: 1, encoder_breaks: u64::MAX, decoder_breaks: u64::MAX, makes_up: false };

struct FragileEncoder(Box<dyn Encoder>, u64);

struct FragileDecoder(Box<dyn Decoder>, u64, bool);

impl ErasureCode for Fragile {
    fn name(&self) -> &str {
        "fragile"
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn parameters(&self) -> &[Parameter] {
        LayeredInterleaving.parameters()
    }

    fn structure(&self, parameters: &Parameters) -> Result<Structure, ParameterError> {
        LayeredInterleaving.structure(parameters)
    }

    fn encoder(&self, parameters: &Parameters, bytes: usize) -> Result<Box<dyn Encoder>, ParameterError> {
        let encoder = LayeredInterleaving.encoder(parameters, bytes)?;
        Ok(Box::new(FragileEncoder(encoder, self.encoder_breaks)))
    }

    fn decoder(&self, parameters: &Parameters, bytes: usize) -> Result<Box<dyn Decoder>, ParameterError> {
        let decoder = LayeredInterleaving.decoder(parameters, bytes)?;
        Ok(Box::new(FragileDecoder(decoder, self.decoder_breaks, self.makes_up)))
    }
}

impl Encoder for FragileEncoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RepairSink) {
        self.1 = self.1.saturating_sub(1);
        if self.1 > 0 {
            self.0.source(id, payload, out);
        }
    }

    fn flush(&mut self, out: &mut dyn RepairSink) {
        if self.1 > 0 {
            self.0.flush(out);
        }
    }

    fn fault(&self) -> Option<&str> {
        (self.1 == 0).then_some("it looped in `source`")
    }
}

impl Decoder for FragileDecoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RecoveredSink) {
        self.0.source(id, payload, out);
    }

    fn repair(
        &mut self,
        head: RepairHead,
        payload: &[u8],
        out: &mut dyn RecoveredSink,
    ) -> Result<(), SymbolError> {
        self.1 = self.1.saturating_sub(1);
        if self.2 {
            // Far ahead of what was sent: nobody will miss it.
            out.recovered(head.cover.last() + 50, &[7; 400]);
        }
        if self.1 > 0 { self.0.repair(head, payload, out) } else { Ok(()) }
    }

    fn expire(&mut self, id: u64) {
        self.0.expire(id);
    }

    fn fault(&self) -> Option<&str> {
        (self.1 == 0).then_some("it trapped in `repair`")
    }
}

/// A pair of which each end knows a fragile code, on a path with losses; the primary begins with it.
struct Pair {
    primary: Primary,
    mirror: Mirror,
    /// They stop when they are dropped.
    _paths: [common::Relay; 2],
}

async fn pair(at_the_primary: Fragile, at_the_mirror: Option<Fragile>, begins_with: &str) -> Pair {
    let known = |code: Option<Fragile>| codes_and(code.map(|code| Arc::new(code) as Arc<dyn ErasureCode>));
    let pki = Pki::new();
    let mut config = mirror_config(&pki);
    config.codes = known(at_the_mirror);
    let mirror = Mirror::start(config);
    let (mut config, critical, bulk) = over_a_path(primary_config(&pki, mirror.addresses)).await;
    config.codes = known(Some(at_the_primary));
    config.fallback = "layered-interleaving".to_owned();
    begins_with.clone_into(&mut config.code);
    Pair { primary: Primary::start(config), mirror, _paths: [critical, bulk] }
}

async fn change(primary: &Primary, name: &str) -> Result<(), String> {
    let (done, answer) = oneshot::channel();
    let (name, parameters) = (name.to_owned(), String::new());
    primary.command(LinkCommand::ChangeCode { name, parameters, flush_pause: Some(3), done });
    answer.await.unwrap()
}

#[tokio::test]
async fn versions_that_differ_are_refused_with_both_named() {
    let mut pair = pair(Fragile { version: 2, ..SOUND }, Some(SOUND), "fragile").await;
    let reason = pair.primary.down().await;
    for words in ["\"fragile\"", "version 2", "here it has version 1", "load the same plugin at both sites"] {
        assert!(reason.contains(words), "{reason}");
    }
}

#[tokio::test]
async fn a_code_that_the_mirror_lacks_is_not_taken_and_the_link_goes_on() {
    let mut pair = pair(SOUND, None, "layered-interleaving").await;
    pair.primary.up().await;
    let refused = change(&pair.primary, "fragile").await.unwrap_err();
    assert!(
        refused.contains("the mirror does not take the code") && refused.contains("it is not known here"),
        "{refused}"
    );
    for number in 0..50 {
        pair.primary.send(1, number, 20_000);
    }
    pair.primary.until(|p| p.mirrored.get(&1) == Some(&50)).await;
    assert_eq!(pair.primary.stats.sessions.get(), 1);
    assert_eq!(pair.mirror.store.lock().unwrap().downs, Vec::<String>::new());
}

#[tokio::test]
async fn a_code_is_swapped_for_another_version_of_it_under_traffic() {
    // Both ends know both; what is in flight stays covered.
    let mut pair = pair(SOUND, Some(SOUND), "layered-interleaving").await;
    pair.primary.up().await;
    for number in 0..200 {
        pair.primary.send(1, number, 20_000);
        match number {
            60 => assert_eq!(change(&pair.primary, "fragile@1").await, Ok(())),
            130 => assert_eq!(change(&pair.primary, "layered-interleaving").await, Ok(())),
            _ => {}
        }
    }
    pair.primary.until(|p| (0..200).all(|number| p.is_safe(1, number))).await;
    pair.primary.until(|p| p.mirrored.get(&1) == Some(&200)).await;
    assert_eq!((pair.primary.stats.sessions.get(), pair.primary.stats.code_faults.get()), (1, 0));
}

#[tokio::test]
async fn a_code_that_breaks_at_either_end_is_replaced_and_nothing_is_lost() {
    let cases = [
        (Fragile { encoder_breaks: 300, ..SOUND }, SOUND, "broke here: it looped in `source`"),
        (SOUND, Fragile { decoder_breaks: 100, ..SOUND }, "broke at the mirror: it trapped in `repair`"),
        (SOUND, Fragile { makes_up: true, ..SOUND }, "it rebuilt a symbol that was never sent"),
    ];
    for (here, there, words) in cases {
        let mut pair = pair(here, Some(there), "fragile").await;
        pair.primary.up().await;
        // The storage actor sends what is not confirmed again in each session; here the test does.
        for number in 0..100 {
            pair.primary.send(1, number, 20_000);
        }
        let reason = pair.primary.down().await;
        assert!(reason.contains(words) && reason.contains("with layered-interleaving v1"), "{reason}");
        let marks = pair.primary.up().await;
        let from = marks.iter().find(|mark| mark.log == 1).map_or(0, |mark| mark.records);
        for number in from..100 {
            pair.primary.send(1, number, 20_000);
        }
        pair.primary.until(|p| p.mirrored.get(&1) == Some(&100)).await;
        assert_eq!((pair.primary.stats.sessions.get(), pair.primary.stats.code_faults.get()), (2, 1));
    }
}
