//! Who may ask what: every role of a certificate against every question, over the real API.

#[path = "../../gate/tests/memory/mod.rs"]
mod memory;

use std::time::Duration;

use memory::MemorySite;
use parhelion_client::{AppendOptions, Client, ClientConfig, Identity};
use parhelion_gate::pki::{self, Authority, InitOptions, Subject};
use parhelion_gate::{Api, ApiConfig, CreateRequest};
use parhelion_types::{Degrade, Durability, Error, ErrorKind, LogAddress, LogId, RequestId, Role};

/// Who asks, of those that are let in.
const CLIENTS: [Role; 2] = [Role::Client, Role::Admin];
const ADMINS: [Role; 1] = [Role::Admin];
const NOBODY: [Role; 0] = [];

/// Asks every question there is; each with the roles that may ask it, and what became of it.
async fn ask_all(client: &Client) -> Vec<(&'static str, &'static [Role], Result<(), Error>)> {
    let (log, at) = (LogId(1), LogAddress::new(0, 64));
    let local = AppendOptions { durability: Durability::Local, ..AppendOptions::default() };
    let create =
        || CreateRequest { name: "orders".to_owned(), degrade: Degrade::Block, request: RequestId(1) };
    let done = |_| ();
    vec![
        ("create", &CLIENTS, client.create_as(create()).await.map(done)),
        ("append", &CLIENTS, client.append(log, "order", local).await.map(drop)),
        ("read", &CLIENTS, client.read(log, at).await.map(drop)),
        ("list", &CLIENTS, client.list().await.map(drop)),
        ("stat", &CLIENTS, client.stat(log).await.map(drop)),
        ("scan", &CLIENTS, client.scan(log, LogAddress::default(), 9).await.map(drop)),
        ("status", &CLIENTS, client.status().await.map(drop)),
        ("free", &CLIENTS, client.free(log, at).await),
        ("promote", &ADMINS, client.promote(false).await.map(drop)),
        ("digest", &ADMINS, client.digest(log, at).await.map(drop)),
        ("change code", &ADMINS, client.change_code("reed-solomon", "r=8 c=3").await.map(drop)),
        ("place", &NOBODY, client.place(log, create()).await.map(done)),
    ]
}

#[tokio::test]
async fn every_role_may_ask_what_it_is_for() {
    let pki = tempfile::tempdir().unwrap();
    pki::init(pki.path(), &InitOptions::default()).unwrap();
    let authority = Authority::load(pki.path()).unwrap();
    let mut certificates: Vec<(&str, Vec<Role>)> =
        Role::ALL.iter().map(|role| (role.name(), vec![*role])).collect();
    certificates.push(("client and admin", CLIENTS.to_vec()));
    certificates.push(("client and storage", vec![Role::Client, Role::Storage]));
    certificates.push(("nothing", Vec::new()));

    for (n, (what, roles)) in certificates.into_iter().enumerate() {
        // A site for each, so that each finds the same.
        let identity = Identity::load_from(pki.path(), "node-1").unwrap();
        let config = ApiConfig::new("127.0.0.1:0".parse().unwrap());
        let api = Api::start(config, &identity, MemorySite::new()).unwrap();
        let name = format!("subject-{n}");
        let subject = Subject { name: name.clone(), roles: roles.clone(), site: None, names: Vec::new() };
        authority.issue(&subject, Duration::from_secs(3600)).unwrap();
        let identity = Identity::load_from(pki.path(), &name).unwrap();
        let connected = Client::connect(ClientConfig::new(api.local_address().unwrap(), identity)).await;
        if !roles.iter().any(|role| CLIENTS.contains(role)) {
            let error = connected.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Forbidden, "{what}: {error}");
            let has = roles.first().map_or("no role".to_owned(), |role| format!("the role {role}"));
            for word in [has.as_str(), "takes client or admin", "use one that was issued for it"] {
                assert!(error.message().contains(word), "{what}: no {word:?} in {error}");
            }
            continue;
        }
        for (question, may, answer) in ask_all(&connected.expect(what)).await {
            if may.iter().any(|role| roles.contains(role)) {
                answer.unwrap_or_else(|error| panic!("{what} may {question}: {error}"));
                continue;
            }
            let error = answer.expect_err(question);
            assert_eq!(error.kind(), ErrorKind::Forbidden, "{what}: {question}: {error}");
            assert!(error.message().starts_with(question), "{what}: {error}");
            let remedy = if may.is_empty() { "create the log instead" } else { "use an admin's certificate" };
            assert!(error.message().contains(remedy), "{what}: {error}");
        }
    }
}
