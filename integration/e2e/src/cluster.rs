//! Two sites of several nodes each.

use std::path::{Path, PathBuf};
use std::time::Duration;

use parhelion_client::{Client, LogState};
use parhelion_wan::{Emulator, LinkConfig};
use serde_json::Value;
use tempfile::TempDir;

use crate::node::read_log;
use crate::pair::{client, relay};
use crate::{At, NodeSpec, Ports, Site, Tool, poll};

/// How the roles of a site are spread over its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Everything; storage.
    Two,
    /// Metadata and link; storage; storage.
    Three,
    /// Metadata; storage; storage; link.
    Four,
}

/// A primary and a mirror of several nodes each, with certificates and data in a directory that goes with them.
#[derive(Debug)]
pub struct Cluster {
    /// The primary's nodes; node number N is at N - 1.
    pub primary: Vec<Site>,
    /// The mirror's.
    pub mirror: Vec<Site>,
    /// The directory of certificates.
    pub pki: PathBuf,
    _line: Option<Emulator>,
    _directory: TempDir,
}

const NAMES: [[&str; 4]; 2] =
    [["primary-1", "primary-2", "primary-3", "primary-4"], ["mirror-1", "mirror-2", "mirror-3", "mirror-4"]];
/// The smallest that a node takes is a little less.
const SEGMENT: &str = "17MiB";
const IDLE_TIMEOUT: &str = "2s";
/// For what should happen soon.
const SOON: Duration = Duration::from_secs(30);

impl Shape {
    /// The roles of each node.
    fn roles(self) -> &'static [&'static str] {
        match self {
            Self::Two => &["metadata,storage,link", "storage"],
            Self::Three => &["metadata,link", "storage", "storage"],
            Self::Four => &["metadata", "storage", "storage", "link"],
        }
    }

    /// Nodes of a site.
    #[must_use]
    pub fn nodes(self) -> usize {
        self.roles().len()
    }

    /// Numbers of the storage nodes.
    #[must_use]
    pub fn storage(self) -> Vec<usize> {
        self.with("storage").map(|n| n + 1).collect()
    }

    /// Where the nodes with a role are in the list of nodes.
    fn with(self, role: &str) -> impl Iterator<Item = usize> {
        (0..self.nodes()).filter(move |n| self.roles()[*n].contains(role))
    }
}

impl Cluster {
    /// Starts all nodes of both sites and waits until they are linked.
    ///
    /// # Panics
    /// A node does not start.
    pub async fn start(shape: Shape) -> Self {
        Self::down(shape).up().await
    }

    /// Sets a setting of all nodes, which are down.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        for node in self.primary.iter_mut().chain(&mut self.mirror) {
            node.spec = node.spec.clone().with(key, value.to_string());
        }
        self
    }

    /// Puts an emulated link between the sites, whose nodes are down. Without it they are so close that the mirror often
    /// confirms an append before its repairs are known to have left the site.
    ///
    /// # Panics
    /// The emulator does not start.
    #[must_use]
    pub fn apart(mut self, one_way: Duration) -> Self {
        let there = |lane| {
            let listens = self.mirror[0].spec.setting(&format!("link.listen_{lane}"));
            listens.and_then(|address| address.parse().ok()).expect("a mirror's nodes have all lanes")
        };
        let mirror = [there("bulk"), there("critical"), there("tcp")];
        let line = relay(LinkConfig { delay: one_way, ..LinkConfig::default() }, mirror);
        for (lane, address) in ["bulk", "critical", "tcp"].into_iter().zip(line.addresses().to_vec()) {
            for node in &mut self.primary {
                node.spec = node.spec.clone().with(&format!("link.peer_{lane}"), address);
            }
        }
        self._line = Some(line);
        self
    }

    /// Starts all nodes of both sites, which are down, and waits until they are linked.
    ///
    /// # Panics
    /// A node does not start.
    pub async fn up(mut self) -> Self {
        for node in self.mirror.iter_mut().chain(&mut self.primary) {
            node.start();
        }
        self.linked().await;
        self
    }

    /// Makes certificates and settings, and starts nothing.
    ///
    /// # Panics
    /// There is no temporary directory, or no certificate can be made.
    #[must_use]
    pub fn down(shape: Shape) -> Self {
        let directory = tempfile::Builder::new().prefix("parhelion-e2e-").tempdir().expect("a directory");
        let pki = directory.path().join("pki");
        let _ = Tool::new(["pki", "init"].map(Path::new).into_iter().chain([pki.as_path()])).run().done();
        let ports = || (0..shape.nodes()).map(|_| Ports::reserve()).collect::<Vec<_>>();
        let (here, there) = (ports(), ports());
        let link = shape.with("link").next().expect("a site has a link node");
        let mirror_end = there[link];
        let site = |names: &[&'static str; 4], profile, ports: &[Ports], settings: &[(&str, String)]| {
            let storage: Vec<String> =
                shape.with("storage").map(|n| format!("{}={}", n + 1, ports[n].api)).collect();
            let gateway = Ports::reserve().bulk;
            let at = |role| shape.with(role).next().map(|n: usize| ports[n]).expect("every role is there");
            let node = |n: usize| {
                let spec = NodeSpec {
                    name: names[n],
                    profile,
                    settings: Vec::new(),
                    directory: directory.path().to_owned(),
                };
                let mut spec = spec
                    .with("tls.directory", pki.display())
                    .with("node.node", n + 1)
                    .with("node.roles", shape.roles()[n])
                    .with("node.data", directory.path().join(names[n]).display())
                    .with("api.listen", ports[n].api)
                    .with("http.listen", "off")
                    .with("storage.segment", SEGMENT)
                    .with("link.idle_timeout", IDLE_TIMEOUT)
                    .with("site.storage", storage.join(","))
                    .with("site.metadata", at("metadata").api)
                    .with("site.link", at("link").api)
                    .with("site.gateway", gateway);
                for (key, value) in settings {
                    spec = spec.with(key, value);
                }
                Site::of(spec, ports[n].api)
            };
            (0..shape.nodes()).map(node).collect::<Vec<_>>()
        };
        let primary = site(
            &NAMES[0],
            "primary",
            &here,
            &[
                ("link.peer_bulk", mirror_end.bulk.to_string()),
                ("link.peer_critical", mirror_end.critical.to_string()),
                ("link.peer_tcp", mirror_end.tcp.to_string()),
            ],
        );
        let mirror = site(
            &NAMES[1],
            "mirror",
            &there,
            &[
                ("link.listen_bulk", mirror_end.bulk.to_string()),
                ("link.listen_critical", mirror_end.critical.to_string()),
                ("link.listen_tcp", mirror_end.tcp.to_string()),
            ],
        );
        Self { primary, mirror, pki, _line: None, _directory: directory }
    }

    /// The nodes of one of the sites.
    pub fn site(&mut self, at: At) -> &mut Vec<Site> {
        match at {
            At::Primary => &mut self.primary,
            At::Mirror => &mut self.mirror,
        }
    }

    /// Connects to a node, by number, as a client.
    pub async fn client(&self, at: At, node: usize) -> Client {
        client(self.node(at, node).api, &self.pki, "client").await
    }

    /// Connects to a node, by number, as an admin.
    pub async fn admin(&self, at: At, node: usize) -> Client {
        client(self.node(at, node).api, &self.pki, "admin").await
    }

    /// Runs a subcommand against a node, by number.
    #[must_use]
    pub fn tool(&self, at: At, node: usize, arguments: &[&str]) -> Tool {
        Tool::new(arguments).at(self.node(at, node).api, &self.pki)
    }

    /// Waits until every storage node of the primary has a session with the mirror.
    pub async fn linked(&self) {
        let client = self.client(At::Primary, 1).await;
        poll("the sites are linked", SOON, || async {
            let status = client.status().await.ok()?;
            let nodes = status["nodes"].as_array()?;
            let all = nodes.iter().all(|node| node["reachable"] == true);
            (all && status["logs"]["linked"] == true).then_some(())
        })
        .await;
    }

    /// Waits until the mirror has confirmed all that the primary has.
    pub async fn mirrored(&self) {
        let client = self.client(At::Primary, 2).await;
        let behind = |log: &LogState| log.mirrored_records < log.records;
        poll(&format!("the mirror has everything\n{}", self.logs_text()), SOON * 2, || async {
            let logs = client.list().await.ok()?;
            (!logs.iter().any(behind)).then_some(())
        })
        .await;
    }

    /// Checks with the tool that every log is the same at both sites, and returns what it found.
    ///
    /// # Panics
    /// One is not.
    pub fn verify(&self) -> Value {
        let other = self.node(At::Mirror, 1).api.to_string();
        let arguments = ["mirror", "verify", "--json", "--other", &other];
        let document = self.tool(At::Primary, 2, &arguments).run().done().json();
        assert_eq!(document["same"], true, "{document}");
        document
    }

    /// What the nodes logged, for the message of a failed test.
    #[must_use]
    pub fn logs_text(&self) -> String {
        let tail = |node: &Site| {
            let text = read_log(&node.spec.log());
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {}\n{}\n", node.spec.name, lines[lines.len().saturating_sub(25)..].join("\n"))
        };
        self.primary.iter().chain(&self.mirror).map(tail).collect()
    }

    fn node(&self, at: At, number: usize) -> &Site {
        let nodes = match at {
            At::Primary => &self.primary,
            At::Mirror => &self.mirror,
        };
        &nodes[number - 1]
    }
}
