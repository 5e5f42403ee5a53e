//! Who is at the other end: certificates, the roles in them, and TLS settings for QUIC and TCP.
//!
//! TLS 1.3 only, both sides show a certificate of the private authority, nothing is resumed: every
//! connection is checked anew, so a certificate that has expired opens nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parhelion_types::{Role, SiteId};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
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
    #[error("{}: {reason}; make a new certificate with `parhelion pki init` in an empty directory", path.display())]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Makes missing files known to be makeable.
const REMEDY_MISSING: &str =
    "make one with `parhelion pki init DIRECTORY`, or give the directory that has it";
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
        "the certificate was issued for a node of {has}, and this takes a node of site {site}; use the certificate \
         node-{site} that `parhelion pki init` made"
    ))
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
    let list =
        |roles: &mut dyn Iterator<Item = &Role>| roles.map(|role| role.name()).collect::<Vec<_>>().join(", ");
    let has =
        if roles.is_empty() { "no role".to_owned() } else { format!("the role {}", list(&mut roles.iter())) };
    let takes = list(&mut wanted.iter()).replace(", ", " or ");
    Err(format!(
        "the certificate was issued for {has}, and this takes {takes}; use one that was issued for it"
    ))
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
