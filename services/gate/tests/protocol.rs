//! The API as a hostile or broken client sees it: raw QUIC, raw bytes.

mod memory;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use memory::MemorySite;
use parhelion_gate::pki::{self, InitOptions};
use parhelion_gate::quic::{self, CLOSE_PROTOCOL, CLOSE_REFUSED};
use parhelion_gate::stream::Frames;
use parhelion_gate::tls::{CLIENT_PROTOCOL, SERVER_NAME};
use parhelion_gate::{
    Answer, Api, ApiConfig, AppendRequest, Backend, Budget, CreateRequest, Identity, Question,
};
use parhelion_types::limits::{APPEND_BYTES_MAX, WAITING_APPEND_BYTES};
use parhelion_types::{Degrade, Durability, Error, ErrorKind, LogId, RequestId, Risk, SiteId, TraceContext};
use parhelion_wire::client::GiveUpV1;
use parhelion_wire::{PAYLOAD_BYTES_MAX, frame};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, SendStream};

struct Site {
    site: Arc<MemorySite>,
    pki: tempfile::TempDir,
    in_flight: Budget,
    api: Api,
}

struct Raw {
    connection: Connection,
    send: SendStream,
    frames: Frames,
    _endpoint: Endpoint,
}

fn start() -> Site {
    start_with(|_| {})
}

fn start_with(change: impl FnOnce(&mut ApiConfig)) -> Site {
    let pki = tempfile::tempdir().unwrap();
    pki::init(pki.path(), &InitOptions::default()).unwrap();
    let site = MemorySite::new();
    let mut config = ApiConfig::new("127.0.0.1:0".parse().unwrap());
    change(&mut config);
    let in_flight = config.in_flight.clone();
    let api = Api::start(config, &Identity::load_from(pki.path(), "node-1").unwrap(), site.clone()).unwrap();
    Site { site, pki, in_flight, api }
}

async fn connect(site: &Site, name: &str) -> Result<Raw, ConnectionError> {
    let identity = Identity::load_from(site.pki.path(), name).unwrap();
    let mut config = ClientConfig::new(identity.quic_client(CLIENT_PROTOCOL).unwrap());
    config.transport_config(Arc::new(quic::transport(Duration::from_secs(5), None).unwrap()));
    connect_with(site.api.local_address().unwrap(), config).await
}

async fn connect_with(address: SocketAddr, config: ClientConfig) -> Result<Raw, ConnectionError> {
    let endpoint = quic::endpoint("127.0.0.1:0".parse().unwrap(), None, None).unwrap();
    let connection = endpoint.connect_with(config, address, SERVER_NAME).unwrap().await?;
    let (send, receive) = connection.open_bi().await?;
    Ok(Raw { connection, send, frames: Frames::new(receive), _endpoint: endpoint })
}

impl Raw {
    async fn ask(&mut self, question: &Question, correlation: u64) {
        let (head, payload) = question.to_frame(correlation).unwrap();
        self.send.write_all_chunks(&mut [head, payload]).await.unwrap();
    }

    async fn answer(&mut self) -> (u64, Result<Answer, Error>) {
        let envelope = self.frames.envelope().await.unwrap().expect("an answer");
        let (body, payload) = self.frames.rest(&envelope).await.unwrap();
        (envelope.correlation, Answer::parse(&envelope, body, payload))
    }
}

fn create(name: &str) -> Question {
    Question::Create(CreateRequest {
        name: name.to_owned(),
        degrade: Degrade::Block,
        request: RequestId::NONE,
    })
}

fn append(payload: Bytes, durability: Durability) -> Question {
    Question::Append(AppendRequest {
        log: LogId(1),
        payload,
        durability,
        max_risk: Risk::CERTAIN,
        deadline: None,
        request: RequestId::NONE,
        explain: false,
        trace: TraceContext::default(),
    })
}

#[tokio::test]
async fn answers_come_when_they_are_ready() {
    let site = start();
    let mut client = connect(&site, "client").await.unwrap();
    client.ask(&create("orders"), 1).await;
    assert_eq!(client.answer().await, (1, Ok(Answer::Created(LogId(1)))));
    site.site.set_mirror(false);
    client.ask(&append(Bytes::from_static(b"slow"), Durability::Remote), 2).await;
    client.ask(&append(Bytes::from_static(b"fast"), Durability::Local), 3).await;
    assert_eq!(client.answer().await.0, 3);
    site.site.set_mirror(true);
    assert_eq!(client.answer().await.0, 2);
}

#[tokio::test]
async fn bytes_in_flight_stop_the_reading() {
    const APPEND: usize = 1 << 20;
    let site = start_with(|config| config.in_flight = Budget::new(4 * APPEND as u64));
    let mut client = connect(&site, "client").await.unwrap();
    client.ask(&create("orders"), 1).await;
    client.answer().await.1.unwrap();
    site.site.set_mirror(false);
    for correlation in 0..8 {
        client.ask(&append(vec![7; APPEND].into(), Durability::Remote), correlation).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(site.site.appends(LogId(1)) < 4, "{} appends were let in", site.site.appends(LogId(1)));
    // Another client can still read, and ask how the node is.
    let mut other = connect(&site, "client").await.unwrap();
    other.ask(&Question::Status, 1).await;
    other.answer().await.1.unwrap();
    site.site.set_mirror(true);
    for _ in 0..8 {
        client.answer().await.1.unwrap();
    }
    assert_eq!(site.site.appends(LogId(1)), 8);
    assert_eq!(site.in_flight.held_bytes(), 0);
}

#[tokio::test]
async fn a_connection_at_its_own_bound_holds_nothing_that_others_need() {
    const LARGE: usize = 3 << 20;
    let site = start_with(|config| {
        config.in_flight = Budget::new(8 << 20);
        config.questions_max = 2000;
    });
    let mut client = connect(&site, "client").await.unwrap();
    client.ask(&create("orders"), 1).await;
    client.answer().await.1.unwrap();
    site.site.set_mirror(false);
    // 64 KiB are kept free for each of these answers, so they take all 64 MiB that the connection may have.
    let mut full = connect(&site, "client").await.unwrap();
    let count = (64 << 20) / (64 << 10);
    for correlation in 0..count as u64 {
        full.ask(&append(Bytes::from_static(b"x"), Durability::Remote), correlation).await;
    }
    while site.site.appends(LogId(1)) < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let before = site.in_flight.held_bytes();
    full.ask(&append(vec![7; LARGE].into(), Durability::Local), 5000).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(site.in_flight.held_bytes(), before);
    client.ask(&append(vec![7; LARGE].into(), Durability::Local), 2).await;
    let answer = tokio::time::timeout(Duration::from_secs(5), client.answer()).await;
    answer.expect("another client is served").1.unwrap();
    site.site.set_mirror(true);
    for _ in 0..=count {
        full.answer().await.1.unwrap();
    }
    assert_eq!(site.in_flight.held_bytes(), 0);
}

/// Says that nobody waits any more for these appends.
async fn give_up(send: &mut SendStream, correlations: impl IntoIterator<Item = u64>) {
    for correlation in correlations {
        send.write_all(&frame(&GiveUpV1 {}, &[], correlation).unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_given_up_holds_nothing() {
    const QUESTIONS: u64 = 8;
    let site = start_with(|config| config.questions_max = QUESTIONS as usize);
    let mut client = connect(&site, "client").await.unwrap();
    client.ask(&create("orders"), 1).await;
    client.answer().await.1.unwrap();
    site.site.set_mirror(false);
    // Half of them are behind the limit, and are not read yet when they are given up.
    for correlation in 10..10 + 2 * QUESTIONS {
        client.ask(&append(vec![7; 1000].into(), Durability::Remote), correlation).await;
    }
    while site.site.appends(LogId(1)) < QUESTIONS as usize {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    client.ask(&append(Bytes::from_static(b"local"), Durability::Local), 99).await;
    let (mut aside, _answers) = client.connection.open_bi().await.unwrap();
    // What is waited for is not ended with the others, and what was answered long ago hurts nobody.
    give_up(&mut aside, (11..10 + 2 * QUESTIONS).rev().chain([1, 1])).await;
    assert_eq!(client.answer().await.0, 99);
    assert!(site.in_flight.held_bytes() < 2 * (1000 + WAITING_APPEND_BYTES), "one append waits");
    site.site.set_mirror(true);
    assert_eq!(client.answer().await.0, 10);
    assert_eq!(site.site.asked.load(Ordering::SeqCst), QUESTIONS as usize + 1, "nobody asked for the others");
    assert_eq!(site.in_flight.held_bytes(), 0);
}

#[tokio::test]
async fn a_node_may_have_more_questions_than_a_client() {
    let pki = tempfile::tempdir().unwrap();
    pki::init(pki.path(), &InitOptions::default()).unwrap();
    let inner = MemorySite::new();
    let config = ApiConfig { questions_max: 4, ..ApiConfig::new("127.0.0.1:0".parse().unwrap()) };
    let in_flight = config.in_flight.clone();
    let identity = Identity::load_from(pki.path(), "node-1").unwrap();
    let api = Api::start_in_site(config, &identity, MemorySite::new(), SiteId(1), inner.clone()).unwrap();
    let site = Site { site: inner, pki, in_flight, api };
    let mut node = connect(&site, "node-1").await.unwrap();
    node.ask(&create("orders"), 1).await;
    node.answer().await.1.unwrap();
    site.site.set_mirror(false);
    // More than the reserve for answers would let through as well.
    for correlation in 10..1510 {
        node.ask(&append(Bytes::from_static(b"x"), Durability::Remote), correlation).await;
    }
    node.ask(&append(Bytes::from_static(b"x"), Durability::Local), 2).await;
    assert_eq!(node.answer().await.0, 2);
    assert_eq!(site.site.appends(LogId(1)), 1501);
}

#[tokio::test]
async fn garbage_ends_the_connection_with_a_reason_and_nothing_else() {
    let site = start();
    for garbage in [vec![0xff; 100], b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), vec![0; 32]] {
        let mut client = connect(&site, "client").await.unwrap();
        client.send.write_all(&garbage).await.unwrap();
        let ConnectionError::ApplicationClosed(close) = client.connection.closed().await else {
            panic!("not closed by the node")
        };
        assert_eq!(close.error_code, CLOSE_PROTOCOL);
        assert!(String::from_utf8_lossy(&close.reason).contains("not a Parhelion frame"), "{close}");
    }
    let mut client = connect(&site, "client").await.unwrap();
    client.ask(&Question::Status, 1).await;
    client.answer().await.1.unwrap();
}

#[tokio::test]
async fn broken_frames_are_refused_and_the_node_lives() {
    let site = start();
    let (head, payload) = append(Bytes::from_static(b"payload"), Durability::Local).to_frame(77).unwrap();
    let frame = [head, payload].concat();
    // Every byte of a good frame, broken once; then frames that end early.
    for at in 0..frame.len() {
        let mut client = connect(&site, "client").await.unwrap();
        let mut broken = frame.clone();
        broken[at] ^= 0x80;
        client.send.write_all(&broken).await.unwrap();
        client.send.finish().unwrap();
        // Refused, answered as an error, or closed: what matters is that the node goes on.
        if let Ok(Some(envelope)) = client.frames.envelope().await {
            let (body, payload) = client.frames.rest(&envelope).await.unwrap();
            assert!(Answer::parse(&envelope, body, payload).is_err(), "byte {at} went unnoticed");
        }
    }
    let mut client = connect(&site, "client").await.unwrap();
    client.send.write_all(&frame[..20]).await.unwrap();
    client.send.finish().unwrap();
    client.connection.closed().await;
    let mut client = connect(&site, "client").await.unwrap();
    client.ask(&create("orders"), 1).await;
    client.answer().await.1.unwrap();
    assert_eq!(site.in_flight.held_bytes(), 0);
}

#[tokio::test]
async fn a_frame_over_the_limit_is_answered_before_the_connection_ends() {
    let site = start();
    let mut client = connect(&site, "client").await.unwrap();
    // An append that is too long by a little fits a frame, and is answered as any other mistake.
    client.ask(&append(vec![0; APPEND_BYTES_MAX + 1].into(), Durability::Local), 8).await;
    let (correlation, answer) = client.answer().await;
    let error = answer.unwrap_err();
    assert_eq!((correlation, error.kind()), (8, ErrorKind::Invalid));
    assert!(error.message().contains("split it"), "{error}");

    let (head, _) = append(Bytes::from_static(b"x"), Durability::Local).to_frame(9).unwrap();
    let mut head = head.to_vec();
    head[12..16].copy_from_slice(&(PAYLOAD_BYTES_MAX as u32 + 1).to_le_bytes());
    client.send.write_all(&head).await.unwrap();
    let (correlation, answer) = client.answer().await;
    let error = answer.unwrap_err();
    assert_eq!((correlation, error.kind()), (9, ErrorKind::Invalid));
    assert!(error.message().contains(&format!("over the limit of {PAYLOAD_BYTES_MAX}")), "{error}");
    let ConnectionError::ApplicationClosed(close) = client.connection.closed().await else {
        panic!("not closed")
    };
    assert_eq!(close.error_code, CLOSE_PROTOCOL);
}

#[tokio::test]
async fn a_panic_costs_one_answer() {
    let site = start();
    let mut client = connect(&site, "client").await.unwrap();
    client.ask(&create(memory::PANIC), 1).await;
    let error = client.answer().await.1.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    client.ask(&create("orders"), 2).await;
    assert_eq!(client.answer().await, (2, Ok(Answer::Created(LogId(1)))));
}

#[tokio::test]
async fn roles_decide() {
    let site = start();
    let mut client = connect(&site, "client").await.unwrap();
    for (correlation, question) in
        [Question::Promote { dry_run: true }, Question::Digest { log: LogId(1), until: Default::default() }]
            .iter()
            .enumerate()
    {
        client.ask(question, correlation as u64).await;
        let error = client.answer().await.1.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden);
        assert!(error.message().contains(question.name()) && error.message().contains("admin"), "{error}");
    }
    let mut admin = connect(&site, "admin").await.unwrap();
    admin.ask(&create("orders"), 1).await;
    admin.answer().await.1.unwrap();
    admin.ask(&Question::Promote { dry_run: true }, 2).await;
    admin.answer().await.1.unwrap();

    // A node is no client.
    let node = connect(&site, "node-2").await.unwrap();
    let ConnectionError::ApplicationClosed(close) = node.connection.closed().await else {
        panic!("not closed")
    };
    assert_eq!(close.error_code, CLOSE_REFUSED);
    let reason = String::from_utf8_lossy(&close.reason).into_owned();
    assert!(
        reason.contains("role link, metadata, storage") && reason.contains("client or admin"),
        "{reason}"
    );
}

#[tokio::test]
async fn nodes_of_the_site_have_a_door_of_their_own() {
    let pki = tempfile::tempdir().unwrap();
    pki::init(pki.path(), &InitOptions::default()).unwrap();
    let (site, inner) = (MemorySite::new(), MemorySite::new());
    let config = ApiConfig::new("127.0.0.1:0".parse().unwrap());
    let in_flight = config.in_flight.clone();
    let identity = Identity::load_from(pki.path(), "node-1").unwrap();
    let api = Api::start_in_site(config, &identity, site.clone(), SiteId(1), inner.clone()).unwrap();
    let site = Site { site, pki, in_flight, api };

    let mut node = connect(&site, "node-1").await.unwrap();
    node.ask(&create("inner"), 1).await;
    node.answer().await.1.unwrap();
    node.ask(&Question::Promote { dry_run: true }, 2).await;
    node.answer().await.1.unwrap();
    let mut client = connect(&site, "client").await.unwrap();
    client.ask(&Question::List { from: LogId(0) }, 1).await;
    let Ok(Answer::Logs(logs)) = client.answer().await.1 else { panic!("no logs") };
    assert_eq!(logs, [], "the log was created behind the other door");

    let place = Question::Place {
        log: LogId(7),
        create: CreateRequest { name: "n".to_owned(), degrade: Degrade::Block, request: RequestId(1) },
    };
    let mut admin = connect(&site, "admin").await.unwrap();
    for caller in [&mut client, &mut admin] {
        caller.ask(&place, 2).await;
        let error = caller.answer().await.1.unwrap_err();
        assert!(error.message().contains("place") && error.message().contains("nodes"), "{error}");
    }
    node.ask(&place, 3).await;
    let error = node.answer().await.1.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "the site in memory places nothing: {error}");

    // The other site's nodes may feed a mirror, and no more.
    let other = connect(&site, "node-2").await.unwrap();
    let ConnectionError::ApplicationClosed(close) = other.connection.closed().await else {
        panic!("not closed")
    };
    let reason = String::from_utf8_lossy(&close.reason).into_owned();
    assert!(reason.contains("site 2") && reason.contains("site 1"), "{reason}");
}

#[tokio::test]
async fn without_a_certificate_nobody_is_served() {
    let site = start();
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(site.pki.path().join("ca.pem")).unwrap();
    let certificates =
        <rustls_pki_types::CertificateDer as rustls_pki_types::pem::PemObject>::pem_slice_iter(&pem);
    roots.add_parsable_certificates(certificates.map(Result::unwrap));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![CLIENT_PROTOCOL.to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let error =
        match connect_with(site.api.local_address().unwrap(), ClientConfig::new(Arc::new(crypto))).await {
            Ok(raw) => raw.connection.closed().await,
            Err(error) => error,
        };
    assert!(matches!(error, ConnectionError::ConnectionClosed(_)), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn stopping_answers_what_was_asked() {
    let Site { site, pki: _pki, api, .. } = {
        let site = start();
        let mut client = connect(&site, "client").await.unwrap();
        client.ask(&create("orders"), 1).await;
        client.answer().await.1.unwrap();
        site.site.set_mirror(false);
        client.ask(&append(Bytes::from_static(b"late"), Durability::Remote), 2).await;
        while site.site.appends(LogId(1)) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let answer = tokio::spawn(async move { (client.answer().await, client) });
        let Site { site, pki, in_flight, api } = site;
        let stopping = tokio::spawn(api.stop(Duration::from_secs(10)));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!stopping.is_finished());
        site.set_mirror(true);
        let ((correlation, result), _client) = answer.await.unwrap();
        assert_eq!(correlation, 2);
        result.unwrap();
        stopping.await.unwrap();
        let config = ApiConfig::new("127.0.0.1:0".parse().unwrap());
        let api =
            Api::start(config, &Identity::load_from(pki.path(), "node-1").unwrap(), site.clone()).unwrap();
        Site { site, pki, in_flight, api }
    };
    assert_eq!(site.stat(LogId(1)).await.unwrap().records, 2);
    drop(api);
}
