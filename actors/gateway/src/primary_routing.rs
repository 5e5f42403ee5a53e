//! Which storage node of a primary site a log belongs to, and what each of them is told.

use std::collections::{BTreeMap, BTreeSet};

use parhelion_link_driver::{LinkCommand, LinkEvent};
use parhelion_types::{Error, LogId, NodeId};
use parhelion_wire::link::LogMarkV1;

use crate::port::{Place, PortId, check_place};

/// The routing of a primary site: the commands of all storage nodes go to one driver, whose events are split
/// by the owner of the log (SMFS section 4, "gateway").
///
/// It keeps nothing that the storage nodes do not say anew when they join: see decision 8. Invariants:
///
/// - a log has one owner at most, and the owner is a port;
/// - a port that is not in session neither sends nor is told of records: it joined after the link's session
///   began, and waits for the next.
#[derive(Debug, Default)]
pub struct PrimaryRouting {
    /// The storage nodes of the site, if they are known here.
    expected: BTreeSet<NodeId>,
    ports: BTreeMap<PortId, Port>,
    owners: BTreeMap<LogId, PortId>,
    next_port: u64,
    is_up: bool,
}

#[derive(Debug)]
struct Port {
    node: NodeId,
    place: Place,
    /// Sessions that it was told of.
    sessions: u64,
    in_session: bool,
}

/// A port that joined.
#[derive(Debug, PartialEq, Eq)]
pub struct PrimaryJoined {
    /// The port.
    pub port: PortId,
    /// The port of the same node that it replaces.
    pub replaced: Option<PortId>,
    /// Why the link's session must be renewed, if one is up.
    pub renew: Option<String>,
}

impl PrimaryRouting {
    /// The routing of a site with these storage nodes. When all have joined, a log that the mirror has and none of
    /// them is one that the site has lost; all are told of it, so that its number is given to no other log.
    #[must_use]
    pub fn expecting(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        Self { expected: nodes.into_iter().collect(), ..Self::default() }
    }

    /// A storage node joins with its logs.
    ///
    /// # Errors
    /// Another node has one of the logs, or the same node is in another place.
    pub fn join(&mut self, node: NodeId, place: Place, logs: &[LogId]) -> Result<PrimaryJoined, Error> {
        let replaced = self.ports.iter().find(|(_, port)| port.node == node).map(|(&id, port)| (id, port));
        if let Some((_, port)) = replaced {
            check_place(node, port.place, place)?;
        }
        let replaced = replaced.map(|(id, _)| id);
        for log in logs {
            if let Some(owner) = self.owners.get(log).filter(|&&owner| Some(owner) != replaced) {
                return Err(self.claimed_twice(*log, *owner, node));
            }
        }
        if let Some(replaced) = replaced {
            self.leave(replaced);
        }
        self.next_port += 1;
        let port = PortId(self.next_port);
        self.ports.insert(port, Port { node, place, sessions: 0, in_session: false });
        self.owners.extend(logs.iter().map(|&log| (log, port)));
        let renew = self.is_up.then(|| format!("storage node {node} joined, so the session is renewed"));
        Ok(PrimaryJoined { port, replaced, renew })
    }

    /// A storage node leaves. What it gave to the driver stays there: it goes on to the mirror.
    pub fn leave(&mut self, port: PortId) {
        if self.ports.remove(&port).is_some() {
            self.owners.retain(|_, owner| *owner != port);
        }
    }

    /// The nodes that joined, in order.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.ports.values().map(|port| port.node).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// What the driver is to be told when a port says `command`, if anything. `session` counts the sessions
    /// that the port was told of, where the port says which one it means.
    ///
    /// # Errors
    /// The command is about a log of another node: the port must go.
    pub fn command(
        &mut self,
        port: PortId,
        session: Option<u64>,
        command: LinkCommand,
    ) -> Result<Option<LinkCommand>, Error> {
        let Some(known) = self.ports.get(&port) else { return Ok(None) };
        let in_session = known.in_session && session.is_none_or(|session| session == known.sessions);
        match &command {
            LinkCommand::Announce { key, .. } | LinkCommand::Send { key, .. } => {
                self.learn(port, key.log)?;
                Ok(in_session.then_some(command))
            }
            LinkCommand::Rewind(tails) => {
                for tail in tails {
                    self.learn(port, LogId(tail.log))?;
                }
                Ok(in_session.then_some(command))
            }
            LinkCommand::ChangeCode { .. } => Ok(Some(command)),
            // The link belongs to the site, not to one storage node.
            LinkCommand::Renew { .. } | LinkCommand::Close => Ok(None),
        }
    }

    /// Splits the driver's events: for each port its own, in the order they happened.
    pub fn events(&mut self, events: Vec<LinkEvent>) -> BTreeMap<PortId, Vec<LinkEvent>> {
        let mut split = BTreeMap::new();
        for event in events {
            match event {
                LinkEvent::Up { peer, marks, code } => {
                    self.is_up = true;
                    let lost = self.lost(&marks);
                    let mut marks = self.by_owner(marks, |mark: &LogMarkV1| LogId(mark.log));
                    for (&id, port) in &mut self.ports {
                        port.in_session = true;
                        port.sessions += 1;
                        let mut marks = marks.remove(&id).unwrap_or_default();
                        marks.extend_from_slice(&lost);
                        push(&mut split, id, LinkEvent::Up { peer, marks, code: code.clone() });
                    }
                }
                LinkEvent::Down { reason } => {
                    self.is_up = false;
                    for (&id, port) in &mut self.ports {
                        port.in_session = false;
                        push(&mut split, id, LinkEvent::Down { reason: reason.clone() });
                    }
                }
                LinkEvent::CodeChanged(code) => {
                    for id in self.in_session() {
                        push(&mut split, id, LinkEvent::CodeChanged(code.clone()));
                    }
                }
                LinkEvent::Announced(keys) => {
                    for (id, keys) in self.by_owner(keys, |key| key.log) {
                        push(&mut split, id, LinkEvent::Announced(keys));
                    }
                }
                LinkEvent::Coverage(changes) => {
                    for (id, changes) in self.by_owner(changes, |change| change.key.log) {
                        push(&mut split, id, LinkEvent::Coverage(changes));
                    }
                }
                LinkEvent::Mirrored(marks) => {
                    for (id, marks) in self.by_owner(marks, |mark: &LogMarkV1| LogId(mark.log)) {
                        push(&mut split, id, LinkEvent::Mirrored(marks));
                    }
                }
            }
        }
        split.retain(|id, _| self.ports.contains_key(id));
        split
    }

    /// The ports that take part in the link's session.
    pub fn in_session(&self) -> impl Iterator<Item = PortId> + '_ {
        self.ports.iter().filter(|(_, port)| port.in_session).map(|(&id, _)| id)
    }

    fn learn(&mut self, port: PortId, log: LogId) -> Result<(), Error> {
        match self.owners.get(&log) {
            Some(&owner) if owner == port => Ok(()),
            Some(&owner) => {
                let node = self.ports.get(&port).map(|port| port.node).unwrap_or_default();
                Err(self.claimed_twice(log, owner, node))
            }
            None => {
                self.owners.insert(log, port);
                Ok(())
            }
        }
    }

    /// Marks of logs that no storage node has. Nothing can be said of them while one is missing.
    fn lost(&self, marks: &[LogMarkV1]) -> Vec<LogMarkV1> {
        let here: BTreeSet<NodeId> = self.ports.values().map(|port| port.node).collect();
        if self.expected.is_empty() || !self.expected.is_subset(&here) {
            return Vec::new();
        }
        marks.iter().filter(|mark| !self.owners.contains_key(&LogId(mark.log))).copied().collect()
    }

    /// Splits a batch by the owner of the log. What nobody here owns, or only a port that waits for its first
    /// session, is of a node that left: nobody waits for it.
    fn by_owner<T>(&self, items: Vec<T>, log: impl Fn(&T) -> LogId) -> BTreeMap<PortId, Vec<T>> {
        let mut split: BTreeMap<PortId, Vec<T>> = BTreeMap::new();
        for item in items {
            if let Some(&owner) = self.owners.get(&log(&item)) {
                split.entry(owner).or_default().push(item);
            }
        }
        split
    }

    fn claimed_twice(&self, log: LogId, owner: PortId, claimant: NodeId) -> Error {
        let owner = self.ports.get(&owner).map(|port| port.node).unwrap_or_default();
        Error::invalid(format!(
            "log {log} of storage node {claimant} belongs to storage node {owner} already; a log has one storage \
             node per site: remove it from one of the two"
        ))
    }
}

fn push<E>(split: &mut BTreeMap<PortId, Vec<E>>, port: PortId, event: E) {
    split.entry(port).or_default().push(event);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use parhelion_code_none::NoCode;
    use parhelion_link_driver::CoverageChange;
    use parhelion_plugin::{Code, Exposure, Parameters};
    use parhelion_types::{RecordKey, SiteId};

    use super::*;

    fn mark(log: u32) -> LogMarkV1 {
        LogMarkV1 { log, epoch: 1, records: 5, segment: 0, offset: 64 }
    }

    fn key(log: u32) -> RecordKey {
        RecordKey { log: LogId(log), number: 5 }
    }

    fn up(logs: &[u32]) -> LinkEvent {
        LinkEvent::Up {
            peer: SiteId(2),
            marks: logs.iter().map(|&log| mark(log)).collect(),
            code: Code::new(Arc::new(NoCode), &Parameters::new()).unwrap(),
        }
    }

    fn send(log: u32) -> LinkCommand {
        LinkCommand::Send { key: key(log), record: Bytes::from_static(b"record"), is_awaited: false }
    }

    fn marks_of(event: &LinkEvent) -> Vec<u32> {
        match event {
            LinkEvent::Up { marks, .. } | LinkEvent::Mirrored(marks) => marks.iter().map(|m| m.log).collect(),
            other => panic!("no marks in {other:?}"),
        }
    }

    fn join(routing: &mut PrimaryRouting, node: u16, logs: &[u32]) -> PrimaryJoined {
        let logs: Vec<LogId> = logs.iter().map(|&log| LogId(log)).collect();
        routing.join(NodeId(node), Place::Remote, &logs).unwrap()
    }

    #[test]
    fn a_log_that_the_site_has_lost_is_told_to_all_when_all_are_there() {
        let mut routing = PrimaryRouting::expecting([NodeId(1), NodeId(2)]);
        let a = join(&mut routing, 1, &[7]).port;
        let split = routing.events(vec![up(&[7, 8, 9])]);
        assert_eq!(marks_of(&split[&a][0]), [7], "the others may be those of the node that is missing");
        let b = join(&mut routing, 2, &[8]).port;
        let split = routing.events(vec![up(&[7, 8, 9])]);
        assert_eq!(marks_of(&split[&a][0]), [7, 9]);
        assert_eq!(marks_of(&split[&b][0]), [8, 9]);
    }

    #[test]
    fn events_go_to_the_owner_of_the_log() {
        let mut routing = PrimaryRouting::default();
        let (one, two) = (join(&mut routing, 1, &[1, 3]), join(&mut routing, 2, &[2]));
        assert_eq!((&one.renew, &two.renew), (&None, &None));
        let split = routing.events(vec![up(&[1, 2, 3, 9])]);
        assert_eq!(marks_of(&split[&one.port][0]), [1, 3]);
        assert_eq!(marks_of(&split[&two.port][0]), [2]);

        let change = |log| CoverageChange {
            key: key(log),
            exposure: Exposure::steady(1, 0, 0),
            sent: true,
            complete: false,
        };
        let split = routing.events(vec![
            LinkEvent::Announced(vec![key(2), key(9)]),
            LinkEvent::Coverage(vec![change(3), change(2)]),
            LinkEvent::Mirrored(vec![mark(1)]),
            LinkEvent::Down { reason: "gone".to_owned() },
        ]);
        let [LinkEvent::Coverage(one_covered), LinkEvent::Mirrored(marks), LinkEvent::Down { .. }] =
            &split[&one.port][..]
        else {
            panic!("{split:?}");
        };
        assert_eq!((one_covered.len(), one_covered[0].key, marks.len()), (1, key(3), 1));
        let [LinkEvent::Announced(keys), LinkEvent::Coverage(covered), LinkEvent::Down { .. }] =
            &split[&two.port][..]
        else {
            panic!("{split:?}");
        };
        assert_eq!((&keys[..], covered[0].key), (&[key(2)][..], key(2)));
    }

    #[test]
    fn a_port_that_joins_late_waits_for_the_renewed_session() {
        let mut routing = PrimaryRouting::default();
        let one = join(&mut routing, 1, &[1]).port;
        routing.events(vec![up(&[])]);
        let late = join(&mut routing, 2, &[2]);
        assert_eq!(late.renew.as_deref(), Some("storage node 2 joined, so the session is renewed"));
        assert!(routing.command(late.port, None, send(2)).unwrap().is_none());
        assert!(routing.command(one, None, send(1)).unwrap().is_some());
        routing.events(vec![LinkEvent::Down { reason: "renewed".to_owned() }]);
        assert!(routing.command(one, None, send(1)).unwrap().is_none());
        assert_eq!(routing.events(vec![up(&[])]).len(), 2);
        assert!(routing.command(late.port, None, send(2)).unwrap().is_some());
    }

    #[test]
    fn commands_of_an_earlier_session_are_dropped() {
        let mut routing = PrimaryRouting::default();
        let port = join(&mut routing, 1, &[1]).port;
        routing.events(vec![up(&[])]);
        assert!(routing.command(port, Some(1), send(1)).unwrap().is_some());
        routing.events(vec![LinkEvent::Down { reason: String::new() }, up(&[])]);
        assert!(routing.command(port, Some(1), send(1)).unwrap().is_none());
        assert!(routing.command(port, Some(2), send(1)).unwrap().is_some());
    }

    #[test]
    fn a_log_has_one_owner() {
        let mut routing = PrimaryRouting::default();
        join(&mut routing, 1, &[7]);
        let error = routing.join(NodeId(2), Place::Remote, &[LogId(7)]).unwrap_err();
        for part in ["log 7", "node 1", "node 2"] {
            assert!(error.message().contains(part), "{error}");
        }
        assert_eq!(routing.nodes(), [NodeId(1)], "a refused node has not joined");
        // Learned from a command, and claimed by another one's.
        let two = join(&mut routing, 2, &[]).port;
        routing.events(vec![up(&[])]);
        assert!(routing.command(two, None, send(8)).unwrap().is_some());
        assert!(routing.command(two, None, send(7)).is_err());
        let split = routing.events(vec![LinkEvent::Mirrored(vec![mark(8)])]);
        assert_eq!(split.keys().copied().collect::<Vec<_>>(), [two]);
    }

    #[test]
    fn a_node_that_returns_takes_its_own_place() {
        let mut routing = PrimaryRouting::default();
        let old = join(&mut routing, 1, &[7]).port;
        let new = join(&mut routing, 1, &[7, 8]);
        assert_eq!(new.replaced, Some(old));
        assert!(routing.command(old, None, send(7)).unwrap().is_none());
        routing.leave(old);
        assert_eq!(routing.nodes(), [NodeId(1)]);
        assert!(routing.join(NodeId(1), Place::Local, &[]).is_err(), "two nodes of one number");
        routing.leave(new.port);
        assert!(routing.join(NodeId(2), Place::Remote, &[LogId(7)]).is_ok(), "its logs are free again");
    }

    #[test]
    fn the_link_is_not_one_ports_to_close() {
        let mut routing = PrimaryRouting::default();
        let port = join(&mut routing, 1, &[]).port;
        assert!(routing.command(port, None, LinkCommand::Close).unwrap().is_none());
        let renew = LinkCommand::Renew { reason: String::new() };
        assert!(routing.command(port, None, renew).unwrap().is_none());
    }
}
