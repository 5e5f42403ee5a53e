//! Two sites and the link between them, each a process of this same executable.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use parhelion_wan::{
    Class, Emulator, LinkConfig, Loss, MTU_BYTES, Namespaces, RelayFlow, Side, Transport, WanConfig,
    packet_form_available,
};
use serde::Deserialize;

use crate::error::DrillError;
use crate::mode::Mode;
use crate::options::{DrillOptions, Form};
use crate::process::Process;

/// A primary, a mirror and the emulated link. Dropping it kills what still runs.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub primary: Process,
    pub primary_api: SocketAddr,
    pub mirror: Process,
    pub mirror_api: SocketAddr,
    /// Where the mirror takes records over TCP.
    pub mirror_records: SocketAddr,
    pub emulator: Emulator,
    pub namespaces: Option<Namespaces>,
    directory: PathBuf,
}

/// The line that a node prints when it serves.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Ready {
    api: SocketAddr,
    link: Option<LinkAddresses>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct LinkAddresses {
    bulk: SocketAddr,
    critical: SocketAddr,
    tcp: SocketAddr,
}

impl Cluster {
    /// Starts mirror, link and primary in `mode`, with fresh data below `directory`.
    pub(crate) fn start(
        options: &DrillOptions,
        form: Form,
        mode: Mode,
        seed: u64,
        tls: &Path,
        directory: &Path,
    ) -> Result<Self, DrillError> {
        let namespaces = if form == Form::Packet { Some(Namespaces::create()?) } else { None };
        let listen = namespaces.as_ref().map_or(LOOPBACK, |_| Side::B.address());
        let any_port = SocketAddr::new(listen, 0).to_string();

        let settings = mirror_settings(options, mode, tls, directory, &any_port);
        let command = node(&["node"], "mirror", &settings, options, namespaces.as_ref(), Side::B)?;
        let mut mirror = Process::start("mirror", command, directory)?;
        let ready: Ready = mirror.answer(START_LIMIT)?;
        let mirror_api = ready.api;
        let Some(link) = ready.link else {
            return Err(DrillError::Process {
                what: "mirror".to_owned(),
                reason: "named no addresses of its link when it was ready; it must listen for the primary"
                    .to_owned(),
                log: directory.join("mirror.log"),
            });
        };

        let wan = wan_config(options, seed);
        let mut command = Command::new(executable()?);
        command.arg(EMULATOR_SUBCOMMAND);
        let (emulator, peers) = match &namespaces {
            Some(sites) => {
                (Emulator::spawn_packet(command, &wan, sites)?, [link.bulk, link.critical, link.tcp])
            }
            None => {
                let emulator = Emulator::spawn_relay(command, &wan, &relay_flows(link))?;
                let Ok(peers) = <[SocketAddr; 3]>::try_from(emulator.addresses()) else {
                    return Err(parhelion_wan::WanError::Control {
                        reason: format!("{} relay addresses instead of 3", emulator.addresses().len()),
                    }
                    .into());
                };
                (emulator, peers)
            }
        };

        let settings = primary_settings(options, mode, tls, directory, peers);
        let command = node(&["node"], "primary", &settings, options, namespaces.as_ref(), Side::A)?;
        let mut primary = Process::start("primary", command, directory)?;
        let ready: Ready = primary.answer(START_LIMIT)?;
        Ok(Self {
            primary,
            primary_api: ready.api,
            mirror,
            mirror_api,
            mirror_records: link.tcp,
            emulator,
            namespaces,
            directory: directory.to_owned(),
        })
    }

    /// Starts a helper of the drill at a site: this executable with a hidden subcommand and one argument.
    pub(crate) fn start_helper(
        &self,
        name: &'static str,
        subcommand: &str,
        arguments: &Path,
        side: Side,
    ) -> Result<Process, DrillError> {
        let mut command = Command::new(executable()?);
        command.arg(subcommand).arg(arguments);
        if let Some(sites) = &self.namespaces {
            sites.enter_command(&mut command, side)?;
        }
        Process::start(name, command, &self.directory)
    }
}

/// Makes certificates for both nodes and the drill's clients in `directory`, by `parhelion pki init`.
pub(crate) fn make_certificates(directory: &Path, logs: &Path) -> Result<(), DrillError> {
    let mut command = Command::new(executable()?);
    command.args(["pki", "init"]).arg(directory);
    Process::start("pki", command, logs)?.finish(START_LIMIT).map(drop)
}

/// Asks `parhelion config check` whether both nodes could start in each mode: what is wrong with a code or a setting is
/// better known before the first disaster than in the third.
pub(crate) fn check_settings(options: &DrillOptions, tls: &Path, directory: &Path) -> Result<(), DrillError> {
    let somewhere = SocketAddr::new(LOOPBACK, 1);
    for &mode in &options.modes {
        let mirror =
            mirror_settings(options, mode, tls, directory, &SocketAddr::new(LOOPBACK, 0).to_string());
        let primary = primary_settings(options, mode, tls, directory, [somewhere; 3]);
        for (profile, settings) in [("mirror", mirror), ("primary", primary)] {
            let mut command =
                node(&["config", "check", "--json"], profile, &settings, options, None, Side::A)?;
            let output = command.output().map_err(DrillError::file("starting", executable()?))?;
            let found = serde_json::from_slice::<Checked>(&output.stdout);
            match found {
                Ok(Checked { usable: true, .. }) => {}
                Ok(Checked { problems, .. }) => {
                    return Err(DrillError::Settings { problems: problems.join("; ") });
                }
                // Wrong in its form, so that there was nothing to check.
                Err(_) => {
                    let problems = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                    return Err(DrillError::Settings { problems });
                }
            }
        }
    }
    Ok(())
}

/// What `config check --json` prints.
#[derive(Debug, Deserialize)]
struct Checked {
    usable: bool,
    problems: Vec<String>,
}

/// Which form to use: the asked one, and for [`Form::Auto`] the best that the system allows, with the reason
/// when that is not the packet form.
pub(crate) fn choose_form(asked: Form) -> Result<(Form, Option<String>), DrillError> {
    match asked {
        Form::Relay => Ok((Form::Relay, None)),
        Form::Packet => {
            packet_form_available()?;
            Ok((Form::Packet, None))
        }
        Form::Auto => Ok(match packet_form_available() {
            Ok(()) => (Form::Packet, None),
            Err(reason) => (Form::Relay, Some(reason.to_string())),
        }),
    }
}

/// Subcommand that calls [`parhelion_wan::run_emulator`].
pub const EMULATOR_SUBCOMMAND: &str = "wan-emulator";
/// Subcommand that calls [`crate::writers::run`].
pub const WRITERS_SUBCOMMAND: &str = "drill-writers";
/// Subcommand that calls [`crate::check::run`].
pub const CHECK_SUBCOMMAND: &str = "drill-check";

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Recovery of an empty store, certificates and sockets take far less, even on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The bottleneck queues this long at most: deep enough for the bursts of a paced sender, and no more,
/// because what waits there is lost at the cut.
pub(crate) const QUEUE: Duration = Duration::from_millis(50);
const QUEUE_BYTES_MIN: u64 = 128 << 10;

fn executable() -> Result<PathBuf, DrillError> {
    std::env::current_exe().map_err(DrillError::file("finding", "this executable"))
}

/// A command of this executable that takes the settings of a node.
fn node(
    subcommand: &[&str],
    profile: &str,
    settings: &[(&'static str, String)],
    options: &DrillOptions,
    namespaces: Option<&Namespaces>,
    side: Side,
) -> Result<Command, DrillError> {
    let mut command = Command::new(executable()?);
    command.args(subcommand).args(["--profile", profile]);
    let set =
        settings.iter().map(|(key, value)| format!("{key}={value}")).chain(options.settings.iter().cloned());
    for setting in set {
        command.args([OsString::from("--set"), setting.into()]);
    }
    if let Some(sites) = namespaces {
        sites.enter_command(&mut command, side)?;
    }
    Ok(command)
}

fn mirror_settings(
    options: &DrillOptions,
    mode: Mode,
    tls: &Path,
    directory: &Path,
    listen: &str,
) -> Vec<(&'static str, String)> {
    let mut settings = node_settings(options, mode, tls);
    settings.extend([
        ("node.site", "2".to_owned()),
        ("node.data", text_of(&directory.join("mirror"))),
        ("link.listen_bulk", listen.to_owned()),
        ("link.listen_critical", listen.to_owned()),
        ("link.listen_tcp", listen.to_owned()),
    ]);
    settings
}

/// `peers` are the mirror's addresses for the bulk lane, the critical lane, and records over TCP.
fn primary_settings(
    options: &DrillOptions,
    mode: Mode,
    tls: &Path,
    directory: &Path,
    peers: [SocketAddr; 3],
) -> Vec<(&'static str, String)> {
    let [bulk, critical, tcp] = peers.map(|peer| peer.to_string());
    let mut settings = node_settings(options, mode, tls);
    settings.extend([
        ("node.site", "1".to_owned()),
        ("node.data", text_of(&directory.join("primary"))),
        ("link.peer_bulk", bulk),
        ("link.peer_critical", critical),
        ("link.peer_tcp", tcp),
    ]);
    settings
}

/// Settings that both nodes share.
fn node_settings(options: &DrillOptions, mode: Mode, tls: &Path) -> Vec<(&'static str, String)> {
    let link = &options.link;
    let mut settings = vec![
        ("tls.directory", text_of(tls)),
        ("api.listen", SocketAddr::new(LOOPBACK, 0).to_string()),
        ("http.listen", "off".to_owned()),
        ("link.transport", if mode.has_code() { "quic" } else { "tcp" }.to_owned()),
        ("link.rate", format!("{}bit", link.rate_bits_per_second)),
        ("link.mtu", MTU_BYTES.to_string()),
        ("link.congestion", "provisioned".to_owned()),
        // What most hosts have, so that drills on different hosts compare.
        ("link.tcp_congestion", "cubic".to_owned()),
        ("telemetry.log", "warn".to_owned()),
    ];
    if mode.has_code() {
        // Also where there are none: parameters from elsewhere, such as the environment, are for another code.
        settings.push(("link.code", options.code.clone()));
        settings.push(("link.parameters", options.parameters.clone()));
    }
    settings
}

fn wan_config(options: &DrillOptions, seed: u64) -> WanConfig {
    let rate = options.link.rate_bits_per_second;
    let queue = u128::from(rate) * QUEUE.as_micros() / 8_000_000;
    let link = LinkConfig {
        delay: options.link.one_way,
        rate: Some(rate),
        queue_bytes: u64::try_from(queue).unwrap_or(u64::MAX).max(QUEUE_BYTES_MIN),
        loss: Loss::NONE,
        ..LinkConfig::default()
    };
    WanConfig::symmetric(seed, link)
}

fn relay_flows(link: LinkAddresses) -> [RelayFlow; 3] {
    let flow = |transport, target, class| RelayFlow {
        transport,
        from: Side::A,
        listen: SocketAddr::new(LOOPBACK, 0),
        target,
        class,
    };
    [
        flow(Transport::Udp, link.bulk, Class::Bulk),
        flow(Transport::Udp, link.critical, Class::Expedited),
        flow(Transport::Tcp, link.tcp, Class::Bulk),
    ]
}

/// Paths of a drill are made by the drill or given as text.
fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_differ_in_transport_and_code() {
        let options = DrillOptions { parameters: "r=8".to_owned(), ..DrillOptions::default() };
        let get = |mode, key| {
            let settings = node_settings(&options, mode, Path::new("tls"));
            settings.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value)
        };
        assert_eq!(get(Mode::LocalSync, "link.transport").as_deref(), Some("tcp"));
        assert_eq!(get(Mode::LocalSync, "link.code"), None);
        assert_eq!(get(Mode::NetworkSync, "link.transport").as_deref(), Some("quic"));
        assert_eq!(get(Mode::NetworkSync, "link.parameters").as_deref(), Some("r=8"));
        assert_eq!(get(Mode::NetworkSync, "link.rate").as_deref(), Some("300000000bit"));
        // A bare name means the code's own defaults, whatever a node would take otherwise.
        let options = DrillOptions { code: "reed-solomon".to_owned(), ..DrillOptions::default() };
        let settings = node_settings(&options, Mode::NetworkSync, Path::new("tls"));
        let given = |key| settings.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str());
        assert_eq!((given("link.code"), given("link.parameters")), (Some("reed-solomon"), Some("")));
        // What is promised rests on what the estimator measured, not on what the drill is about to do.
        assert_eq!(get(Mode::NetworkSync, "risk.assumed_loss"), None);
    }

    #[test]
    fn the_link_starts_without_loss() {
        let wan = wan_config(&DrillOptions::default(), 4);
        wan.validate().unwrap();
        assert_eq!((wan.seed, wan.a_to_b.loss), (4, Loss::NONE));
        assert_eq!(wan.a_to_b.queue_bytes, 1_875_000);
    }

    #[test]
    fn a_ready_line_is_understood_with_fields_to_come() {
        let line = r#"{"ready":true,"api":"127.0.0.1:1234","http":null,
            "link":{"bulk":"10.77.0.2:1","critical":"10.77.0.2:2","tcp":"10.77.0.2:3"}}"#;
        let ready: Ready = serde_json::from_str(line).unwrap();
        assert_eq!(ready.link.unwrap().tcp.port(), 3);
        let ready: Ready = serde_json::from_str(r#"{"ready":true,"api":"[::1]:9","link":null}"#).unwrap();
        assert!(ready.link.is_none());
    }
}
