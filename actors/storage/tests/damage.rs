//! Damage is refused by name; what a crash leaves is dropped, and the log goes on.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::*;
use parhelion_log::{SEGMENT_HEADER_BYTES, Tail};
use parhelion_storage::store::{StoreConfig, StoreError, StoreEvent};
use parhelion_types::{LogAddress, LogId, SegmentId};

/// A log of `count` records whose catalogue knows only the first `known`, as after a loss of power.
fn with_old_catalogue(home: &Path, known: u64, count: u64) -> Log {
    let mut log = filled(home, known);
    let aside = home.join("old catalogue");
    copy_flat(&home.join("catalogue"), &aside);
    let opened = open(home).unwrap();
    opened.append(&mut log, count - known);
    drop(opened);
    copy_flat(&aside, &home.join("catalogue"));
    fs::remove_dir_all(aside).unwrap();
    log
}

/// Opens the store, checks that it holds the log's first records, and that the log goes on from there.
fn assert_goes_on(home: &Path, count: u64, torn: bool) {
    let mut log = Log::after(0, SEGMENT_BYTES, count);
    let opened = open(home).unwrap();
    assert_holds(&opened, &log);
    assert_eq!(opened.found(log.id).torn, torn);
    opened.append(&mut log, 3);
    drop(opened);
    let opened = open(home).unwrap();
    assert_holds(&opened, &log);
    assert!(!opened.found(log.id).torn);
}

#[test]
fn a_record_cut_off_at_any_byte_was_never_there() {
    let home = tempfile::tempdir().unwrap();
    let full = Log::after(0, SEGMENT_BYTES, 30);
    let small = full.records.iter().rposition(|record| (110..400).contains(&record.bytes().len())).unwrap();
    let log = with_old_catalogue(home.path(), small as u64, small as u64 + 1);
    let last = &log.records[small];
    let file = segment(home.path(), log.id, last.header.address.segment);
    let whole = fs::read(&file).unwrap();
    let catalogue = home.path().join("catalogue");
    let aside = home.path().join("old catalogue");
    copy_flat(&catalogue, &aside);
    let start = last.header.address.offset as usize;
    let end = start + last.bytes().len();
    assert!(end <= whole.len());
    // Truncated, and in a file of zeros that was made before.
    for cut in start..end {
        for zeros in [0, 4096] {
            copy_flat(&aside, &catalogue);
            let mut bytes = whole[..cut].to_vec();
            let torn = bytes[start..].iter().any(|&byte| byte != 0);
            bytes.resize(bytes.len() + zeros, 0);
            fs::write(&file, bytes).unwrap();
            assert_goes_on(home.path(), small as u64, torn);
        }
    }
}

#[test]
fn a_durable_record_that_is_cut_off_is_damage() {
    let home = tempfile::tempdir().unwrap();
    let log = filled(home.path(), 5);
    let file = segment(home.path(), log.id, SegmentId(0));
    let whole = fs::read(&file).unwrap();
    let last = log.records[4].header.address;
    for cut in (last.offset as usize..last.offset as usize + log.records[4].bytes().len()).step_by(41) {
        fs::write(&file, &whole[..cut]).unwrap();
        assert_damaged(home.path(), last, &file);
    }
    fs::write(&file, &whole).unwrap();
    assert_goes_on(home.path(), 5, false);
}

#[test]
fn a_batch_whose_pages_came_in_any_order_is_torn_not_damaged() {
    // The pages of an unsynced batch reach the disk in any order when power fails.
    for lost in 20..30usize {
        let home = tempfile::tempdir().unwrap();
        let log = with_old_catalogue(home.path(), 20, 30);
        let header = &log.records[lost].header;
        let file = segment(home.path(), log.id, header.address.segment);
        let file = fs::File::options().write(true).open(file).unwrap();
        file.write_all_at(&vec![0; header.record_bytes()], header.address.offset.into()).unwrap();
        assert_goes_on(home.path(), lost as u64, lost < 29);
    }
}

#[test]
fn a_segment_whose_creation_was_torn_is_made_again() {
    let home = tempfile::tempdir().unwrap();
    let log = filled(home.path(), 100);
    let next = SegmentId(log.tail.next_address().segment.0 + 1);
    let file = segment(home.path(), log.id, next);
    let header = fs::read(segment(home.path(), log.id, SegmentId(1))).unwrap();
    let mut count = 100;
    for left in [vec![], vec![0; 70_000], header[..20].to_vec(), [&header[..30], &[0; 70_000]].concat()] {
        fs::write(&file, left).unwrap();
        let opened = open(home.path()).unwrap();
        let mut log = Log::after(0, SEGMENT_BYTES, count);
        assert_holds(&opened, &log);
        assert!(!file.exists());
        opened.append(&mut log, 1);
        count += 1;
    }
    let mut log = Log::after(0, SEGMENT_BYTES, count);
    let opened = open(home.path()).unwrap();
    opened.append(&mut log, 100);
    assert!(file.exists());
    assert_reads(&opened, &log);
}

#[test]
fn a_segment_without_a_first_record_is_made_again() {
    // The header is durable, of the first batch nothing or a part is: the log ends in the segment before.
    for left in [0, 60, 104, 300] {
        let home = tempfile::tempdir().unwrap();
        let full = Log::after(0, SEGMENT_BYTES, 400);
        let opens = full.records.iter().position(|r| r.header.address.segment.0 == 2).unwrap();
        let log = with_old_catalogue(home.path(), opens as u64, opens as u64 + 1);
        let record = &log.records[opens];
        let file = segment(home.path(), log.id, record.header.address.segment);
        let bytes = fs::read(&file).unwrap();
        let kept = (SEGMENT_HEADER_BYTES as usize + left).min(bytes.len());
        fs::write(&file, &bytes[..kept]).unwrap();
        if record.bytes().len() > left {
            let opened = open(home.path()).unwrap();
            assert!(!file.exists());
            drop(opened);
            assert_goes_on(home.path(), opens as u64, false);
        }
    }
}

#[test]
fn a_log_whose_creation_was_torn_was_never_created() {
    for left in [0usize, 10, 64, 100, 168, 170] {
        let home = tempfile::tempdir().unwrap();
        drop(open(home.path()).unwrap());
        copy_flat(&home.path().join("catalogue"), &home.path().join("empty catalogue"));
        let log = filled(home.path(), 1);
        copy_flat(&home.path().join("empty catalogue"), &home.path().join("catalogue"));
        let file = segment(home.path(), log.id, SegmentId(0));
        let bytes = fs::read(&file).unwrap();
        assert!(left < bytes.len());
        fs::write(&file, &bytes[..left]).unwrap();
        let opened = open(home.path()).unwrap();
        assert!(opened.logs.is_empty());
        let mut again = Log::new(0);
        opened.append(&mut again, 10);
        drop(opened);
        assert_goes_on(home.path(), 10, false);
    }
}

#[test]
fn damage_in_the_last_segment_is_found_at_open() {
    let home = tempfile::tempdir().unwrap();
    let log = filled(home.path(), 100);
    let last = log.tail.next_address().segment;
    let file = segment(home.path(), log.id, last);
    let here = log.records.iter().filter(|record| record.header.address.segment == last);
    for record in here {
        let at = record.header.address;
        for byte in [0, 4, 8, 20, 40, 90, 96, 100, 104, record.bytes().len() as u32 - 1] {
            flip(&file, at.offset + byte);
            assert_damaged(home.path(), at, &file);
            flip(&file, at.offset + byte);
        }
    }
    for byte in [0, 5, 9, 17, 25, 30] {
        flip(&file, byte);
        assert_damaged(home.path(), LogAddress { segment: last, offset: 0 }, &file);
        flip(&file, byte);
    }
    assert_goes_on(home.path(), 100, false);
}

#[test]
fn damage_in_an_older_segment_is_found_when_it_is_read() {
    let home = tempfile::tempdir().unwrap();
    let log = filled(home.path(), 150);
    assert!(log.tail.next_address().segment.0 >= 3);
    let in_first = log.records.iter().filter(|r| r.header.address.segment.0 == 1).count();
    let start = log.records.iter().position(|r| r.header.address.segment.0 == 1).unwrap();
    let file = segment(home.path(), log.id, SegmentId(1));
    // In the header and in the payload of the first, a middle and the last record of the segment.
    for n in [start, start + in_first / 2, start + in_first - 1] {
        let at = log.records[n].header.address;
        for byte in [0, 6, 16, 22, 30, 97, 105] {
            flip(&file, at.offset + byte);
            let opened = open(home.path()).unwrap();
            assert_corrupt(opened.store.read(log.id, at), at, &file);
            assert_corrupt(opened.all(log.id), at, &file);
            assert_corrupt(opened.store.read_from(log.id, at, 1 << 20), at, &file);
            let before =
                opened.store.read_from(log.id, log.records[n - 1].header.address, 1).unwrap_or_default();
            assert!(before.len() <= 1, "no read passes over damage");
            // Every other record is still to be had.
            for other in log.records.iter().filter(|record| record.header.address != at) {
                assert_eq!(&opened.store.read(log.id, other.header.address).unwrap(), other);
            }
            drop(opened);
            flip(&file, at.offset + byte);
        }
    }
    assert_goes_on(home.path(), 150, false);
}

#[test]
fn a_missing_segment_is_damage() {
    let home = tempfile::tempdir().unwrap();
    let log = filled(home.path(), 150);
    let last = log.tail.next_address().segment;
    for number in 0..=last.0 {
        let missing = segment(home.path(), log.id, SegmentId(number));
        let aside = home.path().join("aside");
        fs::rename(&missing, &aside).unwrap();
        let address = LogAddress::new(number, 0);
        assert_damaged(home.path(), address, &missing);
        fs::rename(&aside, &missing).unwrap();
    }
    // While the node runs, too.
    let opened = open(home.path()).unwrap();
    let missing = segment(home.path(), log.id, SegmentId(1));
    fs::remove_file(&missing).unwrap();
    let lost = log.records.iter().find(|record| record.header.address.segment.0 == 1).unwrap();
    assert_corrupt(
        opened.store.read(log.id, lost.header.address),
        LogAddress { segment: SegmentId(1), offset: 0 },
        &missing,
    );
}

#[test]
fn a_data_directory_that_is_not_mounted_is_damage() {
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let directories = homes.iter().map(|home| home.path().to_owned()).collect();
    let both = StoreConfig { directories, ..config(homes[0].path()) };
    let mut log = Log::new(1);
    open_with(both.clone()).unwrap().append(&mut log, 5);
    let logs = homes[1].path().join("logs");
    fs::rename(&logs, homes[1].path().join("aside")).unwrap();
    let error = open_with(both.clone()).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::NotMounted { log: LogId(1), count: 5, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("mounted") && text.contains(&homes[1].path().display().to_string()), "{text}");
    fs::remove_dir_all(&logs).unwrap();
    fs::rename(homes[1].path().join("aside"), &logs).unwrap();
    assert_holds(&open_with(both).unwrap(), &log);
}

#[test]
fn without_its_catalogue_a_log_is_the_same() {
    let home = tempfile::tempdir().unwrap();
    let mut log = filled(home.path(), 200);
    for _ in 0..2 {
        fs::remove_dir_all(home.path().join("catalogue")).unwrap();
        let opened = open(home.path()).unwrap();
        assert_holds(&opened, &log);
        opened.append(&mut log, 60);
    }
    assert_holds(&open(home.path()).unwrap(), &log);
}

#[test]
fn without_its_catalogue_every_segment_is_checked_at_open() {
    let home = tempfile::tempdir().unwrap();
    let log = filled(home.path(), 150);
    let sealed: Vec<_> = log
        .records
        .iter()
        .filter(|record| record.header.address.segment < log.tail.next_address().segment)
        .collect();
    let ends =
        sealed.iter().filter(|r| log.records[r.header.number as usize + 1].header.address.offset == 64);
    // Also the last record of a segment, which nothing in its own file continues.
    for record in [sealed[3], sealed[40]].into_iter().chain(ends.copied()) {
        let at = record.header.address;
        let file = segment(home.path(), log.id, at.segment);
        for byte in [20, 104] {
            flip(&file, at.offset + byte);
            fs::remove_dir_all(home.path().join("catalogue")).unwrap();
            assert_damaged(home.path(), at, &file);
            flip(&file, at.offset + byte);
        }
    }
    for missing in 0..log.tail.next_address().segment.0 {
        let file = segment(home.path(), log.id, SegmentId(missing));
        let bytes = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert_damaged(home.path(), LogAddress::new(missing, 0), &file);
        fs::write(&file, bytes).unwrap();
    }
    assert_holds(&open(home.path()).unwrap(), &log);
}

#[test]
fn a_catalogue_of_other_files_is_not_believed() {
    let (here, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = filled(here.path(), 150);
    {
        let opened = open(other.path()).unwrap();
        let mut different = Log::sized(0, 30_000);
        opened.append(&mut different, 40);
        assert!((1..log.tail.next_address().segment.0).contains(&different.tail.next_address().segment.0));
    }
    copy_flat(&other.path().join("catalogue"), &here.path().join("catalogue"));
    assert_holds(&open(here.path()).unwrap(), &log);
}

#[test]
fn a_damaged_catalogue_is_named_and_can_be_deleted() {
    let home = tempfile::tempdir().unwrap();
    let log = filled(home.path(), 100);
    let catalogue = home.path().join("catalogue");
    fs::write(catalogue.join("CURRENT"), "nonsense\n").unwrap();
    let error = open(home.path()).err().expect("the catalogue is damaged");
    assert!(matches!(error, StoreError::Catalogue(_)));
    let text = error.to_string();
    assert!(text.contains(&catalogue.display().to_string()) && text.contains("deleted"), "{text}");
    fs::remove_dir_all(&catalogue).unwrap();
    assert_goes_on(home.path(), log.tail.next_number(), false);
}

#[test]
fn files_that_are_no_segments_are_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let log = filled(home.path(), 100);
    let logs = home.path().join("logs");
    for name in ["notes.txt", "0/notes.txt", "0/1.seg", "0/+0000001.seg", "0/00000000.seg.bak", "007"] {
        fs::write(logs.join(name), "text").unwrap();
    }
    fs::create_dir(logs.join("+5")).unwrap();
    fs::create_dir(logs.join("9")).unwrap();
    let opened = open(home.path()).unwrap();
    assert_eq!(opened.logs.iter().map(|log| log.log).collect::<Vec<_>>(), [LogId(0)]);
    assert_holds(&opened, &log);
}

/// Two logs of 100 records, the first of which lies in several segments.
fn two_logs(home: &Path) -> (Log, Log) {
    let log = filled(home, 100);
    let mut other = Log::new(1);
    open(home).unwrap().append(&mut other, 100);
    (log, other)
}

#[test]
fn a_damaged_log_leaves_the_others_in_service() {
    let home = tempfile::tempdir().unwrap();
    let (log, mut other) = two_logs(home.path());
    let last = log.tail.next_address().segment;
    let here: Vec<_> = log.records.iter().filter(|r| r.header.address.segment == last).collect();
    let lost = here[here.len() / 2];
    let file = segment(home.path(), log.id, last);
    // In its header, and in its payload.
    for byte in [20, 110] {
        flip(&file, lost.header.address.offset + byte);
        let opened = assert_damaged(home.path(), lost.header.address, &file);
        assert_holds(&opened, &other);
        opened.append(&mut other, 5);
        assert_holds(&open_again(opened, home.path()), &other);

        let opened = open(home.path()).unwrap();
        let found = opened.found(log.id);
        assert_eq!((found.name.as_str(), found.tail.next_number()), ("log 0", lost.header.number));
        assert_eq!(found.readable_end, log.tail.next_address());
        for record in &log.records {
            let read = opened.store.read(log.id, record.header.address);
            if record == lost {
                assert_corrupt(read, lost.header.address, &file);
            } else {
                assert_eq!(&read.unwrap(), record);
            }
        }
        // In log order, up to the damage and not past it.
        let start = here[0].header.address;
        let before = opened.store.read_from(log.id, start, 1 << 20).unwrap();
        assert_eq!(before.iter().collect::<Vec<_>>(), here[..here.len() / 2]);
        assert_corrupt(
            opened.store.read_from(log.id, lost.header.address, 1 << 20),
            lost.header.address,
            &file,
        );
        drop(opened);
        flip(&file, lost.header.address.offset + byte);
    }
    let opened = open(home.path()).unwrap();
    assert_holds(&opened, &log);
}

fn open_again(opened: Opened, home: &Path) -> Opened {
    drop(opened);
    open(home).unwrap()
}

#[test]
fn a_damaged_log_takes_no_record_and_is_not_cut() {
    let home = tempfile::tempdir().unwrap();
    let (mut log, mut other) = two_logs(home.path());
    let lost = log.records[99].header.address;
    let file = segment(home.path(), log.id, lost.segment);
    let length = fs::metadata(&file).unwrap().len();
    fs::File::options().write(true).open(&file).unwrap().set_len(u64::from(lost.offset) + 50).unwrap();
    let opened = assert_damaged(home.path(), lost, &file);
    assert_eq!(opened.found(log.id).readable_end, lost);
    assert_corrupt(opened.store.read(log.id, lost), lost, &file);
    let no_record = opened.store.read(log.id, LogAddress { offset: lost.offset - 8, ..lost });
    assert!(matches!(no_record, Err(StoreError::NoRecord { .. } | StoreError::Corrupt(_))), "{no_record:?}");
    // Whoever writes to it all the same gets no answer that it is durable; the other log is.
    opened.store.append(log.next()).unwrap();
    opened.append(&mut other, 1);
    let shorter = Log::after(0, SEGMENT_BYTES, 50).tail;
    opened.store.rewind(log.id, shorter).unwrap();
    let failed = opened.event();
    assert!(matches!(failed, StoreEvent::Failed { log: LogId(0), .. }), "{failed:?}");
    drop(opened);
    // What was lost comes back from the other site, whose file has the same bytes.
    let mut bytes = fs::read(&file).unwrap();
    bytes.resize(length as usize, 0);
    let record = log.records[99].bytes();
    bytes[lost.offset as usize..lost.offset as usize + record.len()].copy_from_slice(&record);
    fs::write(&file, bytes).unwrap();
    assert_goes_on(home.path(), 100, false);
}

#[test]
fn a_log_without_files_is_damaged_where_others_have_theirs() {
    let home = tempfile::tempdir().unwrap();
    let (log, other) = two_logs(home.path());
    let place = home.path().join("logs").join("0");
    let aside = home.path().join("aside");
    fs::rename(&place, &aside).unwrap();
    let opened = assert_damaged(home.path(), Tail::first_address(), &place);
    let found = opened.found(log.id);
    assert_eq!((found.name.as_str(), found.tail.next_number()), ("", 0));
    assert_corrupt(opened.store.read(log.id, log.records[3].header.address), Tail::first_address(), &place);
    assert_holds(&opened, &other);
    drop(opened);
    fs::rename(&aside, &place).unwrap();
    assert_holds(&open(home.path()).unwrap(), &log);
}

#[test]
fn what_a_damaged_log_freed_stays_freed() {
    let home = tempfile::tempdir().unwrap();
    let log = filled(home.path(), 25);
    let file = segment(home.path(), log.id, SegmentId(0));
    // Record 20 frees record 19. Both are in the first segment, with the damaged one before them.
    assert_eq!(log.records[24].header.address.segment, SegmentId(0));
    let lost = log.records[15].header.address;
    flip(&file, lost.offset + 30);
    let opened = assert_damaged(home.path(), lost, &file);
    let active = &opened.found(log.id).active;
    assert!(active.is_freed(9) && active.is_freed(19) && !active.is_freed(18));
    assert_eq!(opened.found(log.id).newest, log.records[24].header.time);
}
