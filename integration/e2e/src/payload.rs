//! Bytes that can be made again to check what was read.

use bytes::Bytes;
use parhelion_client::RequestId;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

/// The bytes of append number `number`: noise, so that neither a shifted nor another append looks like it.
#[must_use]
pub fn payload(number: u64, bytes: usize) -> Bytes {
    let mut payload = vec![0; bytes];
    SmallRng::seed_from_u64(number ^ 0x5061_7268_656c_696f).fill_bytes(&mut payload);
    payload.into()
}

/// A request id for append number `number`; never the one that means none.
#[must_use]
pub fn request_id(number: u64) -> RequestId {
    RequestId((1 << 100) + u128::from(number))
}

/// The seed of a random test: `PARHELION_E2E_SEED`, else a new one. Printed, so that a failure can be repeated
/// as far as the operating system's timing allows.
#[must_use]
pub fn seed() -> u64 {
    let given = std::env::var("PARHELION_E2E_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("PARHELION_E2E_SEED={seed}");
    seed
}
