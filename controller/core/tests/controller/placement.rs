//! Replica placement.

use std::collections::{BTreeMap, BTreeSet};

use odradek_controller_core::controller::{PlacementBroker, place_replicas};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn broker(id: i32, rack: Option<&str>, fenced: bool) -> PlacementBroker {
    PlacementBroker {
        id,
        rack: rack.map(Into::into),
        fenced,
    }
}

fn counted(ids: impl Iterator<Item = i32>) -> BTreeMap<i32, usize> {
    let mut counts = BTreeMap::new();
    for id in ids {
        *counts.entry(id).or_default() += 1;
    }
    counts
}

#[test]
fn leaders_replicas_and_successors_are_even() {
    let brokers: Vec<_> = (0..5).map(|id| broker(id, None, false)).collect();
    let placed = place_replicas(brokers, 40, 3, &mut StdRng::seed_from_u64(1)).unwrap();
    assert!(
        counted(placed.iter().map(|replicas| replicas[0]))
            .values()
            .all(|count| *count == 8)
    );
    assert!(
        counted(placed.iter().flatten().copied())
            .values()
            .all(|count| *count == 24)
    );
    let next: BTreeSet<i32> = placed
        .iter()
        .filter(|replicas| replicas[0] == 0)
        .map(|replicas| replicas[1])
        .collect();
    assert!(
        next.len() > 1,
        "when broker 0 dies, more than one broker takes over"
    );
}

#[test]
fn a_fenced_broker_holds_replicas_but_leads_nothing() {
    let brokers = vec![
        broker(0, None, false),
        broker(1, None, true),
        broker(2, None, false),
    ];
    let placed = place_replicas(brokers.clone(), 10, 2, &mut StdRng::seed_from_u64(1)).unwrap();
    assert!(
        placed.iter().flatten().all(|id| *id != 1),
        "two unfenced brokers suffice"
    );
    let placed = place_replicas(brokers, 10, 3, &mut StdRng::seed_from_u64(1)).unwrap();
    assert!(
        placed
            .iter()
            .all(|replicas| replicas[0] != 1 && replicas.contains(&1))
    );
}

proptest! {
    #[test]
    fn placement_keeps_its_promises(
        shape in proptest::collection::vec((0u8..4, any::<bool>()), 1..12),
        partitions in 1usize..30,
        factor in 1usize..5,
        seed in any::<u64>(),
    ) {
        let racks = ["a", "b", "c", "d"];
        let brokers: Vec<PlacementBroker> = (0..)
            .zip(&shape)
            .map(|(id, (rack, fenced))| broker(id, Some(racks[usize::from(*rack)]), *fenced))
            .collect();
        let unfenced: BTreeSet<i32> = brokers.iter().filter(|b| !b.fenced).map(|b| b.id).collect();
        let placed = place_replicas(brokers.clone(), partitions, factor, &mut StdRng::seed_from_u64(seed));
        let again = place_replicas(brokers.clone(), partitions, factor, &mut StdRng::seed_from_u64(seed));
        prop_assert_eq!(&placed, &again);
        if factor > brokers.len() || unfenced.is_empty() {
            prop_assert!(placed.is_err());
            return Ok(());
        }
        let placed = placed.unwrap();
        prop_assert_eq!(placed.len(), partitions);
        let rack_of: BTreeMap<i32, _> = brokers.iter().map(|b| (b.id, b.rack.clone())).collect();
        let rack_count = rack_of.values().collect::<BTreeSet<_>>().len();
        for replicas in &placed {
            prop_assert_eq!(replicas.len(), factor);
            prop_assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), factor);
            prop_assert!(unfenced.contains(&replicas[0]));
            let used = replicas.iter().map(|id| &rack_of[id]).collect::<BTreeSet<_>>().len();
            prop_assert_eq!(used, factor.min(rack_count), "as many racks as there can be");
        }
        let leaders = counted(placed.iter().map(|replicas| replicas[0]));
        let most = leaders.values().max().copied().unwrap_or(0);
        prop_assert!(most <= partitions.div_ceil(unfenced.len()));
    }
}
