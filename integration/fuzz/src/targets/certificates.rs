//! Certificates: PEM files that an operator hands to a node, and certificates that a peer shows.
//!
//! Promises: no file and no certificate panics; a file that is refused is named; roles come from certificates that
//! can be read, and from nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parhelion_gate::pki::{self, InitOptions};
use parhelion_gate::tls::{AUTHORITY_FILE, CLIENT_PROTOCOL, Identity, peer_roles, require_role};
use parhelion_types::{Role, SiteId};
use tempfile::TempDir;

/// A directory with a real PKI, and a file that takes the input.
struct Bench {
    directory: TempDir,
    input: PathBuf,
}

static BENCH: OnceLock<Bench> = OnceLock::new();

fn bench() -> &'static Bench {
    BENCH.get_or_init(|| {
        let directory = TempDir::new().expect("a temporary directory");
        let options = InitOptions { sites: vec![SiteId(1)], ..InitOptions::default() };
        pki::init(directory.path(), &options).expect("an empty directory takes a PKI");
        let input = directory.path().join(format!("input-{}", std::process::id()));
        Bench { directory, input }
    })
}

pub(super) fn run(input: &[u8]) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    if choice % 4 == 0 {
        return shown(bytes);
    }
    let Bench { directory, input } = bench();
    // One thread at a time: every input is the same file.
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    fs::write(input, bytes).expect("a file in a temporary directory");
    let file = |name: &str| directory.path().join(name);
    let (authority, certificate, key) = (file(AUTHORITY_FILE), file("client.pem"), file("client.key"));
    let (authority, certificate, key): (&Path, &Path, &Path) = match choice % 4 {
        1 => (input, &certificate, &key),
        2 => (&authority, input, &key),
        _ => (&authority, &certificate, input),
    };
    match Identity::load(authority, certificate, key) {
        Ok(identity) => {
            let _ = (identity.roles(), identity.secret().len());
            for refused in
                [identity.server_config(&[CLIENT_PROTOCOL]).err(), identity.client_config(&[]).err()]
            {
                assert!(refused.is_none_or(|error| error.to_string().contains("pki issue")));
            }
            // Whatever it says, it says so without a panic, also of its time and its names.
            let _ = (identity.description(), identity.check_trusted(std::time::UNIX_EPOCH));
        }
        Err(error) => {
            let file = input.display().to_string();
            assert!(error.to_string().starts_with(&file), "{error} does not name {file}");
        }
    }
}

/// A certificate as a peer shows it: DER.
fn shown(der: &[u8]) {
    let der = der.to_vec().into();
    let roles = peer_roles(&der);
    match require_role(&der, &[Role::Link]) {
        Ok(granted) => assert!(granted == roles && roles.contains(&Role::Link)),
        Err(reason) => assert!(!roles.contains(&Role::Link) && reason.contains("link")),
    }
}

/// The seeds are files only: certificates have random keys and serial numbers, so none is made twice.
pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    Vec::new()
}
