//! What is due to be compacted, and what must not be touched yet.

use super::*;

fn filled(config: LogConfig, count: usize) -> Fixture {
    let mut fixture = Fixture::with(config);
    fill(&mut fixture, count);
    fixture
}

fn fill(fixture: &mut Fixture, count: usize) {
    for index in 0..count {
        fixture.append_batch(1, keyed(&[("a", Some(&index.to_string()))], Compression::None));
    }
}

#[test]
fn the_dirty_share_decides() {
    let mut fixture = Fixture::with(LogConfig {
        min_cleanable_dirty_ratio: 0.5,
        ..compacted(0)
    });
    let unique = |fixture: &mut Fixture, from: usize, to: usize| {
        for index in from..to {
            fixture.append_batch(
                1,
                keyed(&[(&format!("key-{index:04}"), Some("x"))], Compression::None),
            );
        }
    };
    assert!(!fixture.log.dirtiness(NOW).is_due(), "nothing is there");
    unique(&mut fixture, 0, 100);
    assert_eq!(fixture.log.dirtiness(NOW).ratio(), 1.0);
    assert!(fixture.compact(NOW).segments > 0);
    let clean = fixture.log.dirtiness(NOW);
    assert_eq!((clean.ratio(), clean.dirty_bytes), (0.0, 0));
    assert_eq!(clean.first_dirty_offset, fixture.log.active_segment_base_offset());
    unique(&mut fixture, 100, 180);
    let some = fixture.log.dirtiness(NOW);
    assert!(
        some.ratio() > 0.3 && some.ratio() < 0.5 && !some.is_due(),
        "{some:?}"
    );
    unique(&mut fixture, 180, 240);
    let more = fixture.log.dirtiness(NOW);
    assert!(more.ratio() > 0.5 && more.is_due(), "{more:?}");
}

#[test]
fn old_records_are_compacted_however_few_they_are() {
    let config = LogConfig {
        max_compaction_lag_ms: 1_000,
        min_cleanable_dirty_ratio: 1.0,
        ..compacted(0)
    };
    let mut fixture = filled(config, 100);
    for (after_ms, due) in [(0, false), (1_000, false), (1_001, true)] {
        let dirtiness = fixture.log.dirtiness(NOW.plus_ms(after_ms));
        assert_eq!(dirtiness.is_due(), due, "after {after_ms} ms");
    }
    assert_eq!(fixture.log.dirtiness(NOW.plus_ms(1_234)).delay_ms, 234);
    assert!(fixture.compact(NOW.plus_ms(1_001)).segments > 0);
    assert_eq!(fixture.log.dirtiness(NOW.plus_ms(1_001)).delay_ms, 0);
}

#[test]
fn young_records_are_left_alone() {
    let config = LogConfig {
        min_compaction_lag_ms: 1_000,
        ..compacted(0)
    };
    let mut fixture = filled(config, 100);
    assert_eq!(fixture.compact(NOW.plus_ms(999)).segments, 0);
    assert_eq!(entries(&fixture.log).len(), 100);
    assert!(fixture.compact(NOW.plus_ms(1_000)).segments > 0);
}

#[test]
fn nothing_above_the_high_watermark_is_touched() {
    let mut fixture = filled(compacted(0), 100);
    fixture.log.set_high_watermark(50);
    fixture.compact(NOW);
    let kept: Vec<i64> = entries(&fixture.log)
        .iter()
        .map(|(offset, _, _)| *offset)
        .collect();
    assert!(kept.len() >= 51 && kept.len() < 80, "{kept:?}");
    assert!((50..100).all(|offset| kept.contains(&offset)));
}

#[test]
fn nothing_from_an_open_transaction_on_is_touched() {
    let mut fixture = filled(compacted(0), 50);
    fixture.append_batch(1, producer_batch(7, 0, 0, true));
    fill(&mut fixture, 50);
    fixture.compact(NOW);
    assert!(fixture.log.cleaner_offset() <= 50);
    let kept = entries(&fixture.log);
    assert!(kept.len() < 80 && kept.iter().filter(|(offset, ..)| *offset >= 50).count() == 51);
}

#[test]
fn the_active_segment_is_not_touched() {
    let mut fixture = filled(
        LogConfig {
            segment_bytes: 1 << 20,
            ..compacted(0)
        },
        100,
    );
    assert_eq!(fixture.compact(NOW).segments, 0);
    fixture.log.roll(NOW).unwrap();
    assert_eq!(fixture.compact(NOW).segments, 1);
    assert_eq!(entries(&fixture.log).len(), 1);
}
