//! Certificates as `pki::init` makes them, and TLS between their owners.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use parhelion_gate::pki::{self, Authority, InitOptions, PkiError, Subject, VALIDITY};
use parhelion_gate::tls::{self, Identity, LINK_PROTOCOL, SERVER_NAME};
use parhelion_types::{Role, SiteId};
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

fn made() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    pki::init(directory.path(), &InitOptions::default()).unwrap();
    directory
}

#[test]
fn files_carry_roles_and_keys_are_private() {
    let directory = tempfile::tempdir().unwrap();
    let files = pki::init(directory.path(), &InitOptions::default()).unwrap();
    assert_eq!(files.len(), 10);
    for file in &files {
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        let is_key = file.extension().is_some_and(|extension| extension == "key");
        assert_eq!(mode, if is_key { 0o600 } else { 0o644 }, "{}", file.display());
    }
    let roles = |name| Identity::load_from(directory.path(), name).unwrap().roles();
    let node = BTreeSet::from([Role::Storage, Role::Metadata, Role::Link]);
    assert_eq!(roles("node-1"), node);
    assert_eq!(roles("node-2"), node);
    assert_eq!(roles("client"), BTreeSet::from([Role::Client]));
    assert_eq!(roles("admin"), BTreeSet::from([Role::Admin]));
}

#[test]
fn nothing_is_overwritten() {
    let directory = made();
    let before = std::fs::read(directory.path().join("ca.key")).unwrap();
    let error = pki::init(directory.path(), &InitOptions::default()).unwrap_err();
    assert!(matches!(error, PkiError::Exists(_)), "{error}");
    assert!(error.to_string().contains("ca.pem exists; keys are never overwritten"), "{error}");
    assert_eq!(std::fs::read(directory.path().join("ca.key")).unwrap(), before);

    // One stray file is enough, and then nothing is made beside it.
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("admin.key"), "precious").unwrap();
    assert!(pki::init(other.path(), &InitOptions::default()).unwrap_err().to_string().contains("admin.key"));
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 1);
}

#[test]
fn an_authority_issues_later_certificates() {
    let directory = made();
    let authority = Authority::load(directory.path()).unwrap();
    let auditor =
        Subject { name: "auditor".to_owned(), roles: vec![Role::Client], site: None, names: Vec::new() };
    authority.issue(&auditor, InitOptions::default().validity).unwrap();
    assert!(matches!(authority.issue(&auditor, InitOptions::default().validity), Err(PkiError::Exists(_))));
    connect(directory.path(), "node-1", directory.path(), "auditor", SERVER_NAME).unwrap();
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let directory = made();
    let missing = Identity::load_from(directory.path(), "node-9").unwrap_err().to_string();
    assert!(missing.contains("node-9") && missing.contains("pki init"), "{missing}");
    std::fs::write(directory.path().join("client.pem"), "not a certificate").unwrap();
    let error = Identity::load_from(directory.path(), "client").unwrap_err().to_string();
    assert!(error.contains("client.pem") && error.contains("no certificate"), "{error}");
    let swapped = Identity::load(
        &directory.path().join("ca.pem"),
        &directory.path().join("node-1.pem"),
        &directory.path().join("admin.key"),
    );
    let error = swapped.unwrap().server_config(&[]).unwrap_err().to_string();
    assert!(error.contains("node-1.pem"), "{error}");
}

fn subject(name: &str, roles: &[Role], site: Option<u16>, names: &[&str]) -> Subject {
    Subject {
        name: name.to_owned(),
        roles: roles.to_vec(),
        site: site.map(SiteId),
        names: names.iter().map(|&name| name.to_owned()).collect(),
    }
}

#[test]
fn an_issued_certificate_says_what_was_asked() {
    let directory = made();
    let node = subject(
        "db-2",
        &[Role::Storage, Role::Link],
        Some(1),
        &["db-2.example.com", "192.0.2.2", "2001:db8::2"],
    );
    let files = pki::issue(directory.path(), &node, VALIDITY).unwrap();
    assert_eq!(files, [directory.path().join("db-2.pem"), directory.path().join("db-2.key")]);
    assert_eq!(files[1].metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let identity = Identity::load_from(directory.path(), "db-2").unwrap();
    let says = identity.description().unwrap();
    assert_eq!(says.roles, BTreeSet::from([Role::Storage, Role::Link]));
    assert_eq!((says.site, says.names), (Some(SiteId(1)), node.names.clone()));
    let left = says.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(left <= VALIDITY && left > VALIDITY - Duration::from_secs(60), "{left:?}");
    // The name that tools and nodes ask for is in it too.
    connect(directory.path(), "db-2", directory.path(), "client", SERVER_NAME).unwrap();
    connect(directory.path(), "db-2", directory.path(), "client", "db-2.example.com").unwrap();
    assert!(connect(directory.path(), "db-2", directory.path(), "client", "localhost").is_err());
    assert!(matches!(pki::issue(directory.path(), &node, VALIDITY), Err(PkiError::Exists(_))));
}

#[test]
fn a_key_alone_is_not_overwritten_either() {
    let directory = made();
    std::fs::write(directory.path().join("bob.key"), "precious").unwrap();
    let bob = subject("bob", &[Role::Client], None, &[]);
    assert!(matches!(pki::issue(directory.path(), &bob, VALIDITY), Err(PkiError::Exists(_))));
    assert_eq!(std::fs::read(directory.path().join("bob.key")).unwrap(), b"precious");
    assert!(!directory.path().join("bob.pem").exists());
}

#[test]
fn a_node_needs_a_certificate_of_its_site_and_roles() {
    let directory = made();
    let keeper = subject("keeper", &[Role::Storage], Some(1), &[]);
    pki::issue(directory.path(), &keeper, VALIDITY).unwrap();
    let check = |name, site, roles: &[Role]| {
        let identity = Identity::load_from(directory.path(), name).unwrap();
        identity.check_node(SiteId(site), &roles.iter().copied().collect()).map_err(|error| error.to_string())
    };
    check("keeper", 1, &[Role::Storage]).unwrap();
    check("node-1", 1, &[Role::Storage, Role::Metadata, Role::Link]).unwrap();
    for (name, site, roles, words) in [
        ("keeper", 1, &[Role::Storage, Role::Link][..], ["keeper.pem", "the roles storage,", "has link too"]),
        ("keeper", 2, &[Role::Storage], ["keeper.pem", "a node of site 1", "one of site 2"]),
        ("client", 1, &[Role::Storage], ["client.pem", "a node of no site", "one of site 1"]),
    ] {
        let error = check(name, site, roles).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)) && error.contains("pki issue"), "{error}");
    }
}

#[test]
fn what_peers_would_refuse_is_found_before_they_do() {
    let (ours, theirs) = (made(), made());
    let load = |name| Identity::load_from(ours.path(), name).unwrap();
    let now = SystemTime::now();
    load("node-1").check_trusted(now).unwrap();
    let refused = |identity: &Identity, at, words: [&str; 2]| {
        let error = identity.check_trusted(at).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "no {words:?} in {error}");
    };
    refused(
        &load("node-1"),
        now + VALIDITY + Duration::from_secs(60),
        ["node-1.pem: it expired on", "pki issue"],
    );
    refused(&load("node-1"), now - Duration::from_secs(2 * 86_400), ["and not yet", "clock"]);
    refused(&load("client"), now, ["client.pem: it is no node's", "--site"]);
    let file = |name| theirs.path().join(name);
    let stranger =
        Identity::load(&ours.path().join("ca.pem"), &file("node-1.pem"), &file("node-1.key")).unwrap();
    refused(&stranger, now, ["did not issue it", "same"]);
}

#[test]
fn a_peer_is_known_by_any_of_its_names() {
    let directory = made();
    let node = subject("west", &[Role::Link], Some(2), &["west.example.com", "192.0.2.7"]);
    pki::issue(directory.path(), &node, VALIDITY).unwrap();
    let pem = std::fs::read(directory.path().join("west.pem")).unwrap();
    let certificate = CertificateDer::from_pem_slice(&pem).unwrap();
    let require = |names: &[&str]| {
        tls::require_name(&certificate, &names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
    };
    require(&[]).unwrap();
    require(&["east.example.com", "WEST.example.com"]).unwrap();
    require(&["192.0.2.7"]).unwrap();
    for wrong in ["example.com", "a.west.example.com", "192.0.2.8", "::1", ""] {
        let reason = require(&[wrong]).unwrap_err();
        assert!(reason.contains("for the names west.example.com, 192.0.2.7, and this takes"), "{reason}");
    }
}

/// TLS over TCP, as the link's TCP transport uses it: says hello one way, and the client's roles the other.
fn connect(
    node_pki: &Path,
    node: &str,
    client_pki: &Path,
    client: &str,
    name: &'static str,
) -> Result<String, String> {
    let server =
        Arc::new(Identity::load_from(node_pki, node).unwrap().server_config(&[LINK_PROTOCOL]).unwrap());
    let client =
        Arc::new(Identity::load_from(client_pki, client).unwrap().client_config(&[LINK_PROTOCOL]).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = thread::spawn(move || -> Result<(), String> {
        let connection = ServerConnection::new(server).map_err(|error| error.to_string())?;
        let mut stream = StreamOwned::new(connection, listener.accept().unwrap().0);
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).map_err(|error| error.to_string())?;
        let roles =
            tls::require_role(&stream.conn.peer_certificates().unwrap()[0], &[Role::Link, Role::Client])?;
        write!(stream, "{roles:?}").map_err(|error| error.to_string())
    });
    let dialled = (|| {
        let connection = ClientConnection::new(client, name.try_into().unwrap())?;
        let mut stream = StreamOwned::new(connection, TcpStream::connect(address)?);
        stream.write_all(b"hello")?;
        let mut answer = String::new();
        // The server's thread drops the connection without a TLS goodbye.
        let _ = stream.read_to_string(&mut answer);
        Ok::<_, Box<dyn std::error::Error>>(answer)
    })();
    serving.join().unwrap()?;
    dialled.map_err(|error| error.to_string())
}

#[test]
fn tls_checks_both_ends() {
    let (ours, theirs) = (made(), made());
    let (ours, theirs) = (ours.path(), theirs.path());
    assert_eq!(connect(ours, "node-1", ours, "node-2", SERVER_NAME).unwrap(), "{Link, Metadata, Storage}");
    assert_eq!(connect(ours, "node-1", ours, "client", "localhost").unwrap(), "{Client}");
    assert!(connect(ours, "node-1", ours, "node-2", "elsewhere").is_err());
    assert!(connect(ours, "node-1", theirs, "node-2", SERVER_NAME).is_err());
    // A client's certificate is no server's, even with the key.
    assert!(connect(ours, "client", ours, "node-2", SERVER_NAME).is_err());
    let error = connect(ours, "node-1", ours, "admin", SERVER_NAME).unwrap_err();
    assert!(error.contains("issued for the role admin") && error.contains("link or client"), "{error}");
}
