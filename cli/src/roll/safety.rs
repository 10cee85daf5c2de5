//! Whether a node may be stopped, and which one is next. No questions are asked here: the state is given.

use super::state::ClusterState;
use crate::client::join;

/// A voter that had everything not longer ago than this is counted on.
const CAUGHT_UP_MS: i64 = 10_000;
/// Partitions that are named; of the others only the number.
const NAMED_MAX: usize = 10;

/// The node to restart next: those that are down first, the active controller last.
pub fn next(left: &[i32], state: &ClusterState) -> Option<i32> {
    let order = |id: &i32| {
        (
            *id == state.active_controller,
            state.brokers.contains_key(id),
            *id,
        )
    };
    left.iter().copied().min_by_key(order)
}

/// What would be wrong if the node stopped; nothing if it may.
pub fn dangers(state: &ClusterState, node: i32) -> Vec<String> {
    let mut dangers: Vec<String> = Vec::new();
    let hit = state
        .partitions
        .iter()
        .filter(|it| it.isr.contains(&node) && it.isr.len() <= it.min_isr);
    let hit: Vec<_> = hit.collect();
    for it in hit.iter().take(NAMED_MAX) {
        let rest: Vec<i32> = it.isr.iter().copied().filter(|id| *id != node).collect();
        let rest = if rest.is_empty() {
            "none".to_owned()
        } else {
            join(rest)
        };
        dangers.push(format!(
            "{}-{} has {} of its {} replicas in sync ({}), and min.insync.replicas is {}",
            it.topic,
            it.partition,
            it.isr.len() - 1,
            it.replicas.len(),
            rest,
            it.min_isr
        ));
    }
    if hit.len() > NAMED_MAX {
        dangers.push(format!(
            "{} more partitions fall under min.insync.replicas",
            hit.len() - NAMED_MAX
        ));
    }
    dangers.extend(quorum_danger(state, node));
    dangers
}

/// Whether waiting does not help: a partition has no more replicas than have to be in sync.
pub fn is_hopeless(state: &ClusterState, node: i32) -> bool {
    state
        .partitions
        .iter()
        .any(|it| it.isr.contains(&node) && it.replicas.len() <= it.min_isr)
}

fn quorum_danger(state: &ClusterState, node: i32) -> Option<String> {
    if !state.voters.iter().any(|voter| voter.id == node) {
        return None;
    }
    let majority = state.voters.len() / 2 + 1;
    let newest = state
        .voters
        .iter()
        .map(|voter| voter.last_caught_up_ms)
        .max()
        .unwrap_or(-1);
    let counted_on = state.voters.iter().filter(|voter| {
        let current = newest - voter.last_caught_up_ms <= CAUGHT_UP_MS || voter.id == state.active_controller;
        voter.id != node && current
    });
    let counted_on = counted_on.count();
    (counted_on < majority).then(|| {
        format!(
            "the quorum has {counted_on} of {} voters that are up to date, and needs {majority}",
            state.voters.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::state::{PartitionState, Voter};
    use super::*;

    fn partition(topic: &str, isr: &[i32], min_isr: usize) -> PartitionState {
        PartitionState {
            topic: topic.to_owned(),
            partition: 0,
            replicas: vec![1, 2, 3],
            isr: isr.to_vec(),
            min_isr,
        }
    }

    fn state(partitions: Vec<PartitionState>) -> ClusterState {
        let voter = |id| Voter {
            id,
            last_caught_up_ms: 100_000,
        };
        ClusterState {
            active_controller: 2,
            voters: [1, 2, 3].map(voter).to_vec(),
            partitions,
            ..ClusterState::default()
        }
    }

    #[test]
    fn the_active_controller_comes_last() {
        let mut state = state(Vec::new());
        state.brokers = [1, 2, 3].map(|id| (id, String::new())).into();
        assert_eq!(next(&[1, 2, 3], &state), Some(1));
        assert_eq!(next(&[2, 3], &state), Some(3));
        assert_eq!(next(&[2], &state), Some(2));
        assert_eq!(next(&[], &state), None);
        state.brokers.remove(&3);
        assert_eq!(next(&[1, 2, 3], &state), Some(3));
    }

    #[test]
    fn a_node_may_stop_while_every_partition_keeps_enough_replicas() {
        let whole = state(vec![partition("a", &[1, 2, 3], 2), partition("b", &[2, 3], 2)]);
        assert_eq!(dangers(&whole, 1), Vec::<String>::new());
        let named = dangers(&whole, 2);
        assert_eq!(
            named,
            ["b-0 has 1 of its 3 replicas in sync (3), and min.insync.replicas is 2"]
        );
        assert!(!is_hopeless(&whole, 2));
        let mut narrow = whole.clone();
        narrow.partitions[1].replicas = vec![2, 3];
        assert!(is_hopeless(&narrow, 2) && !is_hopeless(&narrow, 1));
        let many = state(
            (0..25)
                .map(|index| partition(&format!("t{index}"), &[1], 1))
                .collect(),
        );
        assert_eq!(dangers(&many, 1).len(), NAMED_MAX + 1);
        assert!(dangers(&many, 2).is_empty());
    }

    #[test]
    fn a_voter_may_stop_while_the_others_are_a_majority() {
        let mut lagging = state(Vec::new());
        lagging.voters[2].last_caught_up_ms = 50_000;
        assert!(dangers(&lagging, 3).is_empty());
        assert_eq!(
            dangers(&lagging, 1),
            ["the quorum has 1 of 3 voters that are up to date, and needs 2"]
        );
        lagging.voters.clear();
        assert!(dangers(&lagging, 1).is_empty());
    }

    #[test]
    fn a_node_is_missed_only_where_it_is_still_a_replica() {
        let now = state(vec![partition("a", &[2], 1), partition("b", &[1, 2], 1)]);
        let wanted = [
            ("a".to_owned(), 0),
            ("b".to_owned(), 0),
            ("deleted".to_owned(), 0),
        ];
        assert_eq!(now.missing(1, &wanted), ["a-0"]);
        assert_eq!(now.in_sync(1), [("b".to_owned(), 0)]);
    }
}
