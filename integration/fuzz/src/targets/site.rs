//! The streams between the nodes of a site, and the routing behind them.
//!
//! Promises: no bytes panic or make a reader hold more than the largest frame takes; what is read is written again as
//! messages that are read as the same; a log is passed on for one storage node at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use parhelion_gateway::fuzzing::{Ear, End, Input};
use parhelion_gateway::{MirrorRouting, Place, PortId, PrimaryRouting};
use parhelion_link_driver::{CodeLookup, LinkCommand, LinkEvent, MirrorEvent};
use parhelion_plugin::{Code, Parameters};
use parhelion_plugin_host::Catalogue;
use parhelion_types::{LogId, NodeId, SiteId};
use parhelion_wire::frame;
use parhelion_wire::link::{LogMarkV1, LogTailV1};
use parhelion_wire::site::{
    SiteAnnouncedV1, SiteCutV1, SiteHelloV1, SiteJoinV1, SiteLeaveV1, SiteProgressV1, SiteRewindV1,
    SiteSendV1, SiteWelcomeV1,
};

use crate::frames::Frames;

const ENDS: [End; 5] =
    [End::Listener, End::PrimaryLink, End::PrimaryStorage, End::MirrorLink, End::MirrorStorage];
const NODES: [NodeId; 2] = [NodeId(1), NodeId(2)];

pub(super) fn run(input: &[u8]) {
    raw(input);
    let mut site = Site::new();
    let mut ears = ENDS.map(|end| Ear::new(end, codes()));
    for (number, (envelope, body, payload)) in Frames::split(input).enumerate() {
        let bytes = [&envelope.to_bytes()[..], &body, &payload].concat();
        for (ear, end) in ears.iter_mut().zip(ENDS) {
            ear.push(&bytes);
            let Ok(heard) = ear.hear() else { continue };
            let Some(heard) = heard.expect("the frame is whole") else { continue };
            let text = format!("{heard:?}");
            for input in heard.inputs() {
                site.take(number % 2, input);
            }
            again(end, &bytes, &text);
        }
    }
}

/// The codes of a node.
fn codes() -> CodeLookup {
    let catalogue = Catalogue::built_in();
    Arc::new(move |name| catalogue.code(name.split('@').next().unwrap_or(name)).ok())
}

/// As the bytes are, cut anywhere.
fn raw(input: &[u8]) {
    let mut ear = Ear::new(End::PrimaryLink, codes());
    for chunk in input.chunks(37) {
        ear.push(chunk);
        while let Ok(Some(_)) = ear.hear() {}
        assert!(ear.held_bytes() <= Ear::HELD_BYTES_MAX + input.len(), "a reader holds {}", ear.held_bytes());
    }
}

/// What a lone frame says is written again as messages that say the same; an empty list may be no message.
fn again(end: End, bytes: &[u8], text: &str) {
    let mut ear = Ear::new(end, codes());
    ear.push(bytes);
    let Ok(Some(Some(heard))) = ear.hear() else { return };
    // The last of several parts: what it says now is not what the whole said.
    if format!("{heard:?}") != text {
        return;
    }
    let written = heard.write().expect("what was read is within the limits");
    let mut ear = Ear::new(end, codes());
    ear.push(&written);
    let mut said = Vec::new();
    while let Some(heard) = ear.hear().expect("it was written here") {
        said.extend(heard.map(|heard| format!("{heard:?}")));
    }
    match said.as_slice() {
        [] => assert!(text.contains("[]"), "{text} is not written"),
        // Sessions count from 1.
        [one] => assert!(one == text || text.ends_with("Some(0)))"), "{text} became {one}"),
        more => panic!("{text} became {more:?}"),
    }
}

/// Both kinds of routing, with two storage nodes each.
struct Site {
    primary: PrimaryRouting,
    mirror: MirrorRouting,
    primary_ports: [PortId; 2],
    mirror_ports: [PortId; 2],
    hello: u64,
    /// For whom commands about a log were passed on.
    owners: BTreeMap<LogId, PortId>,
}

impl Site {
    fn new() -> Self {
        let mut primary = PrimaryRouting::expecting(NODES);
        let mut mirror = MirrorRouting::new(NODES);
        let primary_ports =
            NODES.map(|node| primary.join(node, Place::Remote, &[]).expect("nobody is there").port);
        let mirror_ports = NODES.map(|node| mirror.join(node, Place::Remote).expect("it is expected").port);
        let hello = mirror.hello().expect("all are there").number;
        let mut site = Self { primary, mirror, primary_ports, mirror_ports, hello, owners: BTreeMap::new() };
        site.event(LinkEvent::Up {
            peer: SiteId(2),
            marks: Vec::new(),
            code: Code::new(codes()("none").expect("it is built in"), &Parameters::new())
                .expect("defaults fit"),
        });
        site
    }

    /// The storage node of that index is at the other end.
    fn take(&mut self, index: usize, input: Input) {
        match input {
            Input::Join(_, logs) => self.join(index, &logs),
            Input::Command(session, command) => {
                let port = self.primary_ports[index];
                match self.primary.command(port, session, command) {
                    Ok(Some(command)) => self.passed_on(port, &command),
                    Ok(None) => {}
                    Err(_) => self.join(index, &[]),
                }
            }
            Input::Event(event) => self.event(event),
            Input::MirrorEvent(event) => self.mirror_event(event),
            Input::Answer(number, answer) => {
                // Numbers other than the first few are of questions that were never asked.
                let number = if number < 4 { self.hello } else { number };
                if let Some(Ok(marks)) = self.mirror.answer(self.mirror_ports[index], number, answer) {
                    let mut logs: Vec<u32> = marks.iter().map(|mark| mark.log).collect();
                    logs.dedup();
                    assert_eq!(logs.len(), marks.len(), "a welcome names a log once");
                }
            }
            Input::Marks(marks) => {
                let count = marks.len();
                assert!(self.mirror.marks(self.mirror_ports[index], marks).len() <= count);
            }
            Input::Leave => {
                self.join(index, &[]);
                let node = NODES[index];
                self.mirror.leave(self.mirror_ports[index]);
                assert_eq!(self.mirror.missing(), [node]);
                assert!(self.mirror.hello().is_err(), "a session begins without {node}");
                self.mirror_ports[index] =
                    self.mirror.join(node, Place::Remote).expect("it is expected").port;
                self.hello = self.mirror.hello().expect("all are there").number;
            }
        }
    }

    /// The storage node comes again, with these logs if no other has them.
    fn join(&mut self, index: usize, logs: &[LogId]) {
        let old = self.primary_ports[index];
        self.primary.leave(old);
        self.owners.retain(|_, owner| *owner != old);
        let joined = self.primary.join(NODES[index], Place::Remote, logs);
        let joined = joined.or_else(|_| self.primary.join(NODES[index], Place::Remote, &[]));
        self.primary_ports[index] = joined.expect("no log is another's").port;
    }

    fn passed_on(&mut self, port: PortId, command: &LinkCommand) {
        let logs: Vec<LogId> = match command {
            LinkCommand::Announce { key, .. } | LinkCommand::Send { key, .. } => vec![key.log],
            LinkCommand::Rewind(tails) => tails.iter().map(|tail| LogId(tail.log)).collect(),
            _ => Vec::new(),
        };
        for log in logs {
            assert_eq!(*self.owners.entry(log).or_insert(port), port, "log {log} has two owners");
        }
    }

    fn event(&mut self, event: LinkEvent) {
        let split = self.primary.events(vec![event]);
        assert!(split.keys().all(|port| self.primary_ports.contains(port)), "a port that left is told");
        for (port, events) in &split {
            for event in events {
                let logs: Vec<LogId> = match event {
                    LinkEvent::Announced(keys) => keys.iter().map(|key| key.log).collect(),
                    LinkEvent::Coverage(changes) => changes.iter().map(|change| change.key.log).collect(),
                    LinkEvent::Mirrored(marks) => marks.iter().map(|mark| LogId(mark.log)).collect(),
                    _ => Vec::new(),
                };
                for log in logs {
                    assert!(
                        self.owners.get(&log).is_none_or(|owner| owner == port),
                        "log {log} is another's"
                    );
                }
            }
        }
    }

    fn mirror_event(&mut self, event: MirrorEvent) {
        match event {
            MirrorEvent::Hello { .. } => self.hello = self.mirror.hello().expect("all are there").number,
            MirrorEvent::Announced(announcements) => {
                let count = announcements.len();
                let split = self.mirror.announced(announcements);
                assert!(split.values().map(Vec::len).sum::<usize>() <= count);
            }
            MirrorEvent::Records(records) => {
                let count = records.len();
                let (split, malformed) = self.mirror.records(records);
                assert!(split.values().map(Vec::len).sum::<usize>() + malformed <= count);
            }
            MirrorEvent::Rewind(tails) => {
                let count = tails.len();
                assert!(self.mirror.rewind(tails).values().map(Vec::len).sum::<usize>() <= count);
            }
            MirrorEvent::Down { .. } => self.mirror.end(),
        }
    }
}

pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mark = LogMarkV1 { log: 1, epoch: 1, records: 2, segment: 0, offset: 64 };
    let tail = LogTailV1 { log: 1, epoch: 1, records: 2, segment: 0, offset: 64, chain: 5 };
    let join = bytes(frame(&SiteJoinV1 { site: 1, node: 1, duty: 0, logs: vec![1, 3] }, b"", 0));
    let send = SiteSendV1 { session: 1, log: 1, number: 2, is_awaited: true };
    let send = [bytes(frame(&send, b"record", 0)), b"record".to_vec()].concat();
    let announced = SiteAnnouncedV1 { keys: vec![parhelion_wire::site::RecordKeyV1 { log: 1, number: 2 }] };
    let announced = bytes(frame(&announced, b"", 0));
    let rewind = bytes(frame(&SiteRewindV1 { session: 1, logs: vec![tail] }, b"", 0));
    let leave = bytes(frame(&SiteLeaveV1 {}, b"", 0));
    let hello = bytes(frame(&SiteHelloV1 { site: 1, session: 7 }, b"", 1));
    let welcome = bytes(frame(&SiteWelcomeV1 { marks: vec![mark], more: false }, b"", 1));
    let nothing = bytes(frame(&SiteWelcomeV1 { marks: Vec::new(), more: false }, b"", 1));
    let progress = bytes(frame(&SiteProgressV1 { marks: vec![mark], settled: 9 }, b"", 0));
    let cut = bytes(frame(&SiteCutV1 { logs: vec![tail] }, b"", 0));
    let primary = [join.clone(), send.clone(), announced.clone(), rewind.clone(), leave.clone()].concat();
    let mirror = [hello.clone(), welcome.clone(), nothing, progress.clone(), cut.clone(), leave].concat();
    vec![
        ("join", join),
        ("send", send),
        ("announced", announced),
        ("rewind", rewind),
        ("hello", hello),
        ("welcome", welcome),
        ("progress", progress),
        ("cut", cut),
        ("primary", primary),
        ("mirror", mirror),
    ]
}

fn bytes(framed: Result<bytes::Bytes, parhelion_wire::WireError>) -> Vec<u8> {
    framed.expect("it is within the limits").to_vec()
}
