//! What the journal promises, on a disk that loses power, bits and space.

use bytes::Bytes;
use proptest::prelude::*;

use super::{simulated::SimulatedDisk, *};
use crate::store::{FIRST_REVISION, Floors, ObjectKey, Operation, Record, Removal};

const SIZES: Sizes = Sizes {
    segment: 64 << 10,
    step: 16 << 10,
};

fn batch(after: u64, sizes: &[usize]) -> Batch {
    let records = (after + 1..).zip(sizes).map(|(revision, size)| Record {
        revision,
        operation: Operation::Put,
        key: ObjectKey::new("things", "default", format!("thing-{revision}")),
        previous: (revision % 3 == 0).then_some(7),
        time_ms: 5,
        rv_offset: 9,
        body: vec![u8::try_from(revision % 251).unwrap(); *size].into(),
    });
    let removals = (0..after % 3).map(|n| Removal {
        revision: after - n,
        bytes: 99,
    });
    Batch {
        after,
        records: records.collect(),
        removals: removals.collect(),
        floors: after
            .is_multiple_of(2)
            .then(|| Floors::from([("things".into(), after)])),
    }
}

fn begin(disk: &SimulatedDisk, applied: u64) -> Result<Journal, JournalError> {
    let found = read(disk, applied)?;
    assert!(found.frames.is_empty(), "something is not applied");
    Journal::start(Box::new(disk.clone()), SIZES, found, applied)
}

/// The batches that were appended, as text that can be compared.
fn text(batches: &[Batch]) -> Vec<String> {
    batches.iter().map(|batch| format!("{batch:?}")).collect()
}

fn found(disk: &SimulatedDisk, applied: u64) -> Result<Vec<Batch>, JournalError> {
    let frames = read(disk, applied)?.frames;
    for (frame, sequence) in frames.iter().zip(applied + 1..) {
        assert_eq!(frame.sequence, sequence);
    }
    Ok(frames.into_iter().map(|frame| frame.batch).collect())
}

/// Appends batches of these sizes; those that were acknowledged, and the one that was not.
fn append(journal: &Journal, sizes: &[Vec<usize>]) -> (Vec<Batch>, Option<Batch>) {
    let mut acknowledged = Vec::new();
    let mut after = FIRST_REVISION - 1;
    for sizes in sizes {
        let batch = batch(after, sizes);
        let appended = journal.append(&batch);
        if appended.is_err() {
            return (acknowledged, Some(batch));
        }
        if appended.is_ok_and(|(_, prepare)| prepare) {
            // As in life, it does not matter whether this succeeds.
            let _ = journal.prepare();
        }
        after += batch.records.len() as u64;
        acknowledged.push(batch);
    }
    (acknowledged, None)
}

fn batches() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let size = prop_oneof![6 => 1..3000_usize, 1 => 20_000..90_000_usize];
    prop::collection::vec(prop::collection::vec(size, 0..4), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_appended_is_read_again_from_wherever_the_database_is(
        sizes in batches(),
        applied in 0..40_usize,
    ) {
        let disk = SimulatedDisk::default();
        let journal = begin(&disk, 0).unwrap();
        let (all, _) = append(&journal, &sizes);
        disk.restart();
        let applied = applied.min(all.len());
        let rest = found(&disk, applied as u64).unwrap();
        prop_assert_eq!(text(&rest), text(&all[applied..]));
    }

    #[test]
    fn a_power_cut_at_any_operation_loses_nothing_that_was_acknowledged(
        sizes in batches(),
        cut in 0..120_usize,
        seed: u64,
        reclaim in 0..3_usize,
    ) {
        let disk = SimulatedDisk::default();
        disk.cut_after(cut, seed);
        let mut applied = 0;
        let (mut acknowledged, mut refused) = (Vec::new(), None);
        if let Ok(journal) = begin(&disk, 0) {
            let mut after = FIRST_REVISION - 1;
            for sizes in &sizes {
                let batch = batch(after, sizes);
                after += batch.records.len() as u64;
                let Ok((sequence, _)) = journal.append(&batch) else {
                    refused = Some(batch);
                    break;
                };
                        acknowledged.push(batch);
                        let _ = journal.prepare();
                        if reclaim > 0 && sequence % 5 == 0 {
                            applied = sequence - reclaim as u64;
                            let _ = journal.reclaim(applied);
                        }
            }
        }
        disk.restart();
        let rest = text(&found(&disk, applied).unwrap());
        let applied = usize::try_from(applied).unwrap();
        let mut wanted = text(&acknowledged[applied..]);
        if rest.len() > wanted.len() {
            wanted.extend(refused.map(|batch| format!("{batch:?}")));
        }
        prop_assert_eq!(rest, wanted);
        // And it goes on from there.
        let last = applied as u64 + u64::try_from(found(&disk, applied as u64).unwrap().len()).unwrap();
        let journal = begin(&disk, last).unwrap();
        let (more, _) = append(&journal, &[vec![5], vec![6]]);
        prop_assert_eq!(text(&found(&disk, last).unwrap()), text(&more));
    }

    #[test]
    fn a_flipped_bit_is_damage_or_in_the_last_batch_or_in_nothing(
        sizes in batches(),
        place: prop::sample::Index,
        file: prop::sample::Index,
        bit in 0..8_u8,
    ) {
        let disk = SimulatedDisk::default();
        let journal = begin(&disk, 0).unwrap();
        let (all, _) = append(&journal, &sizes);
        let names = disk.names().unwrap();
        disk.tamper(&names[file.index(names.len())], |bytes| {
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
        });
        match found(&disk, 0) {
            Err(JournalError::Damaged(_)) => {}
            Err(error) => prop_assert!(false, "{}", error),
            Ok(rest) => {
                prop_assert!(rest.len() + 1 >= all.len(), "{} of {} batches are lost", all.len() - rest.len(), all.len());
                prop_assert_eq!(text(&rest), text(&all[..rest.len()]));
            }
        }
    }

    #[test]
    fn a_full_disk_refuses_a_batch_and_keeps_the_others(sizes in batches(), space in 16_384..400_000_usize) {
        let disk = SimulatedDisk::default();
        disk.limit_space(Some(space));
        let Ok(journal) = begin(&disk, 0) else { return Ok(()) };
        let (acknowledged, _) = append(&journal, &sizes);
        disk.limit_space(None);
        prop_assert_eq!(text(&found(&disk, 0).unwrap()), text(&acknowledged));
    }

    #[test]
    fn any_bytes_are_a_segment_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut buffer = Buffer::default();
        encode_frame(&[7; 16], 1, &batch(FIRST_REVISION, &[10]), &mut buffer).unwrap();
        let mut segment = vec![0; BLOCK];
        segment.extend_from_slice(buffer.bytes());
        segment[BLOCK + 44..BLOCK + 44 + bytes.len()].copy_from_slice(&bytes);
        let _ = frame::scan(&Bytes::from(segment), &[7; 16]);
        let _ = frame::decode_header(&bytes);
    }
}

#[test]
fn a_bit_flipped_before_the_last_batch_is_damage_that_names_file_and_batch() {
    let disk = SimulatedDisk::default();
    let journal = begin(&disk, 0).unwrap();
    append(&journal, &[vec![10], vec![20], vec![30]]);
    let name = numbered(SEGMENT, 1);
    disk.tamper(&name, |bytes| bytes[2 * BLOCK + 60] ^= 4);
    let error = found(&disk, 0).unwrap_err().to_string();
    assert_eq!(
        error,
        "journal file `segment-00000000000000000001`: batch 2 was acknowledged and cannot be read, though batch 3 is there"
    );
    // What the database has need not be readable.
    assert_eq!(found(&disk, 2).unwrap().len(), 1);
    disk.tamper(&name, |bytes| bytes[9] ^= 4);
    let error = found(&disk, 2).unwrap_err().to_string();
    assert!(error.contains(&name) && error.contains("header"), "{error}");
}

#[test]
fn a_segment_that_is_missing_is_damage() {
    let disk = SimulatedDisk::default();
    let journal = begin(&disk, 0).unwrap();
    let (all, _) = append(&journal, &vec![vec![9000]; 20]);
    disk.remove(&numbered(SEGMENT, 1)).unwrap();
    let error = found(&disk, 0).unwrap_err();
    assert!(matches!(error, JournalError::Damaged(_)), "{error}");
    assert!(found(&disk, all.len() as u64).unwrap().is_empty());
}

#[test]
fn a_frame_inside_an_object_is_not_taken_for_one() {
    let disk = SimulatedDisk::default();
    let journal = begin(&disk, 0).unwrap();
    append(&journal, &[vec![10]]);
    let stolen = disk.read(&numbered(SEGMENT, 1)).unwrap();
    let mut object = vec![0; 4 * BLOCK];
    for at in (BLOCK..4 * BLOCK).step_by(64) {
        object[at..at + 64].copy_from_slice(&stolen[BLOCK..BLOCK + 64]);
    }
    // Another use of the segment has another salt, whatever objects hold.
    let journal = begin(&disk, 1).unwrap();
    let mut hostile = batch(FIRST_REVISION, &[object.len()]);
    hostile.records[0].body = object.into();
    journal.append(&hostile).unwrap();
    journal.append(&batch(FIRST_REVISION + 1, &[10])).unwrap();
    disk.tamper(&numbered(SEGMENT, 2), |bytes| bytes[6 * BLOCK..].fill(0));
    assert_eq!(found(&disk, 1).unwrap().len(), 1);
}

#[test]
fn segments_are_used_again_once_the_database_has_their_batches() {
    let disk = SimulatedDisk::default();
    let journal = begin(&disk, 0).unwrap();
    let mut most = 0;
    for n in 0..200 {
        let (sequence, _) = journal.append(&batch(FIRST_REVISION + n, &[9000])).unwrap();
        journal.prepare().unwrap();
        if n % 10 == 9 {
            journal.reclaim(sequence).unwrap();
        }
        most = most.max(disk.names().unwrap().len());
    }
    assert!(most <= 6, "{most} files at once");
    assert!(journal.bytes_on_disk() <= 7 * (SIZES.segment + SIZES.step));
    let names = disk.names().unwrap();
    release_spares(&disk).unwrap();
    let kept = disk.names().unwrap();
    assert!(kept.len() < names.len(), "{names:?}");
    assert!(
        kept.iter().all(|name| name.starts_with(SEGMENT)),
        "{kept:?}"
    );
}

#[test]
fn a_journal_of_a_later_version_is_refused_by_name() {
    let mut header = Buffer::default();
    encode_header(1, &[7; 16], &mut header);
    let mut bytes = header.bytes().to_vec();
    bytes[15] = 9;
    let checksum = crc32fast::hash(&bytes[12..40]);
    bytes[8..12].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(
        frame::decode_header(&bytes),
        Err(frame::SegmentError::Version(9))
    );
}
