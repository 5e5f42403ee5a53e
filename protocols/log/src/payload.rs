//! Payloads of the records that are not appends.

use parhelion_types::limits::LOG_NAME_BYTES_MAX;
use parhelion_types::{Degrade, LogAddress};

use crate::fields::Reader;
use crate::record::RecordError;

/// Payload of a creation: the policy, then the name in UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatePayload {
    /// What happens when an append's level is not reached in time.
    pub degrade: Degrade,
    /// The log's name.
    pub name: String,
}

impl CreatePayload {
    /// The bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&[self.degrade.code()], self.name.as_bytes()].concat()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// An unknown policy, or a name that is too long or no text.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let (&policy, name) = bytes.split_first().ok_or(RecordError::Field("creation"))?;
        let degrade = Degrade::from_code(policy).ok_or(RecordError::Field("degrade policy"))?;
        if name.len() > LOG_NAME_BYTES_MAX {
            return Err(RecordError::Field("name"));
        }
        let name = std::str::from_utf8(name).map_err(|_| RecordError::Field("name"))?.to_owned();
        Ok(Self { degrade, name })
    }
}

/// Payload of a freeing: 16 bytes for each append, its record number and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreePayload {
    /// Record number and address of each freed append.
    pub appends: Vec<(u64, LogAddress)>,
}

const FREED_BYTES: usize = 16;

impl FreePayload {
    /// The bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.appends.len() * FREED_BYTES);
        for (number, address) in &self.appends {
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.extend_from_slice(&address.segment.0.to_le_bytes());
            bytes.extend_from_slice(&address.offset.to_le_bytes());
        }
        bytes
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// The length is no multiple of 16.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let (appends, rest) = bytes.as_chunks::<FREED_BYTES>();
        if !rest.is_empty() {
            return Err(RecordError::Field("freeing"));
        }
        let read = |append: &[u8; FREED_BYTES]| {
            let mut reader = Reader::new(append);
            (reader.u64(), LogAddress::new(reader.u32(), reader.u32()))
        };
        Ok(Self { appends: appends.iter().map(read).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_survive() {
        let create = CreatePayload { degrade: Degrade::Fail, name: "Aufträge".to_owned() };
        assert_eq!(CreatePayload::parse(&create.to_bytes()), Ok(create));
        let free = FreePayload { appends: vec![(3, LogAddress::new(1, 64)), (9, LogAddress::new(2, 4096))] };
        assert_eq!(FreePayload::parse(&free.to_bytes()), Ok(free));
        for bad in [&b""[..], b"\x09name", b"\x00\xff\xff"] {
            assert!(CreatePayload::parse(bad).is_err());
        }
        assert!(FreePayload::parse(&[0; 17]).is_err());
    }
}
