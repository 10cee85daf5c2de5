//! The oracle for transactions on histories made by hand: a good one, and one for each broken promise.

use odradek_oracle::transactions::{Anomaly, End, Event, History, Isolation};

const INPUT: u32 = 0;
const OUTPUT: u32 = 1;
const OTHER: u32 = 2;

fn written(transaction: u64, partition: u32, value: u64) -> Event {
    Event::Written {
        transaction,
        partition,
        value,
        input: None,
    }
}

fn asked(transaction: u64, end: End) -> Event {
    Event::EndAsked { transaction, end }
}

fn ended(transaction: u64, end: End) -> Event {
    Event::Ended { transaction, end }
}

fn read(reader: u32, partition: u32, offset: i64, value: u64) -> Event {
    Event::Read {
        reader,
        isolation: Isolation::ReadCommitted,
        partition,
        offset,
        value,
    }
}

fn read_uncommitted(partition: u32, offset: i64, value: u64) -> Event {
    Event::Read {
        reader: 99,
        isolation: Isolation::ReadUncommitted,
        partition,
        offset,
        value,
    }
}

fn to_end(reader: u32, partition: u32) -> Event {
    Event::ReadToEnd { reader, partition }
}

fn anomalies(events: &[Event]) -> Vec<Anomaly> {
    events.iter().copied().collect::<History>().anomalies()
}

/// A transaction over two partitions, begun and committed.
fn committed(transaction: u64, values: [u64; 2]) -> [Event; 4] {
    [
        written(transaction, OUTPUT, values[0]),
        written(transaction, OTHER, values[1]),
        asked(transaction, End::Commit),
        ended(transaction, End::Commit),
    ]
}

#[test]
fn what_kafka_promises_is_no_anomaly() {
    let mut events = committed(1, [10, 11]).to_vec();
    events.extend([
        written(2, OUTPUT, 20),
        read_uncommitted(OUTPUT, 2, 20),
        asked(2, End::Abort),
        ended(2, End::Abort),
        // The third one's client was killed after it had asked: either is right.
        written(3, OUTPUT, 30),
        written(3, OTHER, 31),
        asked(3, End::Commit),
        read(1, OUTPUT, 0, 10),
        read(1, OUTPUT, 4, 30),
        read(1, OTHER, 0, 11),
        read(1, OTHER, 2, 31),
        to_end(1, OUTPUT),
        to_end(1, OTHER),
    ]);
    assert_eq!(anomalies(&events), []);
    let history: History = events.into_iter().collect();
    assert_eq!(
        history.undecided().into_iter().collect::<Vec<_>>(),
        [(3, Some(End::Commit))]
    );
}

#[test]
fn reads_of_aborted_values() {
    let events = [
        written(1, OUTPUT, 10),
        asked(1, End::Abort),
        read(5, OUTPUT, 0, 10),
        ended(1, End::Abort),
    ];
    let expected = Anomaly::AbortedRead {
        reader: 5,
        value: 10,
        transaction: 1,
    };
    assert_eq!(anomalies(&events), [expected]);
    let mut seen_by_others = events;
    seen_by_others[2] = read_uncommitted(OUTPUT, 0, 10);
    assert_eq!(anomalies(&seen_by_others), [], "whoever reads everything may");
}

#[test]
fn reads_before_the_commit_was_asked_for() {
    let events = [
        written(1, OUTPUT, 10),
        read(5, OUTPUT, 0, 10),
        asked(1, End::Commit),
        ended(1, End::Commit),
    ];
    let expected = Anomaly::UncommittedRead {
        reader: 5,
        value: 10,
        transaction: 1,
    };
    assert_eq!(anomalies(&events), [expected]);
    let mut later = events;
    later.swap(1, 2);
    assert_eq!(
        anomalies(&later),
        [],
        "between question and answer it may be committed"
    );
    assert_eq!(
        anomalies(&events[..2]),
        [expected],
        "nobody ever asked for a commit"
    );
}

#[test]
fn torn_transactions_whoever_knows_of_their_end() {
    for learned in [true, false] {
        let mut events = vec![
            written(1, OUTPUT, 10),
            written(1, OTHER, 11),
            asked(1, End::Commit),
        ];
        if learned {
            events.push(ended(1, End::Commit));
        }
        events.extend([read(1, OUTPUT, 0, 10), to_end(1, OUTPUT)]);
        assert_eq!(anomalies(&events), [], "the other partition was not read yet");
        events.push(to_end(1, OTHER));
        let expected = Anomaly::Torn {
            transaction: 1,
            present: 10,
            missing: 11,
        };
        assert_eq!(anomalies(&events), [expected], "learned: {learned}");
    }
}

#[test]
fn committed_transactions_that_are_gone() {
    let mut events = committed(1, [10, 11]).to_vec();
    events.extend([to_end(1, OUTPUT), to_end(1, OTHER)]);
    let expected = Anomaly::Lost {
        transaction: 1,
        value: 10,
    };
    assert_eq!(anomalies(&events), [expected]);
    events.remove(3);
    assert_eq!(
        anomalies(&events),
        [],
        "without an answer it may have been aborted"
    );
}

#[test]
fn values_at_two_places_and_values_of_nobody() {
    let mut events = committed(1, [10, 11]).to_vec();
    events.extend([
        read(1, OUTPUT, 0, 10),
        read(1, OUTPUT, 1, 10),
        read(1, OTHER, 0, 11),
    ]);
    assert_eq!(anomalies(&events), [Anomaly::Duplicate { value: 10 }]);
    let elsewhere = read(1, INPUT, 0, 12);
    let mut events = committed(1, [10, 11]).to_vec();
    events.extend([elsewhere, read(1, OTHER, 0, 10)]);
    assert_eq!(
        anomalies(&events),
        [
            Anomaly::Unwritten { reader: 1, value: 10 },
            Anomaly::Unwritten { reader: 1, value: 12 }
        ]
    );
}

#[test]
fn readers_that_disagree_or_go_back() {
    let mut events = committed(1, [10, 11]).to_vec();
    events.extend([
        written(2, OUTPUT, 12),
        asked(2, End::Commit),
        read(1, OUTPUT, 0, 10),
        read(2, OUTPUT, 0, 12),
    ]);
    let diverged = Anomaly::Diverged {
        partition: OUTPUT,
        offset: 0,
    };
    assert_eq!(anomalies(&events), [diverged]);
    let mut events = committed(1, [10, 11]).to_vec();
    events.extend([
        written(2, OUTPUT, 12),
        asked(2, End::Commit),
        read(1, OUTPUT, 3, 12),
        read(1, OUTPUT, 0, 10),
    ]);
    let back = Anomaly::OutOfOrder {
        reader: 1,
        partition: OUTPUT,
        offset: 0,
    };
    assert_eq!(anomalies(&events), [back]);
}

#[test]
fn values_in_another_order_than_they_were_sent_in() {
    let events = [
        written(1, OUTPUT, 10),
        written(1, OUTPUT, 11),
        asked(1, End::Commit),
        read(1, OUTPUT, 0, 11),
        read(1, OUTPUT, 1, 10),
    ];
    let expected = Anomaly::Reordered {
        partition: OUTPUT,
        value: 10,
    };
    assert_eq!(anomalies(&events), [expected]);
}

/// A transaction that makes an output of an input and commits the input's position.
fn processed(transaction: u64, input: u64, output: u64) -> [Event; 4] {
    [
        Event::Consumed { transaction, input },
        Event::Written {
            transaction,
            partition: OUTPUT,
            value: output,
            input: Some(input),
        },
        asked(transaction, End::Commit),
        ended(transaction, End::Commit),
    ]
}

#[test]
fn a_loop_that_processes_everything_once() {
    let mut events = processed(1, 100, 200).to_vec();
    // Aborted after a rebalance, and done again by another instance.
    events.extend(processed(2, 101, 201));
    let aborted = events.len() - 2;
    events[aborted] = asked(2, End::Abort);
    events[aborted + 1] = ended(2, End::Abort);
    events.extend(processed(3, 101, 202));
    events.extend([
        read(1, OUTPUT, 0, 200),
        read(1, OUTPUT, 4, 202),
        to_end(1, OUTPUT),
    ]);
    assert_eq!(anomalies(&events), []);
}

#[test]
fn a_loop_that_repeats() {
    let mut events = processed(1, 100, 200).to_vec();
    events.extend(processed(2, 100, 201));
    events.extend([
        read(1, OUTPUT, 0, 200),
        read(1, OUTPUT, 2, 201),
        to_end(1, OUTPUT),
    ]);
    assert_eq!(anomalies(&events), [Anomaly::InputRepeated { input: 100 }]);
    // The second one's position was lost, its output was not: nobody committed the input twice.
    let without_position: Vec<Event> = events
        .iter()
        .copied()
        .filter(|event| !matches!(event, Event::Consumed { transaction: 2, .. }))
        .collect();
    assert_eq!(
        anomalies(&without_position),
        [Anomaly::InputRepeated { input: 100 }]
    );
}

#[test]
fn a_loop_that_passes_an_input_by() {
    let mut events = vec![
        Event::Consumed {
            transaction: 1,
            input: 100,
        },
        asked(1, End::Commit),
        ended(1, End::Commit),
    ];
    events.extend(processed(2, 101, 201));
    events.extend([read(1, OUTPUT, 0, 201), to_end(1, OUTPUT)]);
    assert_eq!(anomalies(&events), [Anomaly::OutputLost { input: 100 }]);
}

#[test]
#[should_panic(expected = "written twice")]
fn a_history_with_one_value_twice_is_of_no_use() {
    _ = anomalies(&[written(1, OUTPUT, 10), written(2, OUTPUT, 10)]);
}
