//! The storage server: segments on disk, the catalogue, and the actor that drives a primary's or a mirror's
//! core.

mod actor;
mod answers;
mod batches;
pub mod catalogue;
mod confirmation;
mod deferred;
mod events;
pub mod finding;
mod mirroring;
mod request;
pub mod store;
mod trace;
mod unwritten;

pub use actor::{StorageActor, StorageConfig};
pub use answers::AnswerBatches;
pub use batches::RequestBatches;
pub use mirroring::{LatencyFigures, MirroringLatency, PendingBytes};
pub use request::{
    Answer, FromLink, FromMirrorLink, FromStore, NewFigures, Relink, Request, SetChannels, SiteStatus,
};
