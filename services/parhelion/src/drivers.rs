//! Settings turned into what the link drivers and the site's gateway are built from.

use std::net::SocketAddr;
use std::sync::Arc;

use parhelion_gate::Identity;
use parhelion_gate::quic::{self, EndpointConfig};
use parhelion_gate::tls::{LINK_PROTOCOL, SERVER_NAME, require_name, require_role, require_site};
use parhelion_gateway::{SiteLinkConfig, SiteListenerConfig};
use parhelion_link_driver::{
    CodeLookup, Congestion, LaneConfig, MirrorConfig, PeerCheck, PrimaryConfig, Transport,
};
use parhelion_plugin::{Code, Parameters};
use parhelion_plugin_host::Catalogue as Plugins;
use parhelion_risk::Assumption;
use parhelion_types::{NodeId, Role, SiteId};
use serde_json::{Map, Value, json};

use crate::output::Failure;
use crate::planner::AUTO;
use crate::plugins;
use crate::settings::{self, Settings};

/// Whether codes and models can be made of the settings, whatever part of them this node uses: a name that names
/// nothing is a mistake at every node. Opens nothing but the plugins.
pub fn check(settings: &Settings) -> Result<(), Failure> {
    let (plugins, refused) = plugins::load(settings)?;
    if let (Err(failure), Some(refused)) = (code(settings, &plugins), refused.first()) {
        return Err(Failure::new(format!("{}; {refused}", failure.message)));
    }
    code(settings, &plugins)?;
    plugins.model(&settings.risk.model).map_err(|error| Failure::new(format!("risk.model: {error}")))?;
    assumption(settings).map(drop)
}

/// What is assumed of the link at least.
pub fn assumption(settings: &Settings) -> Result<Assumption, Failure> {
    let risk = &settings.risk;
    Assumption::new(risk.assumed_loss, risk.assumed_burst, risk.confidence)
        .map_err(|error| Failure::new(format!("risk settings: {error}")))
}

/// The code of the settings with all its parameters. Those that are not given are filled in here, so that the mirror
/// is told them and does not depend on the defaults of its own release.
pub fn code(settings: &Settings, plugins: &Plugins) -> Result<Code, Failure> {
    let link = &settings.link;
    let name = if link.code == AUTO { FALLBACK } else { &link.code };
    let family = plugins.code(name).map_err(|error| Failure::new(format!("link.code: {error}")))?;
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::new(format!(
            "link.parameters is {:?}, for link.code {:?}: {error}",
            link.parameters, link.code
        ))
    };
    let given: Parameters = link.parameters.parse().map_err(|error| unusable(&error))?;
    Code::new(family, &given).map_err(|error| unusable(&error))
}

/// What the link may use of its line, in bytes per second, IP headers included.
pub fn bytes_per_second(settings: &Settings) -> u64 {
    (settings.link.rate.bytes_per_second() as f64 * settings.link.share) as u64
}

/// The code that a link goes on with when the one in force breaks, and that the planner begins with; every node has it.
pub const FALLBACK: &str = "layered-interleaving";

/// Settings of the driver at a primary site.
pub fn primary(
    settings: &Settings,
    identity: &Identity,
    plugins: Arc<Plugins>,
) -> Result<PrimaryConfig, Failure> {
    let link = &settings.link;
    let address = |key: &str, text: &str| {
        let wrong =
            |_| Failure::new(format!("setting {key} is {text:?}: give an address such as 192.0.2.7:7411"));
        text.parse::<SocketAddr>().map_err(wrong)
    };
    let code = code(settings, &plugins)?;
    let tls = Arc::new(identity.client_config(&[LINK_PROTOCOL]).map_err(Failure::usage)?);
    let critical = address("link.peer_critical", &link.peer_critical)?;
    let defaults = PrimaryConfig::new(
        SiteId(settings.node.site),
        critical,
        SERVER_NAME,
        tls,
        peer_check(settings),
        code_lookup(plugins),
    );
    let tcp_congestion = link.tcp_congestion.clone();
    Ok(PrimaryConfig {
        bulk: address("link.peer_bulk", &link.peer_bulk)?,
        tcp: if link.peer_tcp.is_empty() { defaults.tcp } else { address("link.peer_tcp", &link.peer_tcp)? },
        transport: match link.transport {
            settings::Transport::Quic => Transport::Quic,
            settings::Transport::Tcp => {
                Transport::Tcp { congestion: (!tcp_congestion.is_empty()).then_some(tcp_congestion) }
            }
        },
        congestion: match link.congestion {
            settings::Congestion::Provisioned => Congestion::Provisioned,
            settings::Congestion::Bbr => Congestion::Bbr,
            settings::Congestion::Cubic => Congestion::Cubic,
        },
        code: format!("{}@{}", code.name(), code.version()),
        parameters: code.parameters().to_string(),
        fallback: FALLBACK.to_owned(),
        lane: lane_config(settings),
        rate_bytes_per_second: bytes_per_second(settings),
        buffer_bytes_max: buffer(settings),
        burst_datagrams_max: link.pacing_burst,
        flush_delay: link.flush_delay,
        flush_pause: link.flush_pause,
        site_exit_delay: link.site_exit_delay,
        ..defaults
    })
}

/// Settings of the driver at a mirror.
pub fn mirror(
    settings: &Settings,
    identity: &Identity,
    plugins: Arc<Plugins>,
) -> Result<MirrorConfig, Failure> {
    let link = &settings.link;
    let tls = Arc::new(identity.server_config(&[LINK_PROTOCOL]).map_err(Failure::usage)?);
    let defaults = MirrorConfig::new(
        SiteId(settings.node.site),
        link.listen_critical,
        tls,
        peer_check(settings),
        code_lookup(plugins),
    );
    Ok(MirrorConfig {
        listen_bulk: link.listen_bulk,
        listen_tcp: Some(link.listen_tcp),
        lane: lane_config(settings),
        critical_endpoint: endpoint(identity, "critical lane", link.listen_critical)?,
        bulk_endpoint: endpoint(identity, "bulk lane", link.listen_bulk)?,
        pending_bytes_max: buffer(settings),
        report_interval: link.report_interval,
        ..defaults
    })
}

/// The link's buffer: each storage node of the site may fill one of its own.
fn buffer(settings: &Settings) -> usize {
    let nodes = settings.site.storage.len().max(1) as u64;
    usize::try_from(settings.link.buffer.as_u64().saturating_mul(nodes)).unwrap_or(usize::MAX)
}

/// What the settings say about a primary's end of the link, for status. A mirror takes what comes.
pub fn line(settings: &Settings) -> Map<String, Value> {
    let mut line = Map::new();
    if settings.node.duty == settings::Duty::Primary {
        let link = &settings.link;
        line.insert("transport".to_owned(), json!(link.transport));
        line.insert("congestion".to_owned(), json!(link.congestion));
        line.insert("rate_bits_per_second".to_owned(), json!(link.rate.bits_per_second()));
        line.insert("share".to_owned(), json!(link.share));
        line.insert("model".to_owned(), json!(settings.risk.model));
    }
    line
}

/// Settings of a link node's listener for the site's storage nodes.
pub fn listener(settings: &Settings, identity: &Identity) -> Result<SiteListenerConfig, Failure> {
    let listen = settings.site_listen().ok_or_else(|| no_gateway(settings))?;
    let (site, node) = (SiteId(settings.node.site), NodeId(settings.node.node));
    let tls = Arc::new(identity.server_config(&[]).map_err(Failure::usage)?);
    let config = SiteListenerConfig::new(site, node, listen, tls, node_check(site, Role::Storage));
    let idle_timeout = config.idle_timeout.min(settings.link.idle_timeout);
    let endpoint = endpoint(identity, "gateway", listen)?;
    Ok(SiteListenerConfig { idle_timeout, endpoint, ..config })
}

/// Settings of a storage node's connection to the site's link node.
pub fn site_link(settings: &Settings, identity: &Identity) -> Result<SiteLinkConfig, Failure> {
    let gateway = settings.site.gateway.parse().map_err(|_| no_gateway(settings))?;
    let (site, node) = (SiteId(settings.node.site), NodeId(settings.node.node));
    let tls = Arc::new(identity.client_config(&[]).map_err(Failure::usage)?);
    let config = SiteLinkConfig::new(site, node, gateway, SERVER_NAME, tls, node_check(site, Role::Link));
    let idle_timeout = config.idle_timeout.min(settings.link.idle_timeout);
    Ok(SiteLinkConfig { idle_timeout, ..config })
}

fn no_gateway(settings: &Settings) -> Failure {
    let gateway = &settings.site.gateway;
    Failure::new(format!("setting site.gateway is {gateway:?}: give an address such as 10.0.0.1:7414"))
}

/// Connection ids and reset tokens that a restarted node has again, so that peers hear at once that it has forgotten them.
/// Each endpoint has its own: what one says of a forgotten connection must not end one of another.
fn endpoint(identity: &Identity, what: &str, listen: SocketAddr) -> Result<EndpointConfig, Failure> {
    let secret = [identity.secret(), format!("{what} at {listen}").as_bytes()].concat();
    quic::endpoint_config(Some(&secret)).map_err(Failure::new)
}

/// Nodes of one site trust no other site's.
fn node_check(site: SiteId, role: Role) -> PeerCheck {
    Arc::new(move |certificate| {
        require_role(certificate, &[role])?;
        require_site(certificate, site)
    })
}

/// Sockets and packets of both lanes.
pub fn lane_config(settings: &Settings) -> LaneConfig {
    LaneConfig { mtu: settings.link.mtu, idle_timeout: settings.link.idle_timeout, ..LaneConfig::default() }
}

/// The other site's link node: any of the authority, or those whose names are given.
fn peer_check(settings: &Settings) -> PeerCheck {
    let names = settings.link.peer_names.clone();
    Arc::new(move |certificate| {
        require_role(certificate, &[Role::Link])?;
        require_name(certificate, &names)
    })
}

/// Finds a code by its name.
pub fn code_lookup(plugins: Arc<Plugins>) -> CodeLookup {
    Arc::new(move |name| plugins.code(name).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Profile;

    fn with(set: &[&str]) -> Settings {
        let set: Vec<String> = set.iter().map(|&word| word.to_owned()).collect();
        settings::load(Profile::Primary, None, None, &set).unwrap().settings
    }

    #[test]
    fn every_code_starts_by_its_bare_name() {
        let plugins = Plugins::built_in();
        for known in plugins.codes() {
            let settings = with(&[&format!("link.code={}", known.name())]);
            check(&settings).unwrap_or_else(|failure| panic!("{failure:?}"));
            let code = code(&settings, &plugins).unwrap();
            assert_eq!(code.name(), known.name());
            // What goes on the wire says all, and means what the bare name means.
            assert_eq!(code.parameters().iter().count(), known.parameters().len());
            assert_eq!(*code.structure(), known.structure(&Parameters::new()).unwrap());
            code.encoder(1400).unwrap();
            code.decoder(1400).unwrap();
        }
    }

    #[test]
    fn the_default_code_is_the_documented_one() {
        let text = |set: &[&str]| code(&with(set), &Plugins::built_in()).unwrap().to_string();
        assert_eq!(text(&[]), "layered-interleaving v1 delayed=1 interleaves=1:23:101 r=8");
        assert_eq!(
            text(&["link.parameters=r=4"]),
            "layered-interleaving v1 delayed=1 interleaves=1:23:101 r=4"
        );
    }

    #[test]
    fn what_names_nothing_is_found_without_a_node() {
        let cases: [(&[&str], &[&str]); 5] = [
            (&["link.code=magic"], &["link.code", "magic", "reed-solomon"]),
            (&["link.parameters=r=none"], &["link.parameters", "r=none"]),
            (
                &["link.code=reed-solomon", "link.parameters=interleaves=1:23"],
                &["interleaves", "reed-solomon"],
            ),
            (&["link.parameters=r=100000"], &["link.parameters", "100000"]),
            (&["risk.model=crystal-ball"], &["risk.model", "crystal-ball", "gilbert-elliott"]),
        ];
        for (set, words) in cases {
            let message = check(&with(set)).unwrap_err().message;
            assert!(words.iter().all(|word| message.contains(word)), "{set:?}: {message}");
        }
    }
}
