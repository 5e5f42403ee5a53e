//! Which storage node of a mirror site a log belongs to, and when a session may begin.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use parhelion_log::RecordHeader;
use parhelion_types::{Error, ErrorKind, LogId, NodeId};
use parhelion_wire::Announcement;
use parhelion_wire::link::{LogMarkV1, LogTailV1};

use crate::port::{Place, PortId, check_place};

/// The routing of a mirror site: what one driver receives is split by the owner of the log; the marks of all
/// storage nodes go to the one driver (SMFS section 4, "gateway").
///
/// Invariants:
///
/// - a session begins only when every expected node has said where its logs end, and ends when one leaves;
/// - an owner stays the same until the next session begins: it is the port whose marks list the log, or else
///   the node at the log's number modulo the count of expected nodes, which are sorted.
#[derive(Debug)]
pub struct MirrorRouting {
    expected: Vec<NodeId>,
    ports: BTreeMap<PortId, Port>,
    owners: BTreeMap<LogId, PortId>,
    next_port: u64,
    next_hello: u64,
    phase: Phase,
}

#[derive(Debug)]
struct Port {
    node: NodeId,
    place: Place,
    /// Whether it has said where its logs end, for the session that is up or begins.
    in_session: bool,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Asking {
        hello: u64,
        waiting: BTreeSet<PortId>,
        marks: BTreeMap<LogId, (PortId, LogMarkV1)>,
        /// From a node that was promoted and has no log to say it with.
        fenced: Option<Error>,
    },
    Up,
}

/// A port that joined.
#[derive(Debug, PartialEq, Eq)]
pub struct MirrorJoined {
    /// The port.
    pub port: PortId,
    /// The port of the same node that it replaces, and what follows from that port's leaving.
    pub replaced: Option<(PortId, Left)>,
}

/// What follows from a port's leaving.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing: no session is up.
    Nothing,
    /// The primary that waits for its welcome is refused.
    Refuse(Error),
    /// The session must end, for this reason.
    EndSession(String),
}

/// Who is asked where the logs end.
#[derive(Debug, PartialEq, Eq)]
pub struct Hello {
    /// Number of the question; answers to earlier ones are ignored.
    pub number: u64,
    /// Each of them must answer.
    pub ports: Vec<PortId>,
}

impl MirrorRouting {
    /// A routing among these nodes: all storage nodes of the site.
    #[must_use]
    pub fn new(expected: impl IntoIterator<Item = NodeId>) -> Self {
        let expected = expected.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        Self {
            expected,
            ports: BTreeMap::new(),
            owners: BTreeMap::new(),
            next_port: 0,
            next_hello: 0,
            phase: Phase::Idle,
        }
    }

    /// A storage node joins.
    ///
    /// # Errors
    /// It is not expected, or the same node is in another place.
    pub fn join(&mut self, node: NodeId, place: Place) -> Result<MirrorJoined, Error> {
        if self.expected.binary_search(&node).is_err() {
            return Err(Error::invalid(format!(
                "storage node {node} is not one of this site's ({}); add it to the link node's list of storage \
                 nodes, or correct the node's number",
                list(&self.expected)
            )));
        }
        let mut replaced = None;
        if let Some((&old, port)) = self.ports.iter().find(|(_, port)| port.node == node) {
            check_place(node, port.place, place)?;
            replaced = Some((old, self.leave(old)));
        }
        self.next_port += 1;
        let port = PortId(self.next_port);
        self.ports.insert(port, Port { node, place, in_session: false });
        Ok(MirrorJoined { port, replaced })
    }

    /// A storage node leaves.
    pub fn leave(&mut self, port: PortId) -> Left {
        // It stays the owner of its logs until the next session begins: by the rule alone, what still comes
        // for them would go to another node, and the log would be on two.
        let Some(Port { node, .. }) = self.ports.remove(&port) else { return Left::Nothing };
        let reason =
            format!("storage node {node} of the mirror site left; the session begins again when it is back");
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => Left::Nothing,
            Phase::Asking { .. } => Left::Refuse(Error::unavailable(reason)),
            Phase::Up => Left::EndSession(reason),
        }
    }

    /// The nodes that joined, in order.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.ports.values().map(|port| port.node).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Expected nodes that have not joined, in order.
    #[must_use]
    pub fn missing(&self) -> Vec<NodeId> {
        let here = self.nodes();
        self.expected.iter().copied().filter(|node| here.binary_search(node).is_err()).collect()
    }

    /// A primary asks for a session: whom to ask where the logs end.
    ///
    /// # Errors
    /// An expected node is missing: what the primary sends for its logs would have nowhere to go.
    pub fn hello(&mut self) -> Result<Hello, Error> {
        self.end();
        let missing = self.missing();
        if self.expected.is_empty() || !missing.is_empty() {
            return Err(Error::unavailable(if self.expected.is_empty() {
                "the mirror site's link node expects no storage nodes; list them in its settings".to_owned()
            } else {
                format!(
                    "of the mirror site's storage nodes, {} of {} have not joined its link node: {}; start them, or \
                     take them off the link node's list if their logs live elsewhere now",
                    missing.len(),
                    self.expected.len(),
                    list(&missing)
                )
            }));
        }
        self.owners.clear();
        self.next_hello += 1;
        let ports: Vec<PortId> = self.ports.keys().copied().collect();
        let waiting = ports.iter().copied().collect();
        self.phase = Phase::Asking { hello: self.next_hello, waiting, marks: BTreeMap::new(), fenced: None };
        Ok(Hello { number: self.next_hello, ports })
    }

    /// A port's answer. When it is the last one, or a refusal: the answer to the primary.
    pub fn answer(
        &mut self,
        port: PortId,
        number: u64,
        answer: Result<Vec<LogMarkV1>, Error>,
    ) -> Option<Result<Vec<LogMarkV1>, Error>> {
        let Phase::Asking { hello, waiting, marks, fenced } = &mut self.phase else { return None };
        let known = self.ports.get_mut(&port)?;
        if *hello != number || !waiting.remove(&port) {
            return None;
        }
        let mut merged = match answer {
            Ok(answer) => merge(marks, port, answer),
            Err(error) => {
                let message = format!("storage node {}: {}", known.node, error.message());
                let error = Error::new(error.kind(), message);
                match error.kind() {
                    // The old primary is fenced log by log, by the epochs in the others' marks; a refusal would
                    // keep these from it.
                    ErrorKind::Fenced => {
                        *fenced = Some(error);
                        Ok(())
                    }
                    _ => Err(Conflict::Refused(error)),
                }
            }
        };
        known.in_session = merged.is_ok();
        if waiting.is_empty()
            && merged.is_ok()
            && marks.is_empty()
            && let Some(error) = fenced.take()
        {
            merged = Err(Conflict::Refused(error));
        }
        match merged {
            Ok(()) if !waiting.is_empty() => None,
            Ok(()) => {
                let marks = std::mem::take(marks);
                self.phase = Phase::Up;
                self.owners = marks.iter().map(|(&log, &(owner, _))| (log, owner)).collect();
                Some(Ok(marks.into_values().map(|(_, mark)| mark).collect()))
            }
            Err(Conflict::Refused(error)) => {
                self.end();
                Some(Err(error))
            }
            Err(Conflict::TwoOwners { log, first, second }) => {
                let node = |port| self.ports.get(&port).map(|port| port.node).unwrap_or_default();
                let (first, second) = (node(first), node(second));
                self.end();
                Some(Err(Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "log {log} is on storage nodes {first} and {second} of the mirror site; a log has one \
                         storage node per site: stop one of them, and move its copy of the log away"
                    ),
                )))
            }
        }
    }

    /// The session ended, or did not begin.
    pub fn end(&mut self) {
        self.phase = Phase::Idle;
        for port in self.ports.values_mut() {
            port.in_session = false;
        }
    }

    /// Marks of a port that the driver is to be told: those of its own logs, in a session that it is part of.
    /// What it said before it answered the newest question is in that answer.
    pub fn marks(&mut self, port: PortId, mut marks: Vec<LogMarkV1>) -> Vec<LogMarkV1> {
        if !self.ports.get(&port).is_some_and(|port| port.in_session) {
            return Vec::new();
        }
        if matches!(self.phase, Phase::Up) {
            marks.retain(|mark| self.owner(LogId(mark.log)) == Some(port));
        }
        marks
    }

    /// Splits announcements by the owner of the log.
    pub fn announced(&mut self, announcements: Vec<Announcement>) -> BTreeMap<PortId, Vec<Announcement>> {
        self.split(announcements, |announcement| announcement.log)
    }

    /// Splits the ends to which logs are cut back.
    pub fn rewind(&mut self, tails: Vec<LogTailV1>) -> BTreeMap<PortId, Vec<LogTailV1>> {
        self.split(tails, |tail| LogId(tail.log))
    }

    /// Splits records by the log in their headers; how many were none, beside.
    pub fn records(&mut self, records: Vec<Bytes>) -> (BTreeMap<PortId, Vec<Bytes>>, usize) {
        let count = records.len();
        let records: Vec<(LogId, Bytes)> = records
            .into_iter()
            .filter_map(|record| RecordHeader::parse(&record).ok().map(|header| (header.log, record)))
            .collect();
        let malformed = count - records.len();
        let split = self.split(records, |(log, _)| *log);
        let split =
            split.into_iter().map(|(port, records)| (port, records.into_iter().map(|(_, r)| r).collect()));
        (split.collect(), malformed)
    }

    /// All ports: each is told of the beginning and the end of sessions.
    pub fn ports(&self) -> impl Iterator<Item = PortId> + '_ {
        self.ports.keys().copied()
    }

    fn split<T>(&mut self, items: Vec<T>, log: impl Fn(&T) -> LogId) -> BTreeMap<PortId, Vec<T>> {
        let mut split: BTreeMap<PortId, Vec<T>> = BTreeMap::new();
        for item in items {
            // A port that is not in session began anew since, and the session is about to end.
            if let Some(owner) = self.owner(log(&item))
                && self.ports.get(&owner).is_some_and(|port| port.in_session)
            {
                split.entry(owner).or_default().push(item);
            }
        }
        split
    }

    fn owner(&mut self, log: LogId) -> Option<PortId> {
        if let Some(&owner) = self.owners.get(&log) {
            return Some(owner);
        }
        let index = usize::try_from(log.0).ok()?.checked_rem(self.expected.len())?;
        let node = *self.expected.get(index)?;
        let owner = self.ports.iter().find(|(_, port)| port.node == node).map(|(&id, _)| id)?;
        self.owners.insert(log, owner);
        Some(owner)
    }
}

/// Why the answers of the storage nodes make no welcome.
enum Conflict {
    Refused(Error),
    TwoOwners { log: LogId, first: PortId, second: PortId },
}

/// Adds a port's marks. A mark of no records is a name without a log: it yields to another node's log.
fn merge(
    merged: &mut BTreeMap<LogId, (PortId, LogMarkV1)>,
    port: PortId,
    marks: Vec<LogMarkV1>,
) -> Result<(), Conflict> {
    for mark in marks {
        let log = LogId(mark.log);
        match merged.get(&log) {
            Some((first, known)) if known.records > 0 && mark.records > 0 => {
                return Err(Conflict::TwoOwners { log, first: *first, second: port });
            }
            Some((_, known)) if known.records > 0 => {}
            _ => {
                merged.insert(log, (port, mark));
            }
        }
    }
    Ok(())
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use parhelion_log::{RecordFields, Tail};

    use super::*;

    fn mark(log: u32, records: u64) -> LogMarkV1 {
        LogMarkV1 { log, epoch: 1, records, segment: 0, offset: 64 }
    }

    fn record(log: u32) -> Bytes {
        Tail::new(LogId(log)).place(RecordFields::default(), b"bytes", 1 << 30).0.bytes()
    }

    /// Nodes 3, 5 and 8, joined, in that order.
    fn site() -> (MirrorRouting, [PortId; 3]) {
        let mut routing = MirrorRouting::new([8, 3, 5].map(NodeId));
        let ports = [3, 5, 8].map(|node| routing.join(NodeId(node), Place::Remote).unwrap().port);
        (routing, ports)
    }

    fn up(routing: &mut MirrorRouting, answers: Vec<(PortId, Vec<LogMarkV1>)>) -> Vec<LogMarkV1> {
        let number = routing.hello().unwrap().number;
        let mut welcome = None;
        for (port, marks) in answers {
            assert!(welcome.is_none(), "welcomed before all have answered");
            welcome = routing.answer(port, number, Ok(marks));
        }
        welcome.unwrap().unwrap()
    }

    #[test]
    fn a_session_needs_every_node() {
        let mut routing = MirrorRouting::new([8, 3, 5].map(NodeId));
        routing.join(NodeId(5), Place::Local).unwrap();
        let error = routing.hello().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(
            error.message().contains("2 of 3 have not joined its link node: 3, 8; start them"),
            "{error}"
        );
        assert_eq!(routing.missing(), [NodeId(3), NodeId(8)]);
        let error = routing.join(NodeId(4), Place::Remote).unwrap_err();
        assert!(error.message().contains("node 4 is not one of this site's (3, 5, 8)"), "{error}");
    }

    #[test]
    fn owners_are_those_whose_marks_list_the_log() {
        let (mut routing, [a, b, c]) = site();
        // By the rule, log 3 would be node 3's and log 4 node 5's.
        let welcome =
            up(&mut routing, vec![(a, vec![mark(4, 9)]), (b, vec![]), (c, vec![mark(3, 2), mark(9, 0)])]);
        assert_eq!(welcome, [mark(3, 2), mark(4, 9), mark(9, 0)]);
        let (split, malformed) =
            routing.records(vec![record(3), record(4), record(5), record(6), Bytes::from_static(b"?")]);
        assert_eq!(malformed, 1);
        assert_eq!(split[&a], [record(4), record(6)], "6 modulo 3 is the first node");
        assert_eq!(split[&c], [record(3), record(5)]);
        assert!(!split.contains_key(&b));
        assert_eq!(routing.marks(a, vec![mark(6, 1), mark(3, 3)]), [mark(6, 1)]);
    }

    #[test]
    fn a_log_on_two_nodes_is_refused() {
        let (mut routing, [a, b, c]) = site();
        let number = routing.hello().unwrap().number;
        assert!(routing.answer(a, number, Ok(vec![mark(1, 1)])).is_none());
        let error = routing.answer(c, number, Ok(vec![mark(1, 2)])).unwrap().unwrap_err();
        assert!(error.message().contains("log 1 is on storage nodes 3 and 8"), "{error}");
        assert!(routing.answer(b, number, Ok(vec![])).is_none(), "it is decided already");
        // A name without records is no log.
        up(&mut routing, vec![(a, vec![mark(1, 0)]), (b, vec![mark(1, 2)]), (c, vec![mark(1, 0)])]);
        assert!(routing.records(vec![record(1)]).0.contains_key(&b));
    }

    #[test]
    fn a_refusal_names_its_node() {
        let (mut routing, [a, b, _]) = site();
        let number = routing.hello().unwrap().number;
        routing.answer(a, number, Ok(vec![]));
        let full = Error::unavailable("the disk is full");
        let error = routing.answer(b, number, Err(full)).unwrap().unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (ErrorKind::Unavailable, "storage node 5: the disk is full")
        );
    }

    #[test]
    fn an_old_primary_is_fenced_by_marks_where_there_are_any() {
        let (mut routing, [a, b, c]) = site();
        let fenced = || Err(Error::new(ErrorKind::Fenced, "promoted, without logs"));
        let number = routing.hello().unwrap().number;
        assert_eq!(routing.answer(a, number, fenced()), None);
        assert_eq!(routing.answer(b, number, Ok(vec![mark(4, 9)])), None);
        assert_eq!(routing.answer(c, number, fenced()), Some(Ok(vec![mark(4, 9)])));

        let number = routing.hello().unwrap().number;
        for port in [a, b] {
            assert_eq!(routing.answer(port, number, fenced()), None);
        }
        let error = routing.answer(c, number, fenced()).unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced);
        assert!(error.message().contains("storage node 8"), "{error}");
    }

    #[test]
    fn answers_to_an_earlier_question_are_ignored() {
        let (mut routing, [a, b, c]) = site();
        let first = routing.hello().unwrap().number;
        let second = routing.hello().unwrap().number;
        assert!(routing.answer(a, first, Ok(vec![mark(1, 1)])).is_none());
        for port in [b, c] {
            assert!(routing.answer(port, second, Ok(vec![])).is_none());
        }
        assert_eq!(routing.answer(a, second, Ok(vec![])), Some(Ok(vec![])));
        assert!(routing.answer(a, second, Ok(vec![])).is_none(), "answered already");
    }

    #[test]
    fn marks_count_from_the_answer_on() {
        let (mut routing, [a, b, c]) = site();
        let number = routing.hello().unwrap().number;
        assert!(routing.marks(a, vec![mark(1, 7)]).is_empty(), "its answer will say so, or say less");
        routing.answer(a, number, Ok(vec![mark(1, 5)]));
        assert_eq!(routing.marks(a, vec![mark(1, 6)]), [mark(1, 6)]);
        routing.answer(b, number, Ok(vec![]));
        routing.answer(c, number, Ok(vec![]));
        routing.end();
        assert!(routing.marks(a, vec![mark(1, 8)]).is_empty());
    }

    #[test]
    fn a_port_that_leaves_takes_the_session_with_it() {
        let (mut routing, [a, b, c]) = site();
        assert_eq!(routing.leave(PortId(99)), Left::Nothing);
        routing.hello().unwrap();
        assert!(matches!(routing.leave(a), Left::Refuse(error) if error.message().contains("node 3")));
        let a = routing.join(NodeId(3), Place::Remote).unwrap().port;
        up(&mut routing, vec![(a, vec![mark(4, 1)]), (b, vec![]), (c, vec![])]);
        let again = routing.join(NodeId(3), Place::Remote).unwrap();
        let Some((old, Left::EndSession(reason))) = again.replaced else { panic!("{again:?}") };
        assert_eq!(old, a);
        assert!(reason.contains("node 3"), "{reason}");
        assert!(routing.records(vec![record(0)]).0.is_empty(), "nothing of the old session for the new port");
        assert!(routing.records(vec![record(4)]).0.is_empty(), "by the rule it would be node 5's");
        assert!(routing.records(vec![record(1)]).0.contains_key(&b), "the others' until the end");
        assert!(routing.join(NodeId(3), Place::Local).is_err(), "two nodes of one number");
    }
}
