//! What is lost in which disaster: Table 1 of SMFS (section 3.1) as ours. Every cell of the table in
//! `docs/disasters.md` is a test here, and the document is held against the same words.
//!
//! Two sites are 50 ms and 40 Mbit/s apart. Writers write at the level of the row; then disaster strikes, and every
//! append whose acknowledgement a writer held by then is looked for at the site that serves afterwards. A cell
//! that names a loss is also a claim that the disaster brings it about: there the test fails if nothing is lost.

mod disaster;
mod scene;

use std::collections::BTreeMap;

use parhelion_types::Durability;
use tokio::sync::Mutex;

use self::disaster::Disaster;

/// A mode of SMFS section 5.2: a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    LocalSync,
    LocalSyncFec,
    NetworkSync,
    RemoteSync,
    RemoteSyncFec,
}

/// What becomes of acknowledged appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// All are at the site that serves.
    Safe,
    /// The promised risk bounds the loss, and promotion lists it.
    Promised,
    /// What was still in a buffer of the site is lost, and promotion lists it.
    NotLeft,
    /// That, and what the link dropped or held up behind a gap. Promotion lists it.
    NotArrived,
    /// What was under way is lost, and what was acknowledged before the site died too. Announcements were
    /// under way as well, so promotion does not list all of it.
    Stranded,
    /// What the mirror had not synced is lost, and it forgot what had been announced.
    NotSynced,
}

/// Cells run one after the other: each claims the processors for its link, its sites and its writers.
static TURN: Mutex<()> = Mutex::const_new(());

/// One test for each cell, and the table.
macro_rules! table {
    ($($disaster:ident as $name:ident: $($mode:ident as $row:ident $fate:ident),*;)*) => {
        const TABLE: &[(Disaster, Mode, Fate)] =
            &[$($((Disaster::$disaster, Mode::$mode, Fate::$fate)),*),*];

        $(mod $name {
            use super::{Disaster, Fate, Mode};

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $row() {
                let _turn = super::TURN.lock().await;
                super::disaster::play(Disaster::$disaster, Mode::$mode, Fate::$fate).await;
            })*
        })*
    };
}

table! {
    PrimaryRestarts as primary_restarts: LocalSync as local_sync Safe, LocalSyncFec as local_sync_fec Safe,
        NetworkSync as network_sync Safe, RemoteSync as remote_sync Safe, RemoteSyncFec as remote_sync_fec Safe;
    LinkCut as link_cut: LocalSync as local_sync Safe, LocalSyncFec as local_sync_fec Safe,
        NetworkSync as network_sync Safe, RemoteSync as remote_sync Safe, RemoteSyncFec as remote_sync_fec Safe;
    MirrorLost as mirror_lost: LocalSync as local_sync Safe, LocalSyncFec as local_sync_fec Safe,
        NetworkSync as network_sync Safe, RemoteSync as remote_sync Safe, RemoteSyncFec as remote_sync_fec Safe;
    SiteLost as site_lost: LocalSync as local_sync NotLeft, LocalSyncFec as local_sync_fec NotLeft,
        NetworkSync as network_sync Safe, RemoteSync as remote_sync Safe, RemoteSyncFec as remote_sync_fec Safe;
    LossThenSite as loss_then_site: LocalSync as local_sync NotArrived, LocalSyncFec as local_sync_fec NotArrived,
        NetworkSync as network_sync Promised, RemoteSync as remote_sync Safe, RemoteSyncFec as remote_sync_fec Safe;
    CutThenSite as cut_then_site: LocalSync as local_sync Stranded, LocalSyncFec as local_sync_fec Stranded,
        NetworkSync as network_sync Stranded, RemoteSync as remote_sync Safe, RemoteSyncFec as remote_sync_fec Safe;
    MirrorThenSite as mirror_then_site: LocalSync as local_sync NotSynced, LocalSyncFec as local_sync_fec NotSynced,
        NetworkSync as network_sync NotSynced, RemoteSync as remote_sync Safe, RemoteSyncFec as remote_sync_fec Safe;
}

impl Mode {
    const ALL: [Self; 5] =
        [Self::LocalSync, Self::LocalSyncFec, Self::NetworkSync, Self::RemoteSync, Self::RemoteSyncFec];

    /// As the document and `parhelion drill` write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LocalSync => "local-sync",
            Self::LocalSyncFec => "local-sync+fec",
            Self::NetworkSync => "network-sync",
            Self::RemoteSync => "remote-sync",
            Self::RemoteSyncFec => "remote-sync+fec",
        }
    }

    pub(crate) fn durability(self) -> Durability {
        match self {
            Self::LocalSync | Self::LocalSyncFec => Durability::Local,
            Self::NetworkSync => Durability::Network,
            Self::RemoteSync | Self::RemoteSyncFec => Durability::Remote,
        }
    }

    /// Whether a code protects the link; else records travel over TCP.
    pub(crate) fn has_code(self) -> bool {
        !matches!(self, Self::LocalSync | Self::RemoteSync)
    }
}

impl Fate {
    /// As the document writes it.
    fn words(self) -> &'static str {
        match self {
            Self::Safe => "nothing",
            Self::Promised => "at most the promised risk; listed",
            Self::NotLeft => "what had not left; listed",
            Self::NotArrived => "what had not left, was dropped or waited behind a gap; listed",
            Self::Stranded => "what was under way or came later; not all listed",
            Self::NotSynced => "what the mirror had not synced; not listed",
        }
    }
}

#[test]
fn the_document_has_the_words_of_every_test_and_no_others() {
    let mut written = cells_of(include_str!("../../../../docs/disasters.md"));
    assert_eq!(
        written.len(),
        Mode::ALL.len() * Disaster::ALL.len(),
        "cells of the table in docs/disasters.md"
    );
    for (disaster, mode, fate) in TABLE {
        let cell = (disaster.name().to_owned(), mode.name().to_owned());
        let words = written.remove(&cell).unwrap_or_else(|| panic!("{cell:?} has a test and is not written"));
        assert_eq!(words, fate.words(), "{cell:?}: left what is written, right what is tested");
    }
    assert!(written.is_empty(), "written and without a test: {written:?}");
}

#[test]
fn the_document_is_read_as_it_is_shown() {
    let text = "# Title\n\n| not | this |\n| --- | --- |\n| one | two |\n\n| disaster | local-sync | remote-sync |\n\
                | --- | --- | --- |\n| site lost | all of it | nothing |\n\nAfterwards | text |\n";
    let cell = |mode: &str, words: &str| (("site lost".to_owned(), mode.to_owned()), words.to_owned());
    assert_eq!(cells_of(text), [cell("local-sync", "all of it"), cell("remote-sync", "nothing")].into());
}

/// The cells of the document's table, by disaster and mode.
fn cells_of(text: &str) -> BTreeMap<(String, String), String> {
    let row = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = text.lines().skip_while(|line| !line.starts_with("| disaster |"));
    let modes = row(lines.next().unwrap_or_default());
    let mut cells = BTreeMap::new();
    for line in lines.skip(1).take_while(|line| line.starts_with('|')) {
        let row = row(line);
        for (mode, words) in modes.iter().zip(&row).skip(1) {
            let twice = cells.insert((row[0].clone(), mode.clone()), words.clone());
            assert_eq!(twice, None, "{} stands twice in the table", row[0]);
        }
    }
    cells
}
