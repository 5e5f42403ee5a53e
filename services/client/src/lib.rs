//! Client library: logs at a node, over QUIC.
//!
//! A [`Client`] is one connection that is made again whenever it is lost. Any number of calls may be under
//! way on it; they share one stream and are answered in any order. Calls that are safe to repeat are
//! repeated by the client until their time is up: every append and creation gets a [`RequestId`], so that
//! what is sent twice is stored once.
//!
//! ```no_run
//! use parhelion_client::{AppendOptions, Client, ClientConfig, Identity};
//! use parhelion_types::{Degrade, Durability};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let identity = Identity::load_from("pki".as_ref(), "client")?;
//! let client = Client::connect(ClientConfig::new("127.0.0.1:7401".parse()?, identity)).await?;
//! let log = client.create("orders", Degrade::Block).await?;
//! let options = AppendOptions { durability: Durability::Remote, ..AppendOptions::default() };
//! let acked = client.append(log, "one order", options).await?;
//! println!("{} at risk {}", acked.address, acked.prefix_risk);
//! # Ok(())
//! # }
//! ```

mod client;
mod config;
mod session;

pub use client::Client;
pub use config::{AppendOptions, ClientConfig};
pub use parhelion_gate::{
    Appended as Acked, CreateRequest, Entry, EntryKind, Identity, LogDigest, LogState, Missing, Promotion,
    ReadRecord, Stage, Stretch, TlsError,
};
pub use parhelion_types::RequestId;
pub use session::Traffic;
