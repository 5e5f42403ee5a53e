//! Who is at the other end: certificates, the roles in them, and TLS settings for QUIC and TCP.
//!
//! TLS 1.3 only, both sides show a certificate of the private authority, nothing is resumed: every
//! connection is checked anew, so a certificate that has expired opens nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parhelion_types::{Role, SiteId};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// The name that every node's certificate carries, beside its own. Clients ask for this one, so that a node
/// may move to another address without a new certificate.
pub const SERVER_NAME: &str = "node.parhelion";
/// ALPN of the API for clients.
pub const CLIENT_PROTOCOL: &[u8] = b"parhelion/client/1";
/// ALPN of a link over TCP. The lanes of a QUIC link have protocols of their own.
pub const LINK_PROTOCOL: &[u8] = b"parhelion/link/1";
/// Prefix of the URIs in a certificate that name its roles.
pub const ROLE_URI: &str = "parhelion://role/";

/// Prefix of the URI in a node's certificate that names its site.
pub const SITE_URI: &str = "parhelion://site/";

/// File name of the authority's certificate in a PKI directory.
pub const AUTHORITY_FILE: &str = "ca.pem";

/// A certificate with its key, and the authority that others' certificates must come from.
pub struct Identity {
    source: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authority: Arc<RootCertStore>,
}

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that is missing, unreadable, or not what it should be.
    #[error("{}: {reason}; {remedy}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A certificate, key and authority that do not fit each other or the protocol.
    #[error("{}: {reason}; issue another with `parhelion pki issue`, or make all anew with `parhelion pki init`", path.display())]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What it may be used for.
    pub roles: BTreeSet<Role>,
    /// The site that it is a node of; none for clients and admins.
    pub site: Option<SiteId>,
    /// DNS names and IP addresses of its owner.
    pub names: Vec<String>,
    /// Until when it is good.
    pub not_after: SystemTime,
}

/// Makes missing files known to be makeable.
const REMEDY_MISSING: &str = "make all with `parhelion pki init DIRECTORY`, one more with `parhelion pki issue`, or \
                              give the directory that has it";
const REMEDY_CONTENT: &str = "give the PEM file that `parhelion pki init` wrote";

impl Identity {
    /// Loads `NAME.pem` and `NAME.key` from a PKI directory, with its authority.
    ///
    /// # Errors
    /// A file is missing or no PEM.
    pub fn load_from(directory: &Path, name: &str) -> Result<Self, TlsError> {
        let file = |extension| directory.join(format!("{name}.{extension}"));
        Self::load(&directory.join(AUTHORITY_FILE), &file("pem"), &file("key"))
    }

    /// Loads PEM files: the authority's certificate, a certificate chain, and its key.
    ///
    /// # Errors
    /// A file is missing or no PEM.
    pub fn load(authority: &Path, certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for root in certificates(authority)? {
            roots.add(root).map_err(|error| content(authority, error.to_string()))?;
        }
        warn_if_others_can_read(key);
        let key_der = PrivateKeyDer::from_pem_slice(&read(key)?)
            .map_err(|error| content(key, format!("no private key: {error}")))?;
        Ok(Self {
            source: certificate.to_owned(),
            chain: certificates(certificate)?,
            key: key_der,
            authority: Arc::new(roots),
        })
    }

    /// What this certificate was issued for.
    #[must_use]
    pub fn roles(&self) -> BTreeSet<Role> {
        self.chain.first().map(peer_roles).unwrap_or_default()
    }

    /// What this certificate says.
    ///
    /// # Errors
    /// It is no X.509 certificate.
    pub fn description(&self) -> Result<Description, TlsError> {
        let leaf = self.leaf()?;
        let wrong = |reason| TlsError::File { path: self.source.clone(), reason, remedy: REMEDY_CONTENT };
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
            .map_err(|error| wrong(format!("no X.509 certificate: {error}")))?;
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
        Ok(Description {
            roles: peer_roles(leaf),
            site: uris(leaf, SITE_URI).iter().find_map(|site| site.parse().ok()),
            names: names(&parsed),
            not_after: UNIX_EPOCH + Duration::from_secs(seconds),
        })
    }

    /// Whether it lets its owner be a node of `site` with all of `roles`.
    ///
    /// # Errors
    /// It was issued for another site, or without one of the roles.
    pub fn check_node(&self, site: SiteId, roles: &BTreeSet<Role>) -> Result<(), TlsError> {
        const REMEDY: &str = "issue one that fits with `parhelion pki issue`, give its name as tls.certificate, or change \
                              node.site or node.roles";
        let wrong = |reason| TlsError::File { path: self.source.clone(), reason, remedy: REMEDY };
        let has = self.description()?;
        if has.site != Some(site) {
            let other = has.site.map_or_else(|| "no site".to_owned(), |site| format!("site {site}"));
            return Err(wrong(format!(
                "it was issued for a node of {other}, and this is one of site {site}"
            )));
        }
        let lacking: BTreeSet<Role> = roles.difference(&has.roles).copied().collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let (has, lacking) = (list(&has.roles, ", "), list(&lacking, ", "));
        Err(wrong(format!("it was issued for the roles {has}, and node.roles has {lacking} too")))
    }

    /// Whether peers of the same authority accept it at `now`, at both ends of a connection.
    ///
    /// # Errors
    /// It has expired or is not good yet, another authority issued it, or it is no node's.
    pub fn check_trusted(&self, now: SystemTime) -> Result<(), TlsError> {
        let leaf = self.leaf()?;
        let between = self.chain.get(1..).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let name = ServerName::try_from(SERVER_NAME).map_err(|error| self.unusable(error))?;
        let nodes = WebPkiServerVerifier::builder_with_provider(self.authority.clone(), provider())
            .build()
            .map_err(|error| self.unusable(error))?;
        let clients = WebPkiClientVerifier::builder_with_provider(self.authority.clone(), provider())
            .build()
            .map_err(|error| self.unusable(error))?;
        nodes.verify_server_cert(leaf, between, &name, &[], time).map_err(|error| self.untrusted(&error))?;
        clients.verify_client_cert(leaf, between, time).map_err(|error| self.untrusted(&error))?;
        Ok(())
    }

    /// In words why peers would refuse it.
    fn untrusted(&self, error: &rustls::Error) -> TlsError {
        const REMEDY_TIME: &str =
            "issue another with `parhelion pki issue`, and check the clock of this machine";
        const REMEDY_AUTHORITY: &str =
            "take ca.pem and the certificate from the same `parhelion pki` directory";
        const REMEDY_NODE: &str = "issue one for a node with `parhelion pki issue --site`";
        use CertificateError as Error;
        let rustls::Error::InvalidCertificate(reason) = error else { return self.unusable(error) };
        let validity = self.leaf().ok().and_then(|leaf| {
            let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
            Some((parsed.validity().not_before.to_string(), parsed.validity().not_after.to_string()))
        });
        let (since, until) = validity.unwrap_or_default();
        let (reason, remedy) = match reason {
            Error::Expired | Error::ExpiredContext { .. } => (format!("it expired on {until}"), REMEDY_TIME),
            Error::NotValidYet | Error::NotValidYetContext { .. } => {
                (format!("it is good from {since} on, and not yet"), REMEDY_TIME)
            }
            Error::UnknownIssuer | Error::BadSignature => {
                (format!("the authority in {AUTHORITY_FILE} did not issue it"), REMEDY_AUTHORITY)
            }
            Error::InvalidPurpose
            | Error::InvalidPurposeContext { .. }
            | Error::NotValidForName
            | Error::NotValidForNameContext { .. } => ("it is no node's".to_owned(), REMEDY_NODE),
            _ => return self.unusable(error),
        };
        TlsError::File { path: self.source.clone(), reason, remedy }
    }

    /// The owner's certificate, before those of authorities in between.
    fn leaf(&self) -> Result<&CertificateDer<'static>, TlsError> {
        self.chain.first().ok_or_else(|| self.unusable("no certificate in it"))
    }

    /// Bytes that only this node has and that survive a restart.
    #[must_use]
    pub fn secret(&self) -> &[u8] {
        self.key.secret_der()
    }

    /// Settings of a listening end that demands certificates, for TCP; empty `protocols` for any.
    ///
    /// # Errors
    /// Key and certificate do not fit.
    pub fn server_config(&self, protocols: &[&[u8]]) -> Result<ServerConfig, TlsError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.authority.clone(), provider())
            .build()
            .map_err(|error| self.unusable(error))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| self.unusable(error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| self.unusable(error))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(config)
    }

    /// Settings of a connecting end that shows its certificate, for TCP. Connect to [`SERVER_NAME`].
    ///
    /// # Errors
    /// Key and certificate do not fit.
    pub fn client_config(&self, protocols: &[&[u8]]) -> Result<ClientConfig, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| self.unusable(error))?
            .with_root_certificates(self.authority.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| self.unusable(error))?;
        config.resumption = Resumption::disabled();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(config)
    }

    /// The same as [`Identity::server_config`], for QUIC.
    ///
    /// # Errors
    /// Key and certificate do not fit.
    pub fn quic_server(&self, protocol: &[u8]) -> Result<Arc<QuicServerConfig>, TlsError> {
        let config = QuicServerConfig::try_from(self.server_config(&[protocol])?);
        Ok(Arc::new(config.map_err(|error| self.unusable(error))?))
    }

    /// The same as [`Identity::client_config`], for QUIC.
    ///
    /// # Errors
    /// Key and certificate do not fit.
    pub fn quic_client(&self, protocol: &[u8]) -> Result<Arc<QuicClientConfig>, TlsError> {
        let config = QuicClientConfig::try_from(self.client_config(&[protocol])?);
        Ok(Arc::new(config.map_err(|error| self.unusable(error))?))
    }

    fn unusable(&self, error: impl fmt::Display) -> TlsError {
        TlsError::Unusable { path: self.source.clone(), reason: error.to_string() }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key.
        f.debug_struct("Identity").field("source", &self.source).finish_non_exhaustive()
    }
}

/// What a certificate was issued for. TLS has checked its signature; one that cannot be read grants nothing,
/// and roles that this release does not know are passed over.
#[must_use]
pub fn peer_roles(certificate: &CertificateDer<'_>) -> BTreeSet<Role> {
    uris(certificate, ROLE_URI).iter().filter_map(|role| role.parse().ok()).collect()
}

/// Whether a certificate belongs to a node of that site; in words why not. Each site's nodes are trusted by each
/// other alone: the other site's may feed a mirror and may not ask for anything else.
///
/// # Errors
/// What the certificate is for, what it takes, and what to do.
pub fn require_site(certificate: &CertificateDer<'_>, site: SiteId) -> Result<(), String> {
    let sites = uris(certificate, SITE_URI);
    if sites.iter().any(|uri| uri.parse() == Ok(site)) {
        return Ok(());
    }
    let has = if sites.is_empty() { "no site".to_owned() } else { format!("site {}", sites.join(", ")) };
    Err(format!(
        "the certificate was issued for a node of {has}, and this takes a node of site {site}; use one of site {site}, \
         such as node-{site} that `parhelion pki init` made"
    ))
}

/// Whether `text` may stand in a certificate as the name of a host: a DNS name or an IP address.
#[must_use]
pub fn is_host_name(text: &str) -> bool {
    ServerName::try_from(text).is_ok()
}

/// Whether a certificate carries at least one of the names `wanted`, which are DNS names or IP addresses; in words why
/// not. No names admit every certificate.
///
/// # Errors
/// The names of the certificate, those that it takes, and what to do.
pub fn require_name(certificate: &CertificateDer<'_>, wanted: &[String]) -> Result<(), String> {
    let carries = |name: &String| {
        let parsed = ParsedCertificate::try_from(certificate).ok()?;
        verify_server_name(&parsed, &ServerName::try_from(name.as_str()).ok()?).ok()
    };
    if wanted.is_empty() || wanted.iter().any(|name| carries(name).is_some()) {
        return Ok(());
    }
    let has = x509_parser::parse_x509_certificate(certificate).map(|(_, parsed)| names(&parsed));
    let has = has.unwrap_or_default();
    let has = if has.is_empty() { "no name".to_owned() } else { format!("the names {}", has.join(", ")) };
    Err(format!(
        "the certificate was issued for {has}, and this takes {}; issue one with that name, or change link.peer_names",
        wanted.join(" or ")
    ))
}

/// DNS names and IP addresses of a certificate, but the one that every node's carries.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = alternatives.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) if *name != SERVER_NAME => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
            .ok()
            .map(|address| address.to_string()),
        _ => None,
    });
    names.collect()
}

/// What follows `prefix` in the URIs of a certificate's alternative names.
fn uris(certificate: &CertificateDer<'_>, prefix: &str) -> Vec<String> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return Vec::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    let words = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(prefix),
        _ => None,
    });
    words.map(str::to_owned).collect()
}

/// Whether a certificate was issued for at least one of `wanted`; in words why not.
///
/// # Errors
/// What the certificate is for, what it takes, and what to do.
pub fn require_role(certificate: &CertificateDer<'_>, wanted: &[Role]) -> Result<BTreeSet<Role>, String> {
    let roles = peer_roles(certificate);
    if wanted.iter().any(|role| roles.contains(role)) {
        return Ok(roles);
    }
    let has =
        if roles.is_empty() { "no role".to_owned() } else { format!("the role {}", list(&roles, ", ")) };
    let takes = list(wanted, " or ");
    Err(format!(
        "the certificate was issued for {has}, and this takes {takes}; use one that was issued for it"
    ))
}

fn list<'a>(roles: impl IntoIterator<Item = &'a Role>, between: &str) -> String {
    roles.into_iter().map(|role| role.name()).collect::<Vec<_>>().join(between)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| content(path, error.to_string()))?;
    if all.is_empty() { Err(content(path, "no certificate in it".to_owned())) } else { Ok(all) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::File {
        path: path.to_owned(),
        reason: error.to_string(),
        remedy: REMEDY_MISSING,
    })
}

fn content(path: &Path, reason: String) -> TlsError {
    TlsError::File { path: path.to_owned(), reason, remedy: REMEDY_CONTENT }
}

/// Only a warning: where files are mounted from a secret store, modes are not ours to choose.
fn warn_if_others_can_read(key: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if let Ok(metadata) = fs::metadata(key) {
        let mode = metadata.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(key = %key.display(), mode = format!("{:o}", mode & 0o777), "others can read this private key; set its mode to 600");
        }
    }
}
