//! Encoders and decoders of plugins: the calls, and the checks of all that comes out of them.

use parhelion_plugin::{
    Cover, Decoder, Encoder, RecoveredSink, RepairHead, RepairSink, Structure, SymbolError,
};
use parhelion_plugin_sdk::{Symbol, result};

/// The plugin's result of a call, or what happened when it broke.
pub type Answer = Result<i32, String>;

/// An encoder or decoder where it runs. It is called only with what the ABI allows.
pub trait Instance: Send {
    /// A source symbol, to an encoder or a decoder.
    ///
    /// # Errors
    /// The plugin broke, here and below.
    fn source(&mut self, id: u64, payload: &[u8]) -> Answer;

    /// The end of a group, to an encoder.
    ///
    /// # Errors
    /// The plugin broke.
    fn flush(&mut self) -> Answer;

    /// A repair symbol, to a decoder.
    ///
    /// # Errors
    /// The plugin broke.
    fn repair(&mut self, head: RepairHead, payload: &[u8]) -> Answer;

    /// The least id that is wanted, to a decoder.
    ///
    /// # Errors
    /// The plugin broke.
    fn expire(&mut self, id: u64) -> Answer;

    /// Symbol `n` of the outbox that the last call left.
    ///
    /// # Errors
    /// It is not in the plugin's memory.
    fn symbol(&self, n: usize) -> Result<Symbol, String>;

    /// The payload of such a symbol.
    ///
    /// # Errors
    /// It is not in the plugin's memory.
    fn payload(&self, symbol: &Symbol) -> Result<&[u8], String>;
}

/// An encoder of a plugin.
///
/// Invariant: with a fault, nothing comes out any more.
pub struct PluginEncoder<I> {
    instance: I,
    outlet: Outlet,
    /// First and newest id of the stream, once it has begun.
    sent: Option<(u64, u64)>,
    span_symbols: u64,
}

/// A decoder of a plugin.
///
/// Invariant: with a fault, nothing comes out any more.
pub struct PluginDecoder<I> {
    instance: I,
    outlet: Outlet,
    /// No symbol below it is wanted.
    wanted: u64,
    /// The highest id that anything was said of.
    newest: u64,
}

/// What both have in common.
struct Outlet {
    label: String,
    symbol_bytes: usize,
    /// Repair indices of the code.
    indices: u32,
    /// Most symbols that one call may give.
    symbols_max: usize,
    fault: Option<String>,
}

/// No call needs to give more symbols than these, whatever the structure allows.
const SYMBOLS_PER_CALL_MAX: u64 = 1 << 20;

impl Outlet {
    fn new(label: String, structure: &Structure, symbol_bytes: usize, symbols_max: u64) -> Self {
        Self {
            label,
            symbol_bytes,
            indices: structure.repairs_per_symbol(),
            symbols_max: symbols_max.min(SYMBOLS_PER_CALL_MAX) as usize,
            fault: None,
        }
    }

    /// Whether a symbol may have so many bytes.
    fn is_size(&self, bytes: u32) -> bool {
        bytes > 0 && bytes as usize <= self.symbol_bytes
    }

    fn broke(&mut self, what: &str) {
        self.fault = Some(format!("{} {what}", self.label));
    }

    /// The number of symbols that a call gave; none if it broke.
    fn count(&mut self, answer: Answer) -> usize {
        match answer {
            Ok(count) => match usize::try_from(count) {
                Ok(count) if count <= self.symbols_max => return count,
                Ok(count) => {
                    self.broke(&format!("gave {count} symbols at once; at most {}", self.symbols_max))
                }
                Err(_) => self.broke(&format!("gave up with result {count}")),
            },
            Err(what) => self.broke(&what),
        }
        0
    }
}

impl<I: Instance> PluginEncoder<I> {
    /// The encoder; `label` names the plugin in a fault.
    pub fn new(instance: I, label: String, structure: &Structure, symbol_bytes: usize) -> Self {
        let span_symbols = structure.span_symbols();
        // A flush sends every repair of every symbol that is still open, at most.
        let symbols_max = u64::from(structure.repairs_per_symbol()).saturating_mul(span_symbols + 1);
        let outlet = Outlet::new(label, structure, symbol_bytes, symbols_max);
        Self { instance, outlet, sent: None, span_symbols }
    }

    fn deliver(&mut self, answer: Answer, out: &mut dyn RepairSink) {
        for n in 0..self.outlet.count(answer) {
            let symbol = self.instance.symbol(n);
            let repair = symbol.and_then(|symbol| Ok((self.head(&symbol)?, self.instance.payload(&symbol)?)));
            match repair {
                Ok((head, payload)) => out.repair(head, payload),
                Err(what) => return self.outlet.broke(&what),
            }
        }
    }

    /// Whether a repair can be what it says: a decoder would refuse it, and coverage would be a lie.
    fn head(&self, symbol: &Symbol) -> Result<RepairHead, String> {
        let Symbol { id, stride, count, index, bytes, .. } = *symbol;
        let last = id.checked_add(u64::from(stride) * u64::from(count.saturating_sub(1)));
        if stride == 0 || count == 0 || index >= self.outlet.indices || !self.outlet.is_size(bytes) {
            return Err(format!("gave a repair that is none: {symbol:?}"));
        }
        let sent = self.sent.is_some_and(|(first, newest)| {
            id >= first && last.is_some_and(|last| last <= newest) && newest - id <= self.span_symbols
        });
        if !sent {
            return Err(format!("gave a repair of symbols that it was not given lately: {symbol:?}"));
        }
        // Below 64, which is the most that a structure may have.
        Ok(RepairHead { cover: Cover { first: id, stride, count }, index: index as u8 })
    }
}

impl<I: Instance> Encoder for PluginEncoder<I> {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RepairSink) {
        assert!(payload.len() <= self.outlet.symbol_bytes, "symbol {id} has {} bytes", payload.len());
        let first = match self.sent {
            Some((first, newest)) => {
                assert!(id == newest.wrapping_add(1), "symbol {id} follows {newest}");
                first
            }
            None => id,
        };
        self.sent = Some((first, id));
        if self.outlet.fault.is_none() {
            let answer = self.instance.source(id, payload);
            self.deliver(answer, out);
        }
    }

    fn flush(&mut self, out: &mut dyn RepairSink) {
        if self.outlet.fault.is_none() {
            let answer = self.instance.flush();
            self.deliver(answer, out);
        }
    }

    fn fault(&self) -> Option<&str> {
        self.outlet.fault.as_deref()
    }
}

impl<I: Instance> PluginDecoder<I> {
    /// The decoder; `label` names the plugin in a fault.
    pub fn new(instance: I, label: String, structure: &Structure, symbol_bytes: usize) -> Self {
        let symbols_max = structure.window_symbols().unwrap_or(0) as u64;
        let outlet = Outlet::new(label, structure, symbol_bytes, symbols_max);
        Self { instance, outlet, wanted: 0, newest: 0 }
    }

    fn deliver(&mut self, answer: Answer, out: &mut dyn RecoveredSink) {
        for n in 0..self.outlet.count(answer) {
            let symbol = self.instance.symbol(n);
            let symbol = symbol.and_then(|symbol| self.rebuilt(&symbol).map(|()| symbol));
            match symbol.and_then(|symbol| Ok((symbol.id, self.instance.payload(&symbol)?))) {
                Ok((id, payload)) => out.recovered(id, payload),
                Err(what) => return self.outlet.broke(&what),
            }
        }
    }

    /// Whether a symbol can have been rebuilt: it is wanted, and something was said of it or of a later one.
    fn rebuilt(&self, symbol: &Symbol) -> Result<(), String> {
        let (Self { wanted, newest, .. }, Symbol { id, bytes, .. }) = (self, symbol);
        if !self.outlet.is_size(*bytes) || !(wanted..=newest).contains(&id) {
            return Err(format!(
                "rebuilt symbol {id} of {bytes} bytes, where {wanted} to {newest} are wanted"
            ));
        }
        Ok(())
    }

    /// What no decoder needs to see.
    fn check(&self, head: RepairHead, payload: &[u8]) -> Result<(), SymbolError> {
        let RepairHead { cover: Cover { first, stride, count }, index } = head;
        let reach = u64::from(stride) * u64::from(count.saturating_sub(1));
        if payload.is_empty() || payload.len() > self.outlet.symbol_bytes {
            return Err(SymbolError::Length { bytes: payload.len(), max: self.outlet.symbol_bytes });
        }
        if stride == 0
            || count == 0
            || first.checked_add(reach).is_none()
            || u32::from(index) >= self.outlet.indices
        {
            return Err(SymbolError::Head(head));
        }
        Ok(())
    }
}

impl<I: Instance> Decoder for PluginDecoder<I> {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RecoveredSink) {
        if self.outlet.fault.is_some() || payload.len() > self.outlet.symbol_bytes {
            return;
        }
        self.newest = self.newest.max(id);
        let answer = self.instance.source(id, payload);
        self.deliver(answer, out);
    }

    fn repair(
        &mut self,
        head: RepairHead,
        payload: &[u8],
        out: &mut dyn RecoveredSink,
    ) -> Result<(), SymbolError> {
        self.check(head, payload)?;
        if self.outlet.fault.is_some() {
            return Ok(());
        }
        let answer = self.instance.repair(head, payload);
        let bytes = payload.len();
        match answer {
            Ok(result::REFUSED_LENGTH) => {
                return Err(SymbolError::Length { bytes, max: self.outlet.symbol_bytes });
            }
            Ok(result::REFUSED_HEAD) => return Err(SymbolError::Head(head)),
            Ok(result::REFUSED_WINDOW) => return Err(SymbolError::Window(head)),
            Ok(result::REFUSED_INCONSISTENT) => {
                // What the group needs, if the plugin says it; only people read that.
                let group = self.instance.symbol(0).map_or(0, |symbol| symbol.bytes as usize);
                return Err(SymbolError::Inconsistent { bytes, group });
            }
            _ => {}
        }
        // Only a head that the plugin took says how far the stream is.
        self.newest = self.newest.max(head.cover.last());
        self.deliver(answer, out);
        Ok(())
    }

    fn expire(&mut self, id: u64) {
        self.wanted = self.wanted.max(id);
        if self.outlet.fault.is_none() {
            let answer = self.instance.expire(id);
            if self.outlet.count(answer) > 0 {
                self.outlet.broke("gave symbols when some expired");
            }
        }
    }

    fn fault(&self) -> Option<&str> {
        self.outlet.fault.as_deref()
    }
}
