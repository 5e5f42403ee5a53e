//! A node as a process, and a client to ask it how it is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use parhelion_client::Client;
use parhelion_drill::Process;
use parhelion_wan::{Namespaces, Side};
use serde::Deserialize;
use serde_json::Value;

use crate::error::BenchError;
use crate::lab::Lab;
use crate::load::{Load, Order, WRITE_LOAD, Writing, Written, connect};
use crate::usage::Usage;

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Site {
    /// Its process.
    pub process: Process,
    /// Where clients find it, from its own site.
    pub api: SocketAddr,
    /// Where Prometheus finds it, if that is on.
    pub http: Option<SocketAddr>,
    /// Where it listens for its primary, if it is a mirror.
    pub link: Option<LinkAddresses>,
    /// Asks for its status.
    client: Client,
}

/// Addresses of a mirror's end of the link.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct LinkAddresses {
    /// The bulk lane.
    pub bulk: SocketAddr,
    /// The critical lane.
    pub critical: SocketAddr,
    /// Records over TCP.
    pub tcp: SocketAddr,
}

/// The line that a node prints when it serves.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Ready {
    api: SocketAddr,
    http: Option<SocketAddr>,
    link: Option<LinkAddresses>,
}

/// Where a node is started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// Its log file and its data are here.
    pub directory: &'a Path,
    /// The emulated sites, and at which of them; on the host itself if none.
    pub namespace: Option<(&'a Namespaces, Side)>,
}

/// Loopback, at a site or on the host.
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Recovery of an empty store, certificates and sockets take far less, even on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Connections, logs and random bytes of a load are ready after this.
const LOAD_LIMIT: Duration = Duration::from_secs(60);

impl Site {
    /// Starts a node of `profile`, with settings of which later ones win; those of the command line win over all.
    pub(crate) async fn start(
        lab: &Lab,
        profile: &'static str,
        settings: &[String],
        place: Place<'_>,
    ) -> Result<Self, BenchError> {
        let any_port = SocketAddr::new(LOOPBACK, 0);
        let mut command = Command::new(&lab.binary);
        command.args(["node", "--profile", profile]);
        let usual = [
            format!("tls.directory={}", lab.tls.display()),
            format!("node.data={}", place.directory.join(profile).display()),
            format!("api.listen={any_port}"),
            "http.listen=off".to_owned(),
            "telemetry.log=warn".to_owned(),
        ];
        for setting in usual.iter().chain(settings).chain(&lab.settings) {
            command.args(["--set", setting]);
        }
        if let Some((namespaces, side)) = place.namespace {
            namespaces.enter_command(&mut command, side)?;
        }
        let mut process = Process::start(profile, command, place.directory)?;
        let ready: Ready = process.answer(START_LIMIT)?;
        let client = match place.namespace {
            // Sockets belong to the site of the thread that makes them.
            Some((namespaces, side)) => {
                let runtime = tokio::runtime::Handle::current();
                let connecting = || runtime.block_on(connect(ready.api, &lab.tls, "client"));
                namespaces.within(side, connecting)??
            }
            None => connect(ready.api, &lab.tls, "client").await?,
        };
        Ok(Self { process, api: ready.api, http: ready.http, link: ready.link, client })
    }

    /// The node's status document.
    pub(crate) async fn status(&self) -> Result<Value, BenchError> {
        self.client.status().await.map_err(BenchError::node("asking for a node's status"))
    }

    /// Processor time of the node so far.
    pub(crate) fn usage(&self) -> Result<Usage, BenchError> {
        Usage::of(self.process.id())
    }

    /// Starts writers at the node's site.
    pub(crate) fn load(&self, lab: &Lab, place: Place<'_>, load: &Load) -> Result<Running, BenchError> {
        let name = format!("load-{:x}", parhelion_wan::monotonic_now().as_nanos());
        let path = place.directory.join(format!("{name}.json"));
        let order = Order { load: load.clone(), api: self.api, tls: lab.tls.clone(), name };
        let text =
            serde_json::to_vec(&order).map_err(|error| BenchError::file("writing", &path)(error.into()))?;
        std::fs::write(&path, text).map_err(BenchError::file("writing", &path))?;
        let here = std::env::current_exe().map_err(BenchError::file("finding", "this executable"))?;
        let mut command = Command::new(here);
        command.arg(WRITE_LOAD).arg(&path);
        if let Some((namespaces, side)) = place.namespace {
            namespaces.enter_command(&mut command, side)?;
        }
        let mut process = Process::start("writers", command, place.directory)?;
        let Writing { first_log } = process.answer(LOAD_LIMIT)?;
        Ok(Running { process, first_log })
    }
}

/// Writers at work. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Running {
    process: Process,
    /// The first of the writers' logs.
    pub first_log: u64,
}

impl Running {
    /// Processor time of the writers so far.
    pub(crate) fn usage(&self) -> Result<Usage, BenchError> {
        Usage::of(self.process.id())
    }

    /// Stops them and returns what they saw.
    pub(crate) fn stop(mut self) -> Result<Written, BenchError> {
        self.process.tell_to_stop();
        Ok(self.process.answer(LOAD_LIMIT)?)
    }
}
