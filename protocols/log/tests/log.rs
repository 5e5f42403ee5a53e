//! A log that is placed, stored, damaged and scanned.

use bytes::Bytes;
use parhelion_log::{
    Record, RecordError, RecordFields, RecordHeader, RecordKind, SEGMENT_HEADER_BYTES, Scan, ScanEnd,
    SegmentHeader, Tail,
};
use parhelion_types::{Durability, Epoch, LogAddress, LogId, RequestId, SegmentId, SourceTime, TraceContext};
use proptest::prelude::*;

const LOG: LogId = LogId(7);
const SEGMENT_BYTES: u32 = 1 << 20;

fn fields(n: u64) -> RecordFields {
    RecordFields {
        kind: RecordKind::Append,
        durability: Durability::Network,
        time: SourceTime(1000 + n),
        request: RequestId(u128::from(n) + 1),
        trace: TraceContext { trace: 3, span: 4, sampled: n.is_multiple_of(2) },
    }
}

/// Places records in one segment; returns its bytes, the records and the tail.
fn segment(lengths: &[usize]) -> (Vec<u8>, Vec<Record>, Tail) {
    let mut tail = Tail::new(LOG);
    let header = SegmentHeader { log: LOG, segment: SegmentId(0), first_number: 0, chain: 0 };
    let mut bytes = header.to_bytes().to_vec();
    let mut records = Vec::new();
    for (n, &length) in lengths.iter().enumerate() {
        let (record, opens) = tail.place(fields(n as u64), &vec![n as u8; length], SEGMENT_BYTES);
        assert_eq!(opens, n == 0);
        bytes.resize(record.header.address.offset as usize, 0);
        bytes.extend_from_slice(&record.bytes());
        records.push(record);
    }
    bytes.resize(bytes.len().next_multiple_of(8) + 256, 0);
    (bytes, records, tail)
}

fn scan(bytes: &[u8]) -> (Vec<Record>, Tail, ScanEnd) {
    let mut scan = Scan::new(Bytes::copy_from_slice(bytes), Tail::new(LOG));
    let records = scan.by_ref().map(|(record, _)| record).collect();
    (records, scan.tail(), scan.end().cloned().expect("an exhausted scan has an end"))
}

#[test]
fn the_layout_is_frozen() {
    let mut tail = Tail::new(LogId(0x0102));
    tail.promote(Epoch(9));
    let trace = TraceContext { trace: 0x0d, span: 0x0e, sampled: true };
    let fields = RecordFields {
        kind: RecordKind::Append,
        durability: Durability::Remote,
        time: SourceTime(0x0a),
        request: RequestId(0x0b),
        trace,
    };
    let (record, _) = tail.place(fields, b"abc", SEGMENT_BYTES);
    let bytes = record.bytes();
    let mut golden = Vec::new();
    golden.extend_from_slice(b"PREC");
    golden.extend_from_slice(&[1, 0, 2, 2, 2, 1, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 3, 0, 0, 0]);
    golden.extend_from_slice(&0u64.to_le_bytes());
    golden.extend_from_slice(&0x0au64.to_le_bytes());
    golden.extend_from_slice(&9u32.to_le_bytes());
    golden.extend_from_slice(&1u32.to_le_bytes());
    golden.extend_from_slice(&0x0bu128.to_le_bytes());
    golden.extend_from_slice(&0x0du128.to_le_bytes());
    golden.extend_from_slice(&0x0eu64.to_le_bytes());
    assert_eq!(bytes[..88], golden);
    assert_eq!(bytes[88..92], record.header.digest.to_le_bytes());
    assert_eq!(bytes[92..96], [0; 4]);
    assert_eq!(bytes[96..100], record.header.checksum.to_le_bytes());
    assert_eq!(bytes[100..], [0, 0, 0, 0, b'a', b'b', b'c']);
    assert_eq!(record.header.digest, 0x364b_3fb7, "CRC-32C of abc");
}

#[test]
fn both_sites_reach_the_same_tail() {
    let mut primary = Tail::new(LOG);
    let mut mirror = Tail::new(LOG);
    for n in 0..50 {
        let (record, opens) = primary.place(fields(n), &[1; 3000], 16 << 10);
        assert_eq!(mirror.accept(&record.header), Ok(opens));
        assert_eq!(primary, mirror);
    }
    assert!(primary.next_address().segment > SegmentId(5));
}

#[test]
fn only_the_next_record_is_accepted() {
    let (_, records, _) = segment(&[10, 20, 30]);
    let mut tail = Tail::new(LOG);
    assert!(tail.accept(&records[1].header).is_err());
    tail.accept(&records[0].header).unwrap();
    let before = tail;
    let other = RecordHeader { log: LogId(8), ..records[1].header };
    let elsewhere = RecordHeader { address: LogAddress::new(0, 4096), ..records[1].header };
    let unchained = RecordHeader { previous: 1, ..records[1].header };
    for wrong in [other, elsewhere, unchained, records[0].header, records[2].header] {
        assert!(tail.accept(&wrong).is_err());
        assert_eq!(tail, before);
    }
    tail.promote(Epoch(2));
    assert!(tail.accept(&records[1].header).unwrap_err().to_string().contains("epoch 0 after epoch 2"));
}

#[test]
fn a_truncated_tail_is_torn_and_never_visible() {
    let (bytes, records, _) = segment(&[100, 200, 300]);
    let start = records[2].header.address.offset as usize;
    for length in start..start + records[2].bytes().len() {
        let mut cut = bytes[..length].to_vec();
        cut.resize(bytes.len(), 0);
        let (found, tail, end) = scan(&cut);
        assert_eq!(found, records[..2], "cut at {length}");
        assert_eq!(tail.next_address(), records[2].header.address);
        assert!(matches!(end, ScanEnd::Clean | ScanEnd::Torn { .. }), "cut at {length}: {end:?}");
    }
}

#[test]
fn damage_before_intact_records_is_corruption() {
    let (bytes, records, _) = segment(&[100, 200, 300]);
    let start = records[1].header.address.offset as usize;
    for at in [start, start + 20, start + 50, start + 96, start + 104, start + 303] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let (found, _, end) = scan(&damaged);
        assert_eq!(found, records[..1], "byte {at}");
        assert!(
            matches!(end, ScanEnd::Corrupt { at, .. } if at == records[1].header.address),
            "byte {at}: {end:?}"
        );
    }
}

#[test]
fn a_recycled_file_shows_nothing_of_its_past() {
    // The past: a longer log of the same number in the same file, placed by an older primary.
    let (mut bytes, _, _) = segment(&[500; 20]);
    let mut tail = Tail::new(LOG);
    tail.promote(Epoch(1));
    let (first, _) = tail.place(fields(0), &[9; 500], SEGMENT_BYTES);
    let at = SEGMENT_HEADER_BYTES as usize;
    bytes[at..at + first.bytes().len()].copy_from_slice(&first.bytes());
    let (found, _, end) = scan(&bytes);
    assert_eq!(found, [first]);
    assert_eq!(end, ScanEnd::Clean);
}

/// A record whose header says something that no writer says, under a checksum that fits.
fn crafted(record: &Record, at: usize, field: &[u8]) -> Vec<u8> {
    let mut bytes = record.bytes().to_vec();
    bytes[at..at + field.len()].copy_from_slice(field);
    let checksum = parhelion_wire::crc32c(&bytes[..96]);
    bytes[96..100].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn fields_without_a_successor_are_refused() {
    let (mut segment, records, _) = segment(&[100, 200, 300]);
    let end = records[2].header.next_address().offset as usize;
    for (field, at, value) in
        [("number", 24, &[0xff; 8][..]), ("segment", 12, &[0xff; 4]), ("epoch", 40, &[0xff; 4])]
    {
        let bytes = crafted(&records[1], at, value);
        assert_eq!(Record::parse(Bytes::from(bytes.clone())), Err(RecordError::Field(field)));
        // Wherever a scan meets it: it is no record, and nothing overflows.
        let at = records[1].header.address.offset as usize;
        segment[at..at + bytes.len()].copy_from_slice(&bytes);
        assert_eq!(scan(&segment).0, records[..1], "{field}");
        segment[at..at + bytes.len()].copy_from_slice(&records[1].bytes());
        segment.resize(end + bytes.len() + 8, 0);
        segment[end..end + bytes.len()].copy_from_slice(&bytes);
        assert_eq!(scan(&segment).0, records, "{field}");
    }
}

proptest! {
    #[test]
    fn what_is_placed_is_scanned(lengths in prop::collection::vec(1usize..5000, 0..20)) {
        let (bytes, records, tail) = segment(&lengths);
        prop_assert_eq!(scan(&bytes), (records, tail, ScanEnd::Clean));
    }

    #[test]
    fn no_flipped_bit_is_taken_for_data(lengths in prop::collection::vec(1usize..300, 1..6), bit in 0usize..20_000) {
        let (bytes, records, _) = segment(&lengths);
        let at = SEGMENT_HEADER_BYTES as usize * 8 + bit % ((bytes.len() - SEGMENT_HEADER_BYTES as usize) * 8);
        let mut damaged = bytes;
        damaged[at / 8] ^= 1 << (at % 8);
        let (found, ..) = scan(&damaged);
        prop_assert!(found.len() <= records.len());
        prop_assert_eq!(&found[..], &records[..found.len()]);
    }

    #[test]
    fn any_bytes_are_scanned(bytes: Vec<u8>) {
        let (found, ..) = scan(&bytes);
        prop_assert!(found.is_empty());
    }

    #[test]
    fn records_survive_the_wire(payload in prop::collection::vec(any::<u8>(), 1..2000), cut in 0usize..3000) {
        let (record, _) = Tail::new(LOG).place(fields(1), &payload, SEGMENT_BYTES);
        let bytes = record.bytes();
        prop_assert_eq!(Record::parse(bytes.clone()), Ok(record));
        if cut < bytes.len() {
            prop_assert!(Record::parse(bytes.slice(..cut)).is_err());
        }
    }
}
