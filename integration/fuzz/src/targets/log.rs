//! Segment files: what recovery reads after a crash, or after somebody else's disk has been at them.
//!
//! Promises: a scan of any bytes ends and never panics; of a segment that was damaged without mending checksums, the
//! records that come out are the first ones that were written, unchanged; a record that is damaged
//! in front of an intact one is never taken for the end.

use bytes::Bytes;
use parhelion_log::{
    ActiveMap, CreatePayload, FreePayload, RECORD_HEADER_BYTES, Record, RecordFields, RecordHeader,
    RecordKind, SEGMENT_HEADER_BYTES, Scan, ScanEnd, SegmentHeader, Tail,
};
use parhelion_types::{Degrade, Durability, Epoch, LogAddress, LogId, RequestId, SourceTime, TraceContext};
use parhelion_wire::crc32c;

use crate::Script;

const LOG: LogId = LogId(3);
const SEGMENT_BYTES: u32 = 16 << 10;
const RECORDS_MAX: usize = 24;
const STEPS_MAX: usize = 32;
/// Where a record header holds its checksum, which covers all before it.
const CHECKSUM_AT: usize = 96;

pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    match script.u8() % 4 {
        0 => any_segment(script),
        1 => payloads(script.rest()),
        _ => damaged_segment(script),
    }
}

/// Bytes that were never a segment, behind a header that says they are one.
fn any_segment(mut script: Script<'_>) {
    let (number, chain, epoch) = (script.near(0), script.u32(), Epoch(script.near(0) as u32));
    let segment = Bytes::copy_from_slice(script.rest());
    let at = match SegmentHeader::parse(&segment) {
        Ok(header) => {
            assert_eq!(SegmentHeader::parse(&header.to_bytes()).as_ref(), Ok(&header));
            Tail::at_segment(header.log, header.segment, header.first_number, header.chain, epoch)
        }
        Err(_) => Tail::at(LOG, LogAddress::new(0, 0), number, chain, epoch),
    };
    scan(&segment, at);
}

fn payloads(bytes: &[u8]) {
    if let Ok(create) = CreatePayload::parse(bytes) {
        assert_eq!(create.to_bytes(), bytes);
    }
    if let Ok(free) = FreePayload::parse(bytes) {
        assert_eq!(free.to_bytes(), bytes);
    }
    if let Some(map) = ActiveMap::parse(bytes) {
        let again = ActiveMap::parse(&map.to_bytes()).expect("it was written here");
        assert_eq!(again, map);
        let _ = (map.freed(), map.is_freed(u64::MAX));
    }
}

/// Real records, then damage.
fn damaged_segment(mut script: Script<'_>) {
    let tail = Tail::new(LOG);
    let (mut bytes, written) = write(&mut script, tail);
    let mut is_mended = false;
    for _ in 0..STEPS_MAX {
        if script.is_over() {
            break;
        }
        is_mended |= damage(&mut script, &mut bytes, &written);
    }
    let segment = Bytes::from(bytes);
    let (read, end) = scan(&segment, tail);
    if is_mended {
        return;
    }
    for (read, written) in read.iter().zip(&written) {
        assert_eq!(read.bytes(), written.bytes(), "a record came out changed");
    }
    assert!(read.len() <= written.len(), "a record came out that was not written");
    // Any record behind the damaged one shows that there was a log to lose.
    let intact = |record: &Record| {
        let start = record.header.address.offset as usize;
        segment.get(start..start + record.bytes().len()).is_some_and(|bytes| bytes == record.bytes())
    };
    let is_followed = written.iter().skip(read.len() + 1).any(intact);
    let is_corrupt = matches!(end, ScanEnd::Corrupt { .. });
    assert!(is_corrupt || !is_followed, "{end:?} after {} of {} records", read.len(), written.len());
}

fn write(script: &mut Script<'_>, mut tail: Tail) -> (Vec<u8>, Vec<Record>) {
    let mut bytes = vec![0; SEGMENT_BYTES as usize];
    let header = SegmentHeader { log: LOG, segment: tail.next_address().segment, first_number: 0, chain: 0 };
    bytes[..SEGMENT_HEADER_BYTES as usize].copy_from_slice(&header.to_bytes());
    let mut records = Vec::new();
    for number in 0..usize::from(script.u8()) % RECORDS_MAX {
        let kind = match (number, script.u8() % 8) {
            (0, _) => RecordKind::Create,
            (_, 0) => RecordKind::Free,
            _ => RecordKind::Append,
        };
        let payload = match kind {
            RecordKind::Create => {
                CreatePayload { degrade: Degrade::Block, name: "orders".to_owned() }.to_bytes()
            }
            RecordKind::Free => FreePayload { appends: vec![(1, LogAddress::new(0, 64))] }.to_bytes(),
            RecordKind::Append => script.bytes(512).to_vec(),
        };
        let fields = RecordFields {
            kind,
            durability: Durability::Network,
            time: SourceTime(number as u64),
            request: RequestId(number as u128),
            trace: TraceContext::default(),
        };
        let (record, _) = tail.place(fields, &payload, SEGMENT_BYTES);
        if record.header.address.segment != header.segment {
            break;
        }
        let start = record.header.address.offset as usize;
        bytes[start..start + record.bytes().len()].copy_from_slice(&record.bytes());
        records.push(record);
    }
    (bytes, records)
}

/// One damage; whether checksums were mended after it.
fn damage(script: &mut Script<'_>, bytes: &mut Vec<u8>, written: &[Record]) -> bool {
    let step = script.u8() % 6;
    let at = usize::from(script.u16()) % bytes.len().max(1);
    match step {
        0 => bytes.truncate(at),
        1 => {
            // A block that never reached the disk.
            let end = bytes.len().min(at + usize::from(script.u16()) % 4096);
            bytes[at.min(end)..end].fill(0);
        }
        2 => {
            // Bytes of an older use of the file, or of another log.
            for (byte, new) in bytes.iter_mut().skip(at).zip(script.bytes(256)) {
                *byte = *new;
            }
        }
        3 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= script.u8();
            }
        }
        _ => {
            // A field of a header, by a writer that is wrong: checksum, and payload digest, fit.
            let Some(record) = written.get(at % written.len().max(1)) else { return false };
            let start = record.header.address.offset as usize;
            let (field, value) = (usize::from(script.u8()) % CHECKSUM_AT, script.near(0).to_le_bytes());
            let width = 1 << (script.u8() % 4);
            let Some(header) = bytes.get_mut(start..start + RECORD_HEADER_BYTES) else { return false };
            let field = field.min(CHECKSUM_AT - width);
            header[field..field + width].copy_from_slice(&value[..width]);
            let checksum = crc32c(&header[..CHECKSUM_AT]);
            header[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
            return true;
        }
    }
    false
}

/// Scans, and checks what holds for any bytes.
fn scan(segment: &Bytes, tail: Tail) -> (Vec<Record>, ScanEnd) {
    let mut scan = Scan::new(segment.clone(), tail);
    let mut accepted = tail;
    let mut records = Vec::new();
    for (record, opens_segment) in scan.by_ref() {
        assert_eq!(accepted.accept(&record.header), Ok(opens_segment), "a scan follows the rules of the log");
        assert_eq!(Record::parse(record.bytes()).as_ref(), Ok(&record), "a record is read as it was stored");
        assert_eq!(RecordHeader::parse(&record.bytes()).as_ref(), Ok(&record.header));
        let payload = record.payload();
        match record.header.kind {
            RecordKind::Create => drop(CreatePayload::parse(&payload)),
            RecordKind::Free => drop(FreePayload::parse(&payload)),
            RecordKind::Append => {}
        }
        records.push(record);
        assert!(records.len() <= segment.len() / RECORD_HEADER_BYTES, "more records than fit into the bytes");
    }
    assert_eq!(scan.tail(), accepted);
    let end = scan.end().expect("a scan that gives no more has ended").clone();
    (records, end)
}

pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let records = |count: u8| {
        let mut script = vec![2, count];
        for number in 0..count {
            script.push(number % 9);
            if number > 0 && number % 9 % 8 != 0 {
                script.extend([5, 0, b'b', b'y', b't', b'e', b's']);
            }
        }
        script
    };
    let damaged = |step: &[u8]| [records(12), step.to_vec()].concat();
    let segment = {
        let (bytes, _) = write(&mut Script::new(&records(4)[1..]), Tail::new(LOG));
        [vec![0; 1 + 1 + 4 + 1], bytes[..800].to_vec()].concat()
    };
    let map = {
        let mut map = ActiveMap::default();
        for number in [1, 2, 64, 1000] {
            map.free(number);
        }
        [vec![1], map.to_bytes()].concat()
    };
    vec![
        ("intact", records(12)),
        ("cut", damaged(&[0, 0, 2])),
        ("hole", damaged(&[1, 0, 2, 200, 0])),
        ("older-use", damaged(&[2, 128, 2, 8, 0, b'P', b'R', b'E', b'C', 1, 0, 2, 0])),
        ("flipped", damaged(&[3, 200, 1, 1])),
        ("mended-number", damaged(&[4, 3, 0, 24, 240, 0, 3])),
        ("segment", segment),
        (
            "create",
            [vec![1], CreatePayload { degrade: Degrade::Fail, name: "orders".to_owned() }.to_bytes()]
                .concat(),
        ),
        ("free", [vec![1], FreePayload { appends: vec![(3, LogAddress::new(1, 64))] }.to_bytes()].concat()),
        ("active-map", map),
    ]
}
