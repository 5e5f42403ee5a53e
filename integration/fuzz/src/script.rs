//! A fuzzer's input, read as a script.

/// Reads numbers and byte strings from an input, from the front.
///
/// Every input is a script: behind its end stand zeros, so that an input cut short is still one, and a byte
/// changed in the middle changes one step. Integers are little endian.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    /// The script in `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether nothing is left but the zeros.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number near `base` or far from it: limits and edges are where arithmetic breaks.
    pub fn near(&mut self, base: u64) -> u64 {
        match self.u8() {
            back @ 0..=63 => base.wrapping_sub(u64::from(back)),
            ahead @ 64..=199 => base.wrapping_add(u64::from(ahead - 64)),
            200..=231 => base.wrapping_add(u64::from(self.u16())),
            232..=243 => u64::MAX - u64::from(self.u8()),
            _ => self.u64(),
        }
    }

    /// At most `max` bytes, behind their count in two bytes.
    pub fn bytes(&mut self, max: usize) -> &'a [u8] {
        let count = usize::from(self.u16()).min(max).min(self.rest.len());
        let (bytes, rest) = self.rest.split_at(count);
        self.rest = rest;
        bytes
    }

    /// At most 255 bytes as text, behind their count in one byte. What is no UTF-8 is replaced.
    pub fn text(&mut self) -> String {
        let count = usize::from(self.u8()).min(self.rest.len());
        let (bytes, rest) = self.rest.split_at(count);
        self.rest = rest;
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// All that is left.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let count = N.min(self.rest.len());
        let (bytes, rest) = self.rest.split_at(count);
        array[..count].copy_from_slice(bytes);
        self.rest = rest;
        array
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_ends_in_zeros() {
        let mut script = Script::new(&[1, 2, 3, 2, 0, b'a', b'b', 9, 7]);
        assert_eq!((script.u8(), script.u16()), (1, 0x0302));
        assert_eq!(script.bytes(10), b"ab");
        assert_eq!(script.u32(), 0x0709);
        assert!(script.is_over());
        assert_eq!((script.u64(), script.bytes(5), script.text()), (0, &b""[..], String::new()));
    }
}
