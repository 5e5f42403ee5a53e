//! A private certificate authority: makes certificates that say what their owner may do.
//!
//! A certificate carries its roles as URIs in the subject alternative name, such as
//! `parhelion://role/client`. Only nodes' certificates are good for a server (extended key usage), so a
//! stolen client certificate cannot pose as a node.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parhelion_types::{Role, SiteId};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

use crate::tls::{AUTHORITY_FILE, ROLE_URI, SERVER_NAME, SITE_URI, is_host_name};

/// What [`init`] makes.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Sites that get a node certificate each.
    pub sites: Vec<SiteId>,
    /// Further DNS names or IP addresses of the nodes, for HTTP clients that check them.
    pub names: Vec<String>,
    /// How long the nodes', clients' and admins' certificates are good for.
    pub validity: Duration,
}

/// What a certificate is for.
#[derive(Clone, Debug)]
pub struct Subject {
    /// File name without extension: `NAME.pem`, `NAME.key`.
    pub name: String,
    /// What it may be used for.
    pub roles: Vec<Role>,
    /// The site it is a node of; none for clients and admins.
    pub site: Option<SiteId>,
    /// DNS names or IP addresses; only a node needs any.
    pub names: Vec<String>,
}

/// A private certificate authority, with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
}

/// Certificates that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file that would be overwritten.
    #[error("{} exists; keys are never overwritten: choose another directory, or move it away", .0.display())]
    Exists(PathBuf),
    /// A file that cannot be written or read.
    #[error("{}: {source}; check that the directory is there and is yours", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A subject for which no certificate is issued.
    #[error("certificate {name:?}: {reason}")]
    Subject {
        /// Which.
        name: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A certificate that cannot be made or read.
    #[error("certificate {name}: {reason}; {remedy}")]
    Certificate {
        /// Which.
        name: String,
        /// Why.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
}

const AUTHORITY_KEY_FILE: &str = "ca.key";
/// How long a certificate is good for unless one says otherwise: 825 days, the longest that common TLS clients take.
pub const VALIDITY: Duration = Duration::from_secs(825 * 86_400);
/// Longest name of a certificate, well within what file systems take.
const NAME_BYTES_MAX: usize = 64;
/// The authority outlives what it signs by far; replacing it means replacing every certificate.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Sites' clocks may differ: a certificate made here is good there at once.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);
/// A private key is its owner's alone.
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

impl Default for InitOptions {
    /// Two sites on this machine, and certificates for [`VALIDITY`].
    fn default() -> Self {
        Self {
            sites: vec![SiteId(1), SiteId(2)],
            names: vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()],
            validity: VALIDITY,
        }
    }
}

/// Makes an authority and a certificate for each site's nodes, for clients and for admins.
/// Answers with the files, in the order they were made.
///
/// # Errors
/// A file exists already (nothing is made then), or cannot be written.
pub fn init(directory: &Path, options: &InitOptions) -> Result<Vec<PathBuf>, PkiError> {
    let subjects = subjects(options);
    let mut files = vec![directory.join(AUTHORITY_FILE), directory.join(AUTHORITY_KEY_FILE)];
    files.extend(subjects.iter().flat_map(|subject| subject.files(directory)));
    if let Some(existing) = files.iter().find(|file| file.symlink_metadata().is_ok()) {
        return Err(PkiError::Exists(existing.clone()));
    }
    let authority = Authority::create(directory)?;
    for subject in &subjects {
        authority.issue(subject, options.validity)?;
    }
    Ok(files)
}

/// Issues one more certificate by the authority in `directory`: for a node, a client or an admin. Answers with the files of
/// certificate and key.
///
/// # Errors
/// The subject is none that a node would admit, the directory has no authority or a file of that name, or a file cannot be
/// written.
pub fn issue(directory: &Path, subject: &Subject, validity: Duration) -> Result<[PathBuf; 2], PkiError> {
    subject.check()?;
    let authority = Authority::load(directory)?;
    let files = subject.files(directory);
    if let Some(existing) = files.iter().find(|file| file.symlink_metadata().is_ok()) {
        return Err(PkiError::Exists(existing.clone()));
    }
    let mut subject = subject.clone();
    if subject.is_node() {
        subject.names.insert(0, SERVER_NAME.to_owned());
    }
    authority.issue(&subject, validity)?;
    Ok(files)
}

fn subjects(options: &InitOptions) -> Vec<Subject> {
    let mut subjects: Vec<_> =
        options.sites.iter().map(|site| Subject::node(*site, &options.names)).collect();
    for (name, role) in [("client", Role::Client), ("admin", Role::Admin)] {
        subjects.push(Subject { name: name.to_owned(), roles: vec![role], site: None, names: Vec::new() });
    }
    subjects
}

impl Subject {
    /// The nodes of a site, in all their roles.
    #[must_use]
    pub fn node(site: SiteId, names: &[String]) -> Self {
        Self {
            name: format!("node-{site}"),
            roles: vec![Role::Storage, Role::Metadata, Role::Link],
            site: Some(site),
            names: [SERVER_NAME.to_owned()].into_iter().chain(names.iter().cloned()).collect(),
        }
    }

    /// Whether its name is one of a file, and its roles, site and names fit each other.
    fn check(&self) -> Result<(), PkiError> {
        let Self { name, roles, site, names } = self;
        let wrong = |reason: &str| Err(PkiError::Subject { name: name.clone(), reason: reason.to_owned() });
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !is_plain || name.starts_with(['.', '-']) {
            return wrong(
                "give a name of at most 64 letters, digits, '-', '_' and '.', which begins with neither '-' nor '.'",
            );
        }
        if name == "ca" {
            return wrong("this is the name of the authority; give another one");
        }
        let nodes = roles.iter().filter(|role| role.is_node()).count();
        match site {
            _ if roles.is_empty() => {
                return wrong("it has no role; give a node its site, or the role client or admin");
            }
            _ if nodes > 0 && nodes < roles.len() => {
                return wrong("it has roles of a node and others; issue two certificates");
            }
            None if nodes > 0 => return wrong("it has roles of a node; say of which site, with --site"),
            Some(_) if nodes == 0 => return wrong("a client or admin belongs to no site; leave --site away"),
            None if !names.is_empty() => {
                return wrong("only a node has names of hosts; leave --name away, or give its --site");
            }
            _ => {}
        }
        match names.iter().find(|name| !is_host_name(name)) {
            Some(bad) => wrong(&format!(
                "{bad:?} is neither a DNS name nor an IP address; give one such as db-2.example.com"
            )),
            None => Ok(()),
        }
    }

    fn files(&self, directory: &Path) -> [PathBuf; 2] {
        ["pem", "key"].map(|extension| directory.join(format!("{}.{extension}", self.name)))
    }

    /// Nodes serve; clients and admins only connect.
    fn is_node(&self) -> bool {
        self.roles.iter().any(|role| role.is_node())
    }
}

impl Authority {
    /// Makes an authority in `directory`, which is made too.
    ///
    /// # Errors
    /// There is one already, or a file cannot be written.
    pub fn create(directory: &Path) -> Result<Self, PkiError> {
        fs::create_dir_all(directory)
            .map_err(|source| PkiError::File { path: directory.to_owned(), source })?;
        let fault = |error| certificate_error("ca", error, "report it");
        let key = KeyPair::generate().map_err(fault)?;
        let mut params = CertificateParams::default();
        // Two authorities must not have one name: a wrong one would be reported as a bad signature.
        let id = params.key_identifier(&key);
        let id: String = id.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name = common_name(&format!("Parhelion authority {id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, AUTHORITY_VALIDITY);
        let certificate = params.self_signed(&key).map_err(fault)?;
        write_new(&directory.join(AUTHORITY_KEY_FILE), &key.serialize_pem(), KEY_MODE)?;
        write_new(&directory.join(AUTHORITY_FILE), &certificate.pem(), CERTIFICATE_MODE)?;
        Ok(Self { issuer: Issuer::new(params, key), directory: directory.to_owned() })
    }

    /// Loads the authority of `directory`, to issue further certificates.
    ///
    /// # Errors
    /// Its files are missing or not what they should be.
    pub fn load(directory: &Path) -> Result<Self, PkiError> {
        const REMEDY: &str = "give the directory that `parhelion pki init` made";
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).map_err(|error| PkiError::Certificate {
                name: path.display().to_string(),
                reason: error.to_string(),
                remedy: REMEDY,
            })
        };
        let key = KeyPair::from_pem(&read(AUTHORITY_KEY_FILE)?)
            .map_err(|error| certificate_error(AUTHORITY_KEY_FILE, error, REMEDY))?;
        let issuer = Issuer::from_ca_cert_pem(&read(AUTHORITY_FILE)?, key)
            .map_err(|error| certificate_error(AUTHORITY_FILE, error, REMEDY))?;
        Ok(Self { issuer, directory: directory.to_owned() })
    }

    /// Issues a certificate and writes it with its key beside the authority's.
    ///
    /// # Errors
    /// One of that name exists, a name is no name, or a file cannot be written.
    pub fn issue(&self, subject: &Subject, validity: Duration) -> Result<(), PkiError> {
        let fault = |error| certificate_error(&subject.name, error, "give ASCII names or IP addresses");
        let key = KeyPair::generate().map_err(fault)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("Parhelion {}", subject.name));
        params.subject_alt_names = alternative_names(subject).map_err(fault)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if subject.is_node() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, validity);
        let certificate = params.signed_by(&key, &self.issuer).map_err(fault)?;
        let [certificate_file, key_file] = subject.files(&self.directory);
        write_new(&key_file, &key.serialize_pem(), KEY_MODE)?;
        write_new(&certificate_file, &certificate.pem(), CERTIFICATE_MODE)
    }
}

fn alternative_names(subject: &Subject) -> Result<Vec<SanType>, rcgen::Error> {
    let roles =
        subject.roles.iter().map(|role| Ia5String::try_from(format!("{ROLE_URI}{role}")).map(SanType::URI));
    let site =
        subject.site.iter().map(|site| Ia5String::try_from(format!("{SITE_URI}{site}")).map(SanType::URI));
    let names = subject.names.iter().map(|name| match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ia5String::try_from(name.as_str()).map(SanType::DnsName),
    });
    roles.chain(site).chain(names).collect()
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn set_validity(params: &mut CertificateParams, validity: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + validity).into();
}

fn certificate_error(name: &str, error: rcgen::Error, remedy: &'static str) -> PkiError {
    PkiError::Certificate { name: name.to_owned(), reason: error.to_string(), remedy }
}

/// Writes a file that must not exist, durably: a key that is lost makes its certificate useless.
fn write_new(path: &Path, content: &str, mode: u32) -> Result<(), PkiError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists(path.to_owned()),
        _ => PkiError::File { path: path.to_owned(), source },
    })
}
