//! The gateway of a site: one link to the other site, shared by several storage nodes (SMFS section 4: "a
//! gateway, through which all storage nodes' appends go as one stream").
//!
//! ```text
//!  storage actor ◄── channels ──► port ┐                ┌─────────┐
//!                                      ├─ PrimaryGateway┤  link   ├══► other site
//!  storage actor ◄─ RemotePrimaryLink  │                │  driver │
//!                        ▲             │                └─────────┘
//!                        └── QUIC ──► SiteListener
//! ```
//!
//! [`PrimaryRouting`] and [`MirrorRouting`] decide what goes where; they are pure. [`PrimaryGateway`] and
//! [`MirrorGateway`] put them between one driver of `actors/link` and its ports. A port is a storage actor of the
//! same process, or a connection that [`SiteListener`] has accepted, at whose other end a [`RemotePrimaryLink`]
//! or [`RemoteMirrorLink`] stands for the driver: storage actors cannot tell the difference.
//!
//! The gateway remembers nothing. Storage nodes say which logs they have when they join, and where these end
//! when the other site asks; whatever goes wrong, the session ends, and the next begins from that.

mod answers;
mod config;
mod error;
mod frames;
#[doc(hidden)]
pub mod fuzzing;
mod listener;
mod messages;
mod mirror_gateway;
mod mirror_link;
mod mirror_messages;
mod mirror_routing;
mod mirror_service;
mod outbox;
mod port;
mod primary_gateway;
mod primary_link;
mod primary_messages;
mod primary_routing;
mod primary_service;
mod site_link;
mod transport;

pub use config::{SiteLinkConfig, SiteListenerConfig};
pub use error::GatewayError;
pub use listener::SiteListener;
pub use mirror_gateway::MirrorGateway;
pub use mirror_link::RemoteMirrorLink;
pub use mirror_routing::{Hello, Left, MirrorJoined, MirrorRouting};
pub use port::{Place, PortId};
pub use primary_gateway::PrimaryGateway;
pub use primary_link::RemotePrimaryLink;
pub use primary_routing::{PrimaryJoined, PrimaryRouting};
