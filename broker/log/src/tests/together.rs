//! Many batches in one append: each gets what it would have got alone, in one write where they fit.

use super::*;

/// Appends all at once; what became of each, in one line.
fn append_together(fixture: &mut Fixture, batches: &[Bytes]) -> Vec<String> {
    let mut placed: Vec<LeaderBatch<'_>> = batches
        .iter()
        .map(|batch| LeaderBatch::whole(batch).unwrap())
        .collect();
    fixture.log.append_as_leader(NOW, 1, &mut placed).unwrap();
    fixture.log.set_high_watermark(fixture.log.log_end_offset());
    let outcomes = placed.iter_mut().map(|batch| batch.take_outcome().unwrap());
    outcomes
        .map(|outcome| match outcome {
            Ok(info) if info.duplicate => format!("duplicate {}", info.first_offset),
            Ok(info) => format!("{}-{}", info.first_offset, info.last_offset),
            Err(AppendError::Refused(error)) => format!("refused {}", error.code()),
            Err(error) => panic!("{error}"),
        })
        .collect()
}

/// A plain batch whose value has this size.
fn sized(bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(0);
    builder.append(NOW.wall_ms, None, Some(&vec![b'x'; bytes]), &[]);
    builder.build()
}

#[test]
fn batches_of_one_append_follow_one_another_and_survive_a_kill() {
    let mut fixture = Fixture::new();
    let outcomes = append_together(&mut fixture, &[batch(1, 3), batch(2, 1), batch(3, 2)]);
    assert_eq!(outcomes, ["0-2", "3-3", "4-5"]);
    let contents = fixture.contents();
    assert_eq!(contents.len(), 6);
    assert_eq!(fixture.kill().contents(), contents);
}

#[test]
fn small_and_large_pieces_lie_in_the_file_as_they_came() {
    let mut fixture = Fixture::new();
    // Below and above what is gathered before it is written.
    for sizes in [[10, 20, 30], [10_000, 40_000, 10], [1, 200_000, 3]] {
        append_together(&mut fixture, &sizes.map(sized));
    }
    let lengths: Vec<usize> = fixture.contents().iter().map(|(_, value)| value.len()).collect();
    assert_eq!(lengths, [10, 20, 30, 10_000, 40_000, 10, 1, 200_000, 3]);
    assert!(
        fixture
            .contents()
            .iter()
            .all(|(_, value)| value.iter().all(|byte| *byte == b'x'))
    );
}

#[test]
fn a_producer_s_batches_continue_one_another_within_an_append() {
    let mut fixture = Fixture::new();
    let from = |sequence| producer_batch(7, 0, sequence, false);
    let other = producer_batch(8, 0, 0, false);
    let outcomes = append_together(&mut fixture, &[from(0), other, from(1), batch(1, 1), from(2)]);
    assert_eq!(outcomes, ["0-0", "1-1", "2-2", "3-3", "4-4"]);
    // A duplicate of what the same append brought, a gap, and one that goes on behind both.
    let outcomes = append_together(&mut fixture, &[from(3), from(3), from(5), from(4)]);
    assert_eq!(outcomes, ["5-5", "duplicate 5", "refused 45", "6-6"]);
    let mut alone = Fixture::new();
    for sequence in 0..3 {
        alone.append_batch(1, from(sequence));
    }
    let known = |fixture: &Fixture| {
        let state = fixture.log.producers().get(7).unwrap().clone();
        (state.last_sequence(), state.batches.len())
    };
    assert_eq!((known(&fixture), known(&alone)), ((4, 5), (2, 3)));
}

#[test]
fn a_new_epoch_or_a_transaction_within_an_append_is_judged_on_what_came_before() {
    let mut fixture = Fixture::new();
    let outcomes = append_together(
        &mut fixture,
        &[
            producer_batch(7, 0, 0, false),
            producer_batch(7, 1, 0, false),
            producer_batch(7, 0, 1, false),
            producer_batch(7, 1, 1, true),
            producer_batch(7, 1, 2, false),
        ],
    );
    // The old epoch is fenced; a plain batch within an open transaction is refused.
    assert_eq!(outcomes, ["0-0", "1-1", "refused 47", "2-2", "refused 48"]);
    assert_eq!(fixture.log.last_stable_offset(), 2);
}

#[test]
fn a_segment_that_fills_up_parts_an_append() {
    let mut fixture = Fixture::with(small_segments());
    let batches = vec![sized(300); 10];
    let outcomes = append_together(&mut fixture, &batches);
    assert_eq!(outcomes[9], "9-9");
    assert_eq!(fixture.contents().len(), 10);
    // A segment of 1,000 bytes takes two of them.
    let each = batches[0].len() as u64;
    assert!(fixture.log.segments() as u64 >= 10 / (1_000 / each));
    let too_large = append_together(&mut fixture, &[sized(1), sized(2_000), sized(2)]);
    assert_eq!(too_large, ["10-10", "refused 18", "11-11"]);
    assert_eq!(fixture.kill().contents().len(), 12);
}
