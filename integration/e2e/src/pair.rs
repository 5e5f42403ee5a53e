//! Two sites.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use parhelion_client::{Client, ClientConfig, Identity, LogState};
use parhelion_types::LogId;
use parhelion_wan::{Class, Emulator, LinkConfig, RelayFlow, Side, Transport, WanConfig};
use serde_json::Value;
use tempfile::TempDir;

use crate::node::read_log;
use crate::{Node, NodeSpec, Outcome, Ports, Surroundings, Tool, binary, poll};

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Takes appends.
    Primary,
    /// Receives them.
    Mirror,
}

/// How a pair differs from the usual one.
#[derive(Clone, Debug, Default)]
pub struct PairOptions {
    /// Settings of both nodes.
    pub both: Vec<(&'static str, String)>,
    /// Settings of the primary.
    pub primary: Vec<(&'static str, String)>,
    /// Settings of the mirror.
    pub mirror: Vec<(&'static str, String)>,
    /// Puts an emulated link, the same in both directions, between the sites. Without it they are so close that
    /// the mirror often confirms an append before its repairs are known to have left the site.
    pub line: Option<LinkConfig>,
}

/// A node that may be down, and how to start it.
#[derive(Debug)]
pub struct Site {
    /// How to start it.
    pub spec: NodeSpec,
    /// Where its API is, also after a restart.
    pub api: SocketAddr,
    /// What it finds around itself when it is started.
    pub around: Surroundings,
    node: Option<Node>,
}

/// A primary and a mirror, with certificates and data in a directory that goes with them.
#[derive(Debug)]
pub struct Pair {
    /// The primary.
    pub primary: Site,
    /// The mirror.
    pub mirror: Site,
    /// The directory of certificates.
    pub pki: PathBuf,
    /// The emulated link, if there is one. The primary is at its side A.
    pub line: Option<Emulator>,
    directory: TempDir,
}

/// Small enough to fill several in a test; the smallest that a node takes is 16 MiB and 64 KiB.
const SEGMENT: &str = "17MiB";
/// Short, because tests wait until a dead peer is noticed; long enough for a machine with all cores busy.
const IDLE_TIMEOUT: &str = "2s";
/// For what should happen soon.
const SOON: Duration = Duration::from_secs(30);

impl PairOptions {
    /// Adds a setting of both nodes.
    #[must_use]
    pub fn both(mut self, key: &'static str, value: impl ToString) -> Self {
        self.both.push((key, value.to_string()));
        self
    }

    /// Puts the sites apart.
    #[must_use]
    pub fn apart(self, one_way: Duration) -> Self {
        self.line(LinkConfig { delay: one_way, ..LinkConfig::default() })
    }

    /// Puts this line between the sites.
    #[must_use]
    pub fn line(mut self, line: LinkConfig) -> Self {
        self.line = Some(line);
        self
    }

    /// Adds a setting of the primary.
    #[must_use]
    pub fn primary(mut self, key: &'static str, value: impl ToString) -> Self {
        self.primary.push((key, value.to_string()));
        self
    }

    /// Adds a setting of the mirror.
    #[must_use]
    pub fn mirror(mut self, key: &'static str, value: impl ToString) -> Self {
        self.mirror.push((key, value.to_string()));
        self
    }
}

impl Pair {
    /// Starts both sites and waits until they are linked.
    pub async fn start(options: PairOptions) -> Self {
        let mut pair = Self::down(options);
        pair.mirror.start();
        pair.primary.start();
        pair.linked().await;
        pair
    }

    /// Makes certificates and settings, and starts nothing.
    ///
    /// # Panics
    /// There is no temporary directory, or no certificate can be made.
    #[must_use]
    pub fn down(options: PairOptions) -> Self {
        let directory = tempfile::Builder::new().prefix("parhelion-e2e-").tempdir().expect("a directory");
        let pki = directory.path().join("pki");
        let _ = Tool::new(["pki", "init"].map(Path::new).into_iter().chain([pki.as_path()])).run().done();
        let (here, there) = (Ports::reserve(), Ports::reserve());
        let line = options.line.map(|line| relay(line, [there.bulk, there.critical, there.tcp]));
        let peers = match line.as_ref().map(Emulator::addresses) {
            Some(&[bulk, critical, tcp]) => [bulk, critical, tcp],
            _ => [there.bulk, there.critical, there.tcp],
        };
        let common = |name, profile, ports: &Ports| {
            let spec =
                NodeSpec { name, profile, settings: Vec::new(), directory: directory.path().to_owned() };
            spec.with("tls.directory", pki.display())
                .with("node.data", directory.path().join(name).display())
                .with("api.listen", ports.api)
                .with("http.listen", "off")
                .with("storage.segment", SEGMENT)
                .with("link.idle_timeout", IDLE_TIMEOUT)
        };
        let mut primary = common("primary", "primary", &here)
            .with("link.peer_bulk", peers[0])
            .with("link.peer_critical", peers[1])
            .with("link.peer_tcp", peers[2]);
        let mut mirror = common("mirror", "mirror", &there)
            .with("link.listen_bulk", there.bulk)
            .with("link.listen_critical", there.critical)
            .with("link.listen_tcp", there.tcp);
        for (key, value) in options.both.iter().chain(&options.primary) {
            primary = primary.with(key, value);
        }
        for (key, value) in options.both.iter().chain(&options.mirror) {
            mirror = mirror.with(key, value);
        }
        Self {
            primary: Site { spec: primary, api: here.api, around: Surroundings::default(), node: None },
            mirror: Site { spec: mirror, api: there.api, around: Surroundings::default(), node: None },
            pki,
            line,
            directory,
        }
    }

    /// One of the sites.
    pub fn site(&mut self, at: At) -> &mut Site {
        match at {
            At::Primary => &mut self.primary,
            At::Mirror => &mut self.mirror,
        }
    }

    /// A place for files of the test.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Connects as a client.
    pub async fn client(&self, at: At) -> Client {
        client(self.api(at), &self.pki, "client").await
    }

    /// Connects as an admin.
    pub async fn admin(&self, at: At) -> Client {
        client(self.api(at), &self.pki, "admin").await
    }

    /// Runs a subcommand against one of the sites.
    #[must_use]
    pub fn tool(&self, at: At, arguments: &[&str]) -> Tool {
        Tool::new(arguments).at(self.api(at), &self.pki)
    }

    /// Waits until the primary has a session with the mirror.
    pub async fn linked(&self) {
        let client = self.client(At::Primary).await;
        poll("the link is up", SOON, || async {
            let status = client.status().await.ok()?;
            (status["logs"]["linked"] == true).then_some(())
        })
        .await;
    }

    /// Waits until the mirror has confirmed all that the primary has.
    pub async fn mirrored(&self) {
        let client = self.client(At::Primary).await;
        let behind = |log: &LogState| log.mirrored_records < log.records;
        poll(&format!("the mirror has everything ({})", self.logs_text()), SOON * 2, || async {
            let logs = client.list().await.ok()?;
            (!logs.iter().any(behind)).then_some(())
        })
        .await;
    }

    /// Checks with the tool that every log is the same at both sites, and returns what it found.
    ///
    /// # Panics
    /// They differ.
    pub fn verify(&self) -> Value {
        let other = self.mirror.api.to_string();
        let found = self.tool(At::Primary, &["mirror", "verify", "--json", "--other", &other]).run();
        assert_eq!(found.code, Some(0), "{}\n{}", found.text(), self.logs_text());
        let found: Outcome = found;
        let document = found.json();
        assert_eq!(document["same"], true, "{document}");
        document
    }

    /// What the nodes logged, for the message of a failed test.
    #[must_use]
    pub fn logs_text(&self) -> String {
        let tail = |site: &Site| {
            let text = read_log(&site.spec.log());
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        format!("--- primary\n{}\n--- mirror\n{}\n---", tail(&self.primary), tail(&self.mirror))
    }

    fn api(&self, at: At) -> SocketAddr {
        match at {
            At::Primary => self.primary.api,
            At::Mirror => self.mirror.api,
        }
    }
}

impl Site {
    /// A node that is down.
    pub(crate) fn of(spec: NodeSpec, api: SocketAddr) -> Self {
        Self { spec, api, around: Surroundings::default(), node: None }
    }

    /// Starts it, or starts it again.
    ///
    /// # Panics
    /// It runs.
    pub fn start(&mut self) {
        assert!(self.node.is_none(), "{} runs already", self.spec.name);
        let started = self.try_start();
        assert!(started.is_ok(), "{} ended before it served: {started:?}", self.spec.name);
    }

    /// Starts it, or starts it again, though it may refuse.
    ///
    /// # Errors
    /// It ended before it served; tells how.
    pub fn try_start(&mut self) -> Result<(), Outcome> {
        self.node = Some(self.spec.try_start_in(&self.around)?);
        Ok(())
    }

    /// The running node.
    ///
    /// # Panics
    /// It is down.
    pub fn node(&mut self) -> &mut Node {
        self.node.as_mut().unwrap_or_else(|| panic!("{} is down", self.spec.name))
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.node();
        if let Some(node) = self.node.take() {
            node.kill();
        }
    }

    /// Stops it in an orderly way.
    pub fn stop(&mut self) {
        self.node();
        if let Some(node) = self.node.take() {
            node.stop();
        }
    }

    /// Forgets a node that has ended, so that it can be started again.
    pub fn gone(&mut self) {
        self.node = None;
    }
}

/// A line in user space, which needs no privilege, to a mirror that listens there for bulk, critical and TCP. Its
/// addresses are in the same order.
pub(crate) fn relay(line: LinkConfig, mirror: [SocketAddr; 3]) -> Emulator {
    let flow = |transport, target, class| RelayFlow {
        transport,
        from: Side::A,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        target,
        class,
    };
    let flows = [
        flow(Transport::Udp, mirror[0], Class::Bulk),
        flow(Transport::Udp, mirror[1], Class::Expedited),
        flow(Transport::Tcp, mirror[2], Class::Bulk),
    ];
    let mut command = Command::new(binary());
    command.arg("wan-emulator");
    Emulator::spawn_relay(command, &WanConfig::symmetric(1, line), &flows).expect("the emulator starts")
}

/// Connects to a node that may still be starting.
///
/// # Panics
/// There is none.
pub async fn client(api: SocketAddr, pki: &Path, name: &str) -> Client {
    poll(&format!("{name} connects to {api}"), SOON, || async {
        let identity = Identity::load_from(pki, name).expect("certificates were made");
        let config = ClientConfig {
            // Far above any restart, and an answer that never comes still ends the test.
            call_timeout: SOON,
            idle_timeout: Duration::from_secs(3),
            ..ClientConfig::new(api, identity)
        };
        Client::connect(config).await.ok()
    })
    .await
}

impl Pair {
    /// The state of one log at a site.
    ///
    /// # Panics
    /// It is not there.
    pub async fn stat(&self, at: At, log: LogId) -> LogState {
        self.client(at).await.stat(log).await.expect("the log is there")
    }
}
