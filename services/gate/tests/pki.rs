//! Certificates as `pki::init` makes them, and TLS between their owners.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use parhelion_gate::pki::{self, Authority, InitOptions, PkiError, Subject};
use parhelion_gate::tls::{self, Identity, LINK_PROTOCOL, SERVER_NAME};
use parhelion_types::Role;
use rustls::{ClientConnection, ServerConnection, StreamOwned};

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
