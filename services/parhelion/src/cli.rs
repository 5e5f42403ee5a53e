//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use parhelion_drill::{Form, Mode, UnknownMode};
use parhelion_plugin_kit::project::Language;
use parhelion_types::{Degrade, Durability, LogAddress, LogId, RequestId, Risk, Role};

use crate::settings::Profile;

/// Mirrors append-only logs to a distant site, and tells for every append how likely it is to be lost.
#[derive(Debug, Parser)]
#[command(name = "parhelion", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a node until it is told to stop.
    Node(NodeArgs),
    /// Creates, writes, reads and lists logs.
    #[command(subcommand)]
    Log(LogCommand),
    /// Watches, promotes and verifies mirrors.
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// Says which code a link should use, what it costs and what the others would.
    #[command(after_help = "Exit code 4: no code meets the risk before the mirror itself answers.")]
    Plan(PlanArgs),
    /// Watches the link to the other site, and changes its code.
    #[command(subcommand)]
    Link(LinkCommand),
    /// Makes, checks, measures and lists plugins: erasure codes and durability models.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Plays a disaster: two sites, a lossy link, five modes, and what was lost.
    Drill(Box<DrillArgs>),
    /// Shows and checks settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Makes certificates.
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Prints a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Runs the link emulator of a drill.
    #[command(hide = true)]
    WanEmulator,
    /// Runs the writers of a drill.
    #[command(hide = true)]
    DrillWriters {
        /// What the drill wrote for it.
        arguments: PathBuf,
    },
    /// Runs the checker of a drill.
    #[command(hide = true)]
    DrillCheck {
        /// What the drill wrote for it.
        arguments: PathBuf,
    },
}

/// Where settings come from.
#[derive(Clone, Debug, Args)]
pub struct SettingsArgs {
    /// Named set of settings to start from.
    #[arg(long, value_enum, default_value = "single")]
    pub profile: Profile,
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting, such as link.rate=300Mbit. May be given several times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

/// `parhelion node`
#[derive(Debug, Args)]
pub struct NodeArgs {
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Which node to talk to, and as whom.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// Address of the node's API, as api.listen has it. Names are not resolved.
    #[arg(long, value_name = "IP:PORT", env = "PARHELION_ADDRESS", default_value = "127.0.0.1:7401", value_parser = parse_socket)]
    pub address: SocketAddr,
    /// Directory with ca.pem and the certificate and key of client or admin.
    #[arg(long, value_name = "DIR", env = "PARHELION_PKI", default_value = "pki")]
    pub pki: PathBuf,
    /// Name of the certificate in it, without ending; client, or admin for what only an admin may, where none is given.
    #[arg(long, value_name = "NAME", env = "PARHELION_CERTIFICATE")]
    pub certificate: Option<String>,
    /// Prints the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `parhelion log`
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Creates a log.
    Create {
        #[command(flatten)]
        server: ServerArgs,
        /// Its name.
        name: String,
        /// What happens when an append's level is not reached in time: block, degrade or fail.
        #[arg(long, default_value = "block")]
        degrade: Degrade,
    },
    /// Appends standard input, or a file, as one append.
    Append(AppendArgs),
    /// Writes one append to standard output, or to a file.
    Read {
        #[command(flatten)]
        server: ServerArgs,
        /// Number of the log, as log create printed it.
        #[arg(value_parser = parse_log)]
        log: LogId,
        /// The address that the append was given, SEGMENT:OFFSET.
        at: LogAddress,
        /// File to write to; with it, --json tells of the append.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Marks an append for cleaning, here and at the mirror.
    Free {
        #[command(flatten)]
        server: ServerArgs,
        /// Number of the log, as log create printed it.
        #[arg(value_parser = parse_log)]
        log: LogId,
        /// The address that the append was given, SEGMENT:OFFSET.
        at: LogAddress,
    },
    /// Lists all logs.
    List {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Shows one log.
    Stat {
        #[command(flatten)]
        server: ServerArgs,
        /// Number of the log, as log create printed it.
        #[arg(value_parser = parse_log)]
        log: LogId,
    },
}

/// `parhelion log append`
#[derive(Debug, Args)]
pub struct AppendArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Number of the log, as log create printed it.
    #[arg(value_parser = parse_log)]
    pub log: LogId,
    /// File to append instead of standard input.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// When to acknowledge: local, network or remote.
    #[arg(long, default_value = "network")]
    pub durability: Durability,
    /// Largest acceptable risk of loss, such as 1e-6, which it is where none is given. The level network waits for it; of
    /// a degraded append, it decides what may be called network. Not for --durability local.
    #[arg(long, value_name = "PROBABILITY", allow_negative_numbers = true)]
    pub max_risk: Option<Risk>,
    /// How long the level may take before the log's degrade policy applies, such as 500ms; mirror.deadline of the node,
    /// where none is given. Then block waits on (this command a minute, or 5s beyond the deadline if that is more), degrade
    /// acknowledges the level that was reached and says so, and fail ends with exit code 3.
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    pub deadline: Option<Duration>,
    /// Names the append, so that repeating the command stores it once: up to 32 hexadecimal digits. One is made
    /// and shown where none is given.
    #[arg(long, value_name = "ID", value_parser = parse_request)]
    pub request_id: Option<RequestId>,
    /// Prints the safety path: every stage with its time, coverage and risk.
    #[arg(long)]
    pub explain: bool,
}

/// `parhelion mirror`
#[derive(Debug, Subcommand)]
pub enum MirrorCommand {
    /// Shows how far the mirror is behind, in bytes, appends and seconds.
    #[command(
        after_help = "Exit code 4: a limit was given, and the mirror is behind by more, or cannot take a log."
    )]
    Status {
        #[command(flatten)]
        server: ServerArgs,
        /// Ends with exit code 4 if the mirror lacks an append that is older, such as 30s.
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        max_lag: Option<Duration>,
        /// Ends with exit code 4 if the mirror lacks more, such as 64MiB.
        #[arg(long, value_name = "BYTES")]
        max_lag_bytes: Option<bytesize::ByteSize>,
    },
    /// Makes a mirror writable under a new epoch, and lists what is missing. Of a mirror that was promoted already, says
    /// again what was found.
    #[command(
        after_help = "Exit code 0: nothing is missing. 4: promoted, or with --dry-run it could be, and appends are missing or a \
                            log is damaged. 1: not promoted, for nobody said yes."
    )]
    Promote {
        #[command(flatten)]
        server: ServerArgs,
        /// Only shows what would happen.
        #[arg(long)]
        dry_run: bool,
        /// Does not ask. Needed where standard input is no terminal.
        #[arg(long)]
        yes: bool,
    },
    /// Lists what the promotion of this site found to be missing: every append, whenever it is asked for.
    #[command(
        after_help = "Exit code 0: nothing is missing. 2: this site was not promoted. 4: appends are missing, or a log is damaged."
    )]
    Missing {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Compares the digests of all logs at two sites.
    #[command(
        after_help = "Exit code 0: the sites are the same. 4: a log differs, is damaged, or is at one site only."
    )]
    Verify {
        #[command(flatten)]
        server: ServerArgs,
        /// Address of the other site's API.
        #[arg(long, value_name = "IP:PORT", value_parser = parse_socket)]
        other: SocketAddr,
    },
}

/// `parhelion link`
#[derive(Debug, Subcommand)]
pub enum LinkCommand {
    /// Shows the link: rate, code, round trip, what was sent and lost, and the bounds that risks are priced with.
    Status {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Changes the erasure code of the live link, until the node is started again. Takes an admin's certificate.
    Code {
        #[command(flatten)]
        server: ServerArgs,
        /// Name of the code, such as reed-solomon.
        name: String,
        /// Its parameters, such as r=8 c=3; the code's defaults for those that are not given.
        #[arg(value_name = "NAME=VALUE")]
        parameters: Vec<String>,
    },
}

/// `parhelion plugin`
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Writes a folder with a small plugin that builds, to be changed. Overwrites nothing.
    New {
        /// Name of the plugin and of the folder: lower-case letters, digits and hyphens.
        name: String,
        /// What it is written in: rust or c.
        #[arg(long, default_value = "rust")]
        language: Language,
        /// What it is.
        #[arg(long, value_enum, default_value = "code")]
        kind: PluginKind,
        /// Where the folder is made.
        #[arg(long, value_name = "DIR", default_value = ".")]
        directory: PathBuf,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Holds a plugin against the conformance kit, and says which promise it breaks.
    #[command(after_help = "Exit code 0: it keeps its promises. 2: it cannot be loaded. 4: it breaks one.")]
    Check {
        #[command(flatten)]
        settings: SettingsArgs,
        /// A file that ends in .so or .wasm, or the name of a plugin that a node with these settings knows.
        #[arg(value_name = "NAME|FILE")]
        plugin: String,
        /// Parameters of a code, such as r=8 c=3; its defaults for those that are not given.
        #[arg(long, value_name = "NAME=VALUE", num_args = 1..)]
        parameters: Vec<String>,
        /// Decides contents, sizes and losses: the same seed tries the same.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measures a plugin beside the built-in ones: the speed of a code, and what it leaves lost of a library of loss traces;
    /// the figures of a durability model.
    Bench {
        #[command(flatten)]
        settings: SettingsArgs,
        /// A file that ends in .so or .wasm, or the name of a plugin that a node with these settings knows.
        #[arg(value_name = "NAME|FILE")]
        plugin: String,
        /// Parameters of a code, such as r=8 c=3; its defaults for those that are not given.
        #[arg(long, value_name = "NAME=VALUE", num_args = 1..)]
        parameters: Vec<String>,
        /// Bytes of a symbol while the speed is measured.
        #[arg(long, value_name = "BYTES", default_value_t = 1200, value_parser = clap::value_parser!(u32).range(1..=65_536))]
        symbol_bytes: u32,
        /// Turns that the codes take; the best of each counts.
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
        turns: u32,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lists the plugins that a node with these settings knows, with parameters and guarantees, and those that it refuses.
    #[command(after_help = "Exit code 4: a plugin of the folder plugins.directory is refused.")]
    List {
        #[command(flatten)]
        settings: SettingsArgs,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What a plugin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PluginKind {
    /// An erasure code.
    Code,
    /// A durability model.
    Model,
}

/// `parhelion config`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Prints each setting, and with --effective where it came from.
    Show {
        #[command(flatten)]
        settings: SettingsArgs,
        /// Adds the layer that each value came from.
        #[arg(long)]
        effective: bool,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Says whether a node could start with these settings, with its certificate and its data directories.
    #[command(after_help = "Run it as the user that the node runs as. Exit code 2: it could not start.")]
    Check {
        #[command(flatten)]
        settings: SettingsArgs,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
}

/// `parhelion pki`
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Makes a private certificate authority and certificates for nodes, clients and admins.
    Init {
        /// Directory to make them in.
        directory: PathBuf,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Issues one more certificate: for a node (--site), a client or an admin (--role).
    Issue(IssueArgs),
}

/// `parhelion pki issue`
#[derive(Debug, Args)]
pub struct IssueArgs {
    /// Directory of the authority, as pki init made it.
    pub directory: PathBuf,
    /// Name of the certificate: its files are NAME.pem and NAME.key.
    #[arg(value_name = "NAME")]
    pub certificate: String,
    /// The site that the node belongs to.
    #[arg(long, value_name = "NUMBER")]
    pub site: Option<u16>,
    /// DNS name or IP address of the node's machine, which link.peer_names of the other site asks for. May be given several
    /// times.
    #[arg(long = "name", value_name = "HOST")]
    pub names: Vec<String>,
    /// What it may be used for: client, admin, or a node's storage, metadata, link, which are the default with --site. May
    /// be given several times.
    #[arg(long = "role", value_name = "ROLE", value_delimiter = ',')]
    pub roles: Vec<Role>,
    /// How long it is good for.
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "825d")]
    pub valid_for: Duration,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
}

/// `parhelion plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Rate of the line.
    #[arg(long, default_value = "300Mbit")]
    pub rate: crate::settings::Rate,
    /// Payload that is appended, such as 90Mbit; three tenths of the line's rate where none is given.
    #[arg(long, value_name = "RATE")]
    pub load: Option<crate::settings::Rate>,
    /// One-way delay of the line.
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "50ms")]
    pub one_way: Duration,
    /// Share of the packets that is lost, as an upper bound.
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent, default_value = "0.01%")]
    pub loss: f64,
    /// Mean length of loss bursts in packets, as an upper bound.
    #[arg(long, value_name = "PACKETS", default_value_t = 3.0)]
    pub burst: f64,
    /// Bytes per append.
    #[arg(long, value_name = "BYTES", default_value = "4KiB")]
    pub append_bytes: bytesize::ByteSize,
    /// Largest acceptable risk of loss at the network level.
    #[arg(long, value_name = "PROBABILITY", default_value = "1e-6")]
    pub max_risk: Risk,
    /// Time in which appends shall be acknowledged.
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "10s")]
    pub deadline: Duration,
    /// Logs that share the traffic: the risk of an append is that of all of its log that are under way.
    #[arg(long, value_name = "NUMBER", default_value_t = 8)]
    pub logs: u32,
    /// File for the risk against time as a drawing, .svg or .png.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// A setting of the primary, such as risk.model=iid-bound. May be given several times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
}

/// `parhelion drill`
#[derive(Debug, Args)]
pub struct DrillArgs {
    /// Directory whose files are written through the primary.
    #[arg(long, value_name = "DIR")]
    pub input: Option<PathBuf>,
    /// Modes to play: all, or some of local-sync, local-sync+fec, network-sync, remote-sync, remote-sync+fec.
    #[arg(long, value_delimiter = ',', value_parser = ModeWord::parse, default_value = "all")]
    pub modes: Vec<ModeWord>,
    /// One-way delay of the link.
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "50ms")]
    pub one_way: Duration,
    /// Rate of the link.
    #[arg(long, default_value = "300Mbit")]
    pub rate: crate::settings::Rate,
    /// Loss rate before the link is cut.
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent, default_value = "1%")]
    pub loss: f64,
    /// Mean length of loss bursts, in packets.
    #[arg(long, value_name = "PACKETS", default_value_t = 3.0)]
    pub burst: f64,
    /// How long the loss lasts before the link is cut.
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "500ms")]
    pub loss_for: Duration,
    /// Erasure code and parameters, such as "reed-solomon r=8 c=3".
    #[arg(long, value_name = "CODE")]
    pub code: Option<String>,
    /// Writers, each with one append outstanding.
    #[arg(long, default_value_t = 64)]
    pub writers: usize,
    /// Bytes per append.
    #[arg(long, value_name = "BYTES", default_value = "4KiB")]
    pub append_bytes: bytesize::ByteSize,
    /// Payload that the writers offer together, such as 100Mbit; half of the link's rate, where none is given, so that
    /// repairs have room.
    #[arg(long, value_name = "RATE")]
    pub load: Option<crate::settings::Rate>,
    /// Load before anything counts, in every mode: the link's history, without which little is promised.
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "15s")]
    pub warm_up: Duration,
    /// Seconds of writing before the disaster.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Largest acceptable risk of loss at the network level.
    #[arg(long, value_name = "PROBABILITY", default_value = "1e-6")]
    pub max_risk: Risk,
    /// How often each mode is played.
    #[arg(long, default_value_t = 1)]
    pub repeat: usize,
    /// Seed of the link's losses and the writers' choices.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Form of the emulated link: auto, packet (network namespaces) or relay (user space).
    #[arg(long, default_value = "auto")]
    pub form: Form,
    /// A setting of both nodes, such as risk.model=iid-bound. May be given several times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// File for the result as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Directory for the report: one HTML file and its plots.
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Keeps the sites' data and logs.
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// A word of `--modes`: one mode, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeWord(pub Vec<Mode>);

impl ModeWord {
    fn parse(word: &str) -> Result<Self, UnknownMode> {
        Mode::parse_list(word).map(Self)
    }
}

fn parse_socket(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "give IP:PORT, such as 192.0.2.1:7401; names are not resolved")
}

fn parse_log(text: &str) -> Result<LogId, &'static str> {
    text.parse().map_err(
        |_| "give the number of the log, as `parhelion log create` printed it and `log list` shows it",
    )
}

fn parse_request(text: &str) -> Result<RequestId, &'static str> {
    text.parse().map_err(|_| "give 1 to 32 hexadecimal digits, or a UUID, as the command printed it")
}

fn parse_time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("give a time such as 500ms or 30s: {error}"))
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let share = number.parse::<f64>().map_err(|_| format!("{text:?} is no share; write 1% or 0.01"))? / unit;
    if (0.0..1.0).contains(&share) { Ok(share) } else { Err(format!("{text:?} is not between 0% and 100%")) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn percentages_and_shares_are_read() {
        assert_eq!(parse_percent("1%"), Ok(0.01));
        assert_eq!(parse_percent("0.5%"), Ok(0.005));
        assert_eq!(parse_percent("0.02"), Ok(0.02));
        for bad in ["", "%", "100%", "1", "-1%", "many"] {
            assert!(parse_percent(bad).is_err(), "{bad:?} parsed");
        }
    }
}
