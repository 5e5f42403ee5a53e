//! Little-endian fields one after another. Callers have checked the length.

pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

pub(crate) struct Writer<'a> {
    rest: &'a mut [u8],
}

macro_rules! fields {
    ($($name:ident: $ty:ty = $n:literal),*) => {
        impl<'a> Reader<'a> {
            pub fn new(bytes: &'a [u8]) -> Self {
                Self { rest: bytes }
            }

            $(pub fn $name(&mut self) -> $ty {
                let (field, rest) = self.rest.split_first_chunk::<$n>().expect("length was checked");
                self.rest = rest;
                <$ty>::from_le_bytes(*field)
            })*
        }

        impl<'a> Writer<'a> {
            pub fn new(bytes: &'a mut [u8]) -> Self {
                Self { rest: bytes }
            }

            $(pub fn $name(&mut self, value: $ty) {
                let (field, rest) =
                    std::mem::take(&mut self.rest).split_first_chunk_mut::<$n>().expect("length was checked");
                *field = value.to_le_bytes();
                self.rest = rest;
            })*
        }
    };
}

fields!(u8: u8 = 1, u16: u16 = 2, u32: u32 = 4, u64: u64 = 8, u128: u128 = 16);
