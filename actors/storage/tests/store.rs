//! The store as its callers see it: what is appended is read, recovered and bounded.

mod common;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::*;
use parhelion_log::{Record, SEGMENT_HEADER_BYTES, Tail};
use parhelion_mirror::Backlog;
use parhelion_storage::store::{Store, StoreConfig, StoreError, StoreEvent};
use parhelion_types::{LogAddress, LogId, SegmentId};

#[test]
fn what_is_appended_is_read_and_recovered() {
    let home = tempfile::tempdir().unwrap();
    let mut logs: Vec<Log> = (0..4).map(Log::new).collect();
    for round in 0..3 {
        let opened = open(home.path()).unwrap();
        for log in &logs {
            match round {
                0 => assert!(opened.logs.is_empty()),
                _ => assert_holds(&opened, log),
            }
        }
        for turn in 0..100 {
            for log in &mut logs[..] {
                let request = log.next();
                opened.store.append(request).unwrap();
                if turn == 99 {
                    opened.until(log);
                }
            }
        }
        for log in &logs {
            assert_reads(&opened, log);
            assert!(log.tail.next_address().segment.0 >= 2 * (round + 1));
        }
    }
}

#[test]
fn the_largest_append_is_a_record_like_any_other() {
    let home = tempfile::tempdir().unwrap();
    let mut log = Log::sized(3, 17 << 20);
    let opened = open(home.path()).unwrap();
    opened.append(&mut log, 2);
    for _ in 0..2 {
        let request = log.bytes(16 << 20);
        opened.store.append(request).unwrap();
        opened.append(&mut log, 1);
    }
    assert_reads(&opened, &log);
    drop(opened);
    assert_reads(&open(home.path()).unwrap(), &log);
}

#[test]
fn reads_start_anywhere_and_stop_at_the_limit() {
    let home = tempfile::tempdir().unwrap();
    let opened = open(home.path()).unwrap();
    let mut log = Log::new(0);
    opened.append(&mut log, 200);
    for (n, record) in log.records.iter().enumerate() {
        for bytes_max in [0, 1, 9000, 100_000, 1 << 20] {
            let got = opened.store.read_from(log.id, record.header.address, bytes_max).unwrap();
            assert!(!got.is_empty());
            assert_eq!(got, log.records[n..n + got.len()]);
            let bytes: usize = got.iter().map(|record| record.bytes().len()).sum();
            assert!(bytes <= bytes_max.max(8 << 10), "{bytes} bytes with a limit of {bytes_max}");
            // The address behind a record may be the end of its segment.
            let rest = opened.store.read_from(log.id, record.header.next_address(), bytes_max).unwrap();
            assert_eq!(rest.first(), log.records.get(n + 1));
        }
    }
    let whole = opened.store.read_from(log.id, Tail::first_address(), 64 << 20).unwrap();
    assert_eq!(whole, log.records);
}

/// Bytes that this thread has asked the kernel to read.
fn read_by_this_thread() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn nothing_is_read_behind_the_end_of_a_log() {
    let home = tempfile::tempdir().unwrap();
    // Segments made from spares are files of zeros, as long as they will ever be.
    let config = StoreConfig { segment_bytes: 17 << 20, ..config(home.path()) };
    let opened = open_with(config).unwrap();
    let mut log = Log::sized(0, 17 << 20);
    opened.append(&mut log, 20);
    let last = &log.records[18..];
    let before = read_by_this_thread();
    assert_eq!(opened.store.read_from(log.id, last[0].header.address, 4 << 20).unwrap(), last);
    let read = read_by_this_thread() - before;
    // What /proc itself takes is in it.
    assert!(read < 12_000, "{read} bytes were read for two records of at most 3 KiB");
}

#[test]
fn a_record_keeps_no_more_memory_than_it_is_counted_for() {
    let home = tempfile::tempdir().unwrap();
    let config = StoreConfig { segment_bytes: 17 << 20, ..config(home.path()) };
    let opened = open_with(config).unwrap();
    let mut log = Log::sized(0, 17 << 20);
    opened.append(&mut log, 1);
    for bytes in [1000, 3 << 20, 1000] {
        let request = log.bytes(bytes);
        opened.store.append(request).unwrap();
    }
    opened.until(&log);
    // The large one ends the read, of which it would fill nearly all.
    let mut got = opened.store.read_from(log.id, log.records[1].header.address, 1 << 20).unwrap();
    assert_eq!(got, log.records[1..2]);
    let bytes = got.pop().unwrap().bytes();
    let held = bytes.try_into_mut().expect("nobody else has it").capacity();
    assert!(held < 2000, "{held} bytes are held for a record of some 1000");
}

#[test]
fn a_record_that_is_larger_than_the_backlog_has_room_for_is_not_read() {
    let home = tempfile::tempdir().unwrap();
    let opened = open_with(StoreConfig { segment_bytes: 17 << 20, ..config(home.path()) }).unwrap();
    let mut log = Log::sized(0, 17 << 20);
    opened.append(&mut log, 1);
    // The second of the large ones is the first of its segment.
    for bytes in [1000, 1 << 20, 1000, 16 << 20, 1000] {
        let request = log.bytes(bytes);
        opened.store.append(request).unwrap();
    }
    opened.until(&log);
    let address = |number: usize| match number {
        0 => Tail::first_address(),
        n => log.records[n - 1].header.next_address(),
    };
    assert_eq!(log.records[4].header.address.segment.0, 1);
    for (from, bytes_max, until) in [(0, 1 << 20, 2), (3, 1 << 20, 4), (5, 1 << 20, 6), (0, 64 << 20, 6)] {
        match opened.store.read_backlog(log.id, address(from), bytes_max) {
            Backlog::Records(records) => assert_eq!(records, log.records[from..until], "from {from}"),
            other => panic!("from {from}: {other:?}"),
        }
    }
    for large in [2, 4] {
        let bytes = log.records[large].bytes().len();
        for short in [16 << 10, 1 << 20, bytes - 1] {
            match opened.store.read_backlog(log.id, address(large), short) {
                Backlog::Larger(told) => assert_eq!(told, bytes),
                other => panic!("{short} bytes of record {large}: {other:?}"),
            }
        }
        match opened.store.read_backlog(log.id, address(large), bytes) {
            Backlog::Records(records) => assert_eq!(records, log.records[large..=large]),
            other => panic!("record {large}: {other:?}"),
        }
        // Other readers get it whatever they ask for.
        assert_eq!(opened.store.read_from(log.id, address(large), 1000).unwrap(), log.records[large..=large]);
    }
    // One of which the end is missing has no size that helps.
    let file = segment(home.path(), log.id, SegmentId(1));
    let length = log.records[4].header.address.offset + (1 << 20);
    fs::File::options().write(true).open(&file).unwrap().set_len(u64::from(length)).unwrap();
    for bytes_max in [16 << 10, 17 << 20] {
        let mut asked = bytes_max;
        loop {
            match opened.store.read_backlog(log.id, address(4), asked) {
                Backlog::Larger(bytes) if bytes > asked => asked = bytes,
                Backlog::Damaged(reason) => break assert!(reason.contains("damaged"), "{reason}"),
                other => panic!("{asked} bytes: {other:?}"),
            }
        }
    }
}

#[test]
fn a_read_that_failed_may_be_tried_again() {
    let home = tempfile::tempdir().unwrap();
    let opened = open(home.path()).unwrap();
    let mut log = Log::new(0);
    opened.append(&mut log, 5);
    let segments = home.path().join("logs").join("0");
    let segment = fs::read_dir(&segments).unwrap().next().unwrap().unwrap().path();
    let aside = home.path().join("aside");
    fs::rename(&segment, &aside).unwrap();
    // It can be opened and not read.
    fs::create_dir(&segment).unwrap();
    for _ in 0..2 {
        let error = opened.store.read_from(log.id, Tail::first_address(), 1 << 20).unwrap_err();
        assert!(matches!(error, StoreError::File { .. }) && error.is_transient(), "{error}");
        let read = opened.store.read_backlog(log.id, Tail::first_address(), 1 << 20);
        assert!(matches!(&read, Backlog::Unavailable(reason) if *reason == error.to_string()), "{read:?}");
    }
    fs::remove_dir(&segment).unwrap();
    let missing = opened.store.read_from(log.id, Tail::first_address(), 1 << 20).unwrap_err();
    assert!(matches!(missing, StoreError::Corrupt(_)) && !missing.is_transient(), "{missing}");
    fs::rename(&aside, &segment).unwrap();
    assert_eq!(opened.store.read_from(log.id, Tail::first_address(), 1 << 20).unwrap(), log.records);
}

#[test]
fn places_where_no_record_starts_are_told_from_damage() {
    let home = tempfile::tempdir().unwrap();
    let opened = open(home.path()).unwrap();
    let mut log = Log::new(0);
    opened.append(&mut log, 60);
    let inside = log.records[5].header.address.offset;
    let last = log.records.iter().rfind(|r| r.header.address.segment.0 == 0).unwrap();
    let sealed_end = last.header.next_address();
    let end = log.tail.next_address();
    let elsewhere = [
        LogAddress::new(0, 0),
        LogAddress::new(0, inside + 1),
        LogAddress::new(0, inside + 8),
        LogAddress::new(0, sealed_end.offset + 8),
        LogAddress::new(0, u32::MAX - 7),
        LogAddress::new(end.segment.0, end.offset + 8),
        LogAddress::new(end.segment.0 + 1, SEGMENT_HEADER_BYTES),
        LogAddress::new(u32::MAX, u32::MAX),
    ];
    for address in elsewhere {
        let read = opened.store.read(log.id, address);
        assert!(matches!(read, Err(StoreError::NoRecord { .. })), "{address}: {read:?}");
        let read = opened.store.read_from(log.id, address, 1000);
        match address < end {
            true => assert!(matches!(read, Err(StoreError::NoRecord { .. })), "{address}: {read:?}"),
            false => assert!(read.unwrap().is_empty(), "{address}"),
        }
    }
    for address in [sealed_end, end] {
        assert!(matches!(opened.store.read(log.id, address), Err(StoreError::NoRecord { .. })), "{address}");
    }
    let unknown = LogId(77);
    assert!(matches!(
        opened.store.read(unknown, Tail::first_address()),
        Err(StoreError::NoLog(log)) if log == unknown
    ));
    assert!(opened.store.read_from(unknown, Tail::first_address(), 1000).unwrap().is_empty());
}

/// A store whose writer stops in its first report until it is let go.
fn held(config: StoreConfig) -> (Store, mpsc::Sender<()>, mpsc::Receiver<StoreEvent>) {
    let (send, events) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let tell = move |event| {
        let _ = send.send(event);
        // The sender's end tells nothing more once it is dropped.
        let _ = wait.lock().unwrap().recv();
    };
    let (store, _) = Store::open(config, Arc::new(tell)).unwrap();
    (store, go, events)
}

#[test]
fn outstanding_appends_share_one_sync() {
    let home = tempfile::tempdir().unwrap();
    let (store, go, events) = held(config(home.path()));
    let mut log = Log::sized(0, 1 << 20);
    store.append(log.next()).unwrap();
    let first = events.recv().unwrap();
    assert!(matches!(first, StoreEvent::Durable { records: 1, .. }), "{first:?}");
    for _ in 0..64 {
        store.append(log.next()).unwrap();
    }
    drop(go);
    let batch = events.recv().unwrap();
    let StoreEvent::Durable { logs, records: 64, bytes, sync } = batch else { panic!("{batch:?}") };
    assert_eq!((logs[0].number, logs[0].end), (64, log.tail.next_address()));
    assert_eq!(bytes, log.records[1..].iter().map(|record| record.bytes().len()).sum::<usize>());
    assert!(sync > Duration::ZERO);
    assert_eq!(store.queued_bytes(), 0);
}

#[test]
fn sixty_four_clients_need_far_fewer_syncs_than_appends() {
    let home = tempfile::tempdir().unwrap();
    let opened = open(home.path()).unwrap();
    let mut log = Log::sized(0, 100 << 20);
    opened.append(&mut log, 1);
    let (mut durable, mut batches) = (1, 0);
    while durable < 1281 {
        while log.tail.next_number() < durable + 64 {
            opened.store.append(log.bytes(400)).unwrap();
        }
        let StoreEvent::Durable { logs, .. } = opened.event() else { panic!("a write failed") };
        durable = logs[0].number + 1;
        batches += 1;
    }
    assert!(batches <= 1280 / 16, "{batches} batches for 1280 appends");
}

#[test]
fn a_full_queue_refuses_and_the_refused_record_may_come_again() {
    let home = tempfile::tempdir().unwrap();
    let (store, go, events) = held(StoreConfig { queue_bytes_max: 20_000, ..config(home.path()) });
    let mut log = Log::new(0);
    store.append(log.next()).unwrap();
    events.recv().unwrap();
    let mut again = loop {
        let mut ahead = log.clone();
        match store.append(ahead.bytes(3000)) {
            Ok(()) => log = ahead,
            Err(StoreError::Busy(20_000)) => break log.clone(),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(store.queued_bytes() <= 20_000 && store.queued_bytes() > 15_000);
    drop(go);
    let deadline = Instant::now() + Duration::from_secs(60);
    while store.queued_bytes() > 0 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    store.append(again.bytes(3000)).unwrap();
    drop(store);
    assert!(events.iter().all(|event| matches!(event, StoreEvent::Durable { .. })));
    let opened = open(home.path()).unwrap();
    assert_reads(&opened, &again);
}

#[test]
fn a_record_behind_a_hole_is_never_written() {
    let home = tempfile::tempdir().unwrap();
    let opened = open(home.path()).unwrap();
    let (mut log, mut other) = (Log::new(0), Log::new(1));
    opened.append(&mut log, 5);
    let before = log.clone();
    let _refused = log.next();
    opened.store.append(log.next()).unwrap();
    let event = opened.event();
    assert!(matches!(event, StoreEvent::Failed { log: LogId(0), .. }), "{event:?}");
    // The log takes nothing more, not even what would fit; the others go on.
    opened.store.append(before.clone().next()).unwrap();
    opened.append(&mut other, 20);
    assert_reads(&opened, &before);
    drop(opened);
    let opened = open(home.path()).unwrap();
    assert_holds(&opened, &before);
    assert_holds(&opened, &other);
}

#[test]
fn segments_follow_with_spares_and_without() {
    for spares in [0, 1, 3] {
        let home = tempfile::tempdir().unwrap();
        let config = || StoreConfig { spares, ..config(home.path()) };
        let spare = home.path().join("spare");
        // What an earlier run half filled is not used.
        fs::create_dir_all(&spare).unwrap();
        fs::write(spare.join("0.seg"), [0xff; 1000]).unwrap();
        let mut log = Log::new(0);
        for _ in 0..3 {
            let opened = open_with(config()).unwrap();
            opened.append(&mut log, 1);
            for _ in 0..4 {
                let ready = || fs::read_dir(&spare).unwrap().count() >= spares;
                let deadline = Instant::now() + Duration::from_secs(60);
                while !ready() && Instant::now() < deadline {
                    std::thread::yield_now();
                }
                // One segment with a spare that is ready, and several at once that outrun the thread.
                opened.append(&mut log, 50);
                opened.append(&mut log, 200);
            }
            assert_reads(&opened, &log);
        }
        assert_holds(&open_with(config()).unwrap(), &log);
        let sizes: Vec<u64> = (0..log.tail.next_address().segment.0)
            .map(|n| fs::metadata(segment(home.path(), log.id, SegmentId(n))).unwrap().len())
            .collect();
        let zeroed = sizes.iter().filter(|&&size| size == u64::from(SEGMENT_BYTES)).count();
        assert_eq!(zeroed > 0, spares > 0, "{sizes:?}");
    }
}

/// Segments made from spares are written past the page cache that reads come from.
#[test]
fn what_is_durable_is_read_while_more_is_written_behind_it() {
    let home = tempfile::tempdir().unwrap();
    let opened = open_with(StoreConfig { spares: 3, ..config(home.path()) }).unwrap();
    let mut log = Log::new(0);
    let (id, store) = (log.id, &opened.store);
    let (durable, done) = (Mutex::new(Vec::<Record>::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let newest: Vec<_> = durable.lock().unwrap().iter().rev().take(3).cloned().collect();
                    for record in newest {
                        assert_eq!(store.read(id, record.header.address).unwrap(), record);
                    }
                }
            });
        }
        for _ in 0..600 {
            opened.append(&mut log, 1);
            durable.lock().unwrap().extend(log.records.last().cloned());
        }
        done.store(true, Ordering::Release);
    });
    assert!(log.tail.next_address().segment.0 > 5);
    assert_reads(&opened, &log);
}

#[test]
fn logs_share_two_directories() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let both = || StoreConfig {
        directories: vec![first.path().to_owned(), second.path().to_owned()],
        ..config(first.path())
    };
    let mut logs: Vec<Log> = (0..8).map(Log::new).collect();
    {
        let opened = open_with(both()).unwrap();
        std::thread::scope(|scope| {
            for log in &mut logs {
                let store = &opened.store;
                scope.spawn(move || (0..300).for_each(|_| store.append(log.next()).unwrap()));
            }
        });
        let mut durable = std::collections::HashMap::new();
        while durable.len() < 8 || durable.values().any(|&number| number < 299) {
            let StoreEvent::Durable { logs, .. } = opened.event() else { panic!("a write failed") };
            durable.extend(logs.iter().map(|durable| (durable.log, durable.number)));
        }
        logs.iter().for_each(|log| assert_reads(&opened, log));
    }
    for (home, parity) in [(&first, 0), (&second, 1)] {
        let mut names: Vec<String> = fs::read_dir(home.path().join("logs"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, (0..8).filter(|n| n % 2 == parity).map(|n| n.to_string()).collect::<Vec<_>>());
    }
    // A log stays where it is, in whichever order the directories are named; found twice, it is refused.
    let opened = open_with(both()).unwrap();
    for log in &mut logs {
        assert_holds(&opened, log);
        opened.append(log, 30);
    }
    drop(opened);
    fs::create_dir_all(second.path().join("logs/0")).unwrap();
    for n in 0..=logs[0].tail.next_address().segment.0 {
        let [from, to] = [&first, &second].map(|home| segment(home.path(), LogId(0), SegmentId(n)));
        fs::copy(from, to).unwrap();
    }
    let error = open_with(both()).err().expect("one log in two directories").to_string();
    assert!(error.contains("log 0 is in") && error.contains("remove the copy"), "{error}");
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let home = tempfile::tempdir().unwrap();
    let opened = open(home.path()).unwrap();
    let error = open(home.path()).err().expect("the directory is locked");
    assert!(matches!(&error, StoreError::Locked(path) if path == home.path()));
    assert!(error.to_string().contains(&home.path().display().to_string()));
    drop(opened);
    drop(open(home.path()).unwrap());

    let file = home.path().join("a file");
    fs::write(&file, "text").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = open(&path).err().expect("a file is no directory");
        assert!(matches!(&error, StoreError::Directory { path: named, .. } if *named == path), "{error}");
        assert!(error.to_string().contains("choose another"));
    }
    let none = StoreConfig { directories: Vec::new(), ..config(home.path()) };
    assert!(matches!(open_with(none), Err(StoreError::Directory { .. })));
    let twice = vec![home.path().to_owned(), home.path().to_owned()];
    let twice = StoreConfig { directories: twice, ..config(home.path()) };
    assert!(matches!(open_with(twice), Err(StoreError::Locked(_))));
    assert_eq!(open(&home.path().join("new/and/deep")).unwrap().logs.len(), 0);
}

#[test]
fn only_so_many_requests_are_kept() {
    let home = tempfile::tempdir().unwrap();
    let log = filled(home.path(), 300);
    for requests_max in [0, 1, 50] {
        let opened = open_with(StoreConfig { requests_max, ..config(home.path()) }).unwrap();
        let all = log.requests();
        assert_eq!(opened.found(log.id).requests, all[all.len() - requests_max..]);
    }
}

#[test]
fn a_log_that_is_cut_back_goes_on_from_there() {
    for keep in [1u64, 30, 31, 100, 149] {
        let home = tempfile::tempdir().unwrap();
        let mut log = Log::new(0);
        {
            let opened = open(home.path()).unwrap();
            opened.append(&mut log, 150);
            let mut cut = Log::after(0, SEGMENT_BYTES, keep);
            let first_cut = log.records[keep as usize].clone();
            opened.store.rewind(log.id, cut.tail).unwrap();
            let event = opened.event();
            let StoreEvent::Rewound { number, active, .. } = event else { panic!("{event:?}") };
            let freed = (1..keep).filter(|number| number % 10 == 0).count() as u64;
            assert_eq!((number, active.freed()), (keep, freed));
            assert_reads(&opened, &cut);
            let gone = opened.store.read(log.id, first_cut.header.address);
            assert!(matches!(gone, Err(StoreError::NoRecord { .. })), "{gone:?}");
            // Another history: none of the old one may shine through.
            for _ in 0..100 {
                opened.store.append(cut.bytes(1234)).unwrap();
            }
            opened.until(&cut);
            assert_reads(&opened, &cut);
            log = cut;
        }
        let opened = open(home.path()).unwrap();
        assert_reads(&opened, &log);
        assert_eq!(opened.found(log.id).tail, log.tail);
        assert_eq!(opened.found(log.id).requests, log.requests());
        let freed = (1..keep).filter(|number| number % 10 == 0).count() as u64;
        assert_eq!(opened.found(log.id).active.freed(), freed);
        assert!(home.path().join(format!("cut/0-{keep}/records")).exists());
    }
}

#[test]
fn a_cut_that_does_not_fit_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let log = filled(home.path(), 50);
    for wrong in [
        Tail::at(log.id, LogAddress::new(0, 72), 5, 9, log.tail.epoch()),
        Tail::at(log.id, log.records[5].header.address, 6, log.records[5].header.checksum, log.tail.epoch()),
        Log::after(0, SEGMENT_BYTES, 60).tail,
    ] {
        let opened = open(home.path()).unwrap();
        opened.store.rewind(log.id, wrong).unwrap();
        let event = opened.event();
        assert!(matches!(event, StoreEvent::Failed { .. }), "{event:?}");
        drop(opened);
        assert_holds(&open(home.path()).unwrap(), &log);
    }
}
