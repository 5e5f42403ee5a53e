//! Settings of a client, and of one append.

use std::net::SocketAddr;
use std::time::Duration;

use parhelion_gate::Identity;
use parhelion_types::{Durability, RequestId, Risk, TraceContext};

/// Settings of a client.
#[derive(Debug)]
pub struct ClientConfig {
    /// Address of the node's API.
    pub address: SocketAddr,
    /// Who the client is, and which authority the node's certificate must come from.
    pub identity: Identity,
    /// How long a call may take in all, repetitions on new connections included.
    pub call_timeout: Duration,
    /// How long one attempt to connect may take; [`Client::connect`](crate::Client::connect) makes only one.
    pub connect_timeout: Duration,
    /// A node that is silent for this long is gone. The client shows four times as often that it is there.
    pub idle_timeout: Duration,
    /// Pause after the first attempt that failed; it doubles with each further one.
    pub backoff_min: Duration,
    /// Longest pause between attempts.
    pub backoff_max: Duration,
    /// Whether a question that finds the node busy is asked again until its time is over. Else `Busy` is the answer, for
    /// somebody else to try again.
    pub repeat_busy: bool,
}

/// How one append is to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct AppendOptions {
    /// When to acknowledge.
    pub durability: Durability,
    /// Largest acceptable prefix risk at the network level.
    pub max_risk: Risk,
    /// When the log's degrade policy applies; the node's setting if none.
    pub deadline: Option<Duration>,
    /// Names the append, so that a program that starts again can repeat it. The client makes an id if none is given.
    pub request: RequestId,
    /// Asks for the safety path in the acknowledgement.
    pub explain: bool,
    /// The trace it belongs to.
    pub trace: TraceContext,
    /// How long the call may take, if not as long as the client's other calls.
    pub timeout: Option<Duration>,
}

/// Risk of an append that does not say: one in a million.
const MAX_RISK_DEFAULT: f64 = 1e-6;

impl ClientConfig {
    /// A client of the node at `address`: calls take a minute at most, a lost node is noticed within ten seconds.
    #[must_use]
    pub fn new(address: SocketAddr, identity: Identity) -> Self {
        Self {
            address,
            identity,
            call_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(2),
            repeat_busy: true,
        }
    }
}

impl Default for AppendOptions {
    /// Network level at a risk of one in a million.
    fn default() -> Self {
        Self {
            durability: Durability::Network,
            max_risk: Risk::bound(MAX_RISK_DEFAULT),
            deadline: None,
            request: RequestId::NONE,
            explain: false,
            trace: TraceContext::default(),
            timeout: None,
        }
    }
}
