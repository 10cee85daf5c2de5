//! Where the replicas of new partitions go.
//!
//! No two replicas of a partition share a broker; racks are used evenly, then brokers; leaders are spread evenly over
//! unfenced brokers, and so are the replicas that would lead next. Fenced brokers are taken last within a rack. The same
//! brokers and the same random numbers give the same placement.

use std::collections::BTreeMap;
use std::sync::Arc;

use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NodeId;
use odradek_common::metadata::MetadataImage;
use rand::Rng;
use rand::seq::SliceRandom;

/// A broker that replicas may be placed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementBroker {
    /// Its id.
    pub id: NodeId,
    /// `broker.rack`; brokers without one share a rack.
    pub rack: Option<Arc<str>>,
    /// It cannot lead now.
    pub fenced: bool,
}

/// The brokers of an image that replicas may be placed on: those that are not about to stop.
pub(super) fn placement_brokers(image: &MetadataImage) -> Vec<PlacementBroker> {
    let staying = image
        .brokers
        .values()
        .filter(|broker| !broker.in_controlled_shutdown);
    staying
        .map(|broker| PlacementBroker {
            id: broker.broker_id,
            rack: broker.rack.clone(),
            fenced: broker.fenced,
        })
        .collect()
}

/// The replicas of each of `partitions` new partitions, the leader first.
///
/// # Errors
/// INVALID_REPLICATION_FACTOR: there are too few brokers, or none that can lead.
pub fn place_replicas(
    mut brokers: Vec<PlacementBroker>,
    partitions: usize,
    replication_factor: usize,
    rng: &mut impl Rng,
) -> Result<Vec<Vec<NodeId>>, ApiError> {
    check_brokers(&brokers, replication_factor)?;
    brokers.shuffle(rng);
    // Fenced brokers come last in the ring, so that the unfenced ones follow one another in it.
    brokers.sort_by_key(|broker| broker.fenced);
    let mut ring = Ring::new(&brokers);
    Ok((0..partitions)
        .map(|partition| ring.place(partition, replication_factor))
        .collect())
}

fn check_brokers(brokers: &[PlacementBroker], replication_factor: usize) -> Result<(), ApiError> {
    let refuse = |detail: String| Err(ApiError::new(ErrorCode::InvalidReplicationFactor, detail));
    let total = brokers.len();
    let unfenced = brokers.iter().filter(|broker| !broker.fenced).count();
    if replication_factor == 0 {
        return refuse("the replication factor must be 1 or more".to_owned());
    }
    if replication_factor > total {
        return refuse(format!(
            "a replication factor of {replication_factor} needs as many brokers, but only {total} are registered \
             and not shutting down ({unfenced} of them unfenced); start more brokers or ask for {total} or fewer replicas"
        ));
    }
    if unfenced == 0 {
        return refuse(format!(
            "unable to place a partition with {replication_factor} replica(s): all {total} broker(s) are fenced \
             (starting, stopping or unreachable)"
        ));
    }
    Ok(())
}

struct Ring<'a> {
    brokers: &'a [PlacementBroker],
    unfenced: usize,
    /// The rack of each broker, as a number.
    racks: Vec<usize>,
    rack_count: usize,
    /// By broker, in this placement.
    leaderships: Vec<usize>,
    replicas: Vec<usize>,
}

impl<'a> Ring<'a> {
    fn new(brokers: &'a [PlacementBroker]) -> Self {
        let mut numbers: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        let mut racks = Vec::with_capacity(brokers.len());
        for broker in brokers {
            let next = numbers.len();
            racks.push(*numbers.entry(broker.rack.as_deref()).or_insert(next));
        }
        Self {
            brokers,
            unfenced: brokers.iter().filter(|broker| !broker.fenced).count(),
            racks,
            rack_count: numbers.len(),
            leaderships: vec![0; brokers.len()],
            replicas: vec![0; brokers.len()],
        }
    }

    fn place(&mut self, partition: usize, replication_factor: usize) -> Vec<NodeId> {
        let leader = (0..self.unfenced)
            .min_by_key(|at| (self.leaderships[*at], *at))
            .expect("a broker is unfenced");
        self.leaderships[leader] += 1;
        self.replicas[leader] += 1;
        let mut chosen = vec![leader];
        let mut rack_use = vec![0usize; self.rack_count];
        rack_use[self.racks[leader]] += 1;
        // Each time round, the follower after the leader is another one, so that leaderships spread when a broker dies.
        let round = partition / self.unfenced;
        while chosen.len() < replication_factor {
            let free = (0..self.brokers.len()).filter(|at| !chosen.contains(at));
            let next = free.min_by_key(|at| {
                let fenced = self.brokers[*at].fenced;
                (
                    rack_use[self.racks[*at]],
                    fenced,
                    self.replicas[*at],
                    self.distance(leader, *at, round),
                )
            });
            let next = next.expect("there are as many brokers as replicas");
            rack_use[self.racks[next]] += 1;
            self.replicas[next] += 1;
            chosen.push(next);
        }
        chosen.into_iter().map(|at| self.brokers[at].id).collect()
    }

    /// How far `at` lies behind the leader in the ring, turned by `round` places.
    fn distance(&self, leader: usize, at: usize, round: usize) -> usize {
        let count = self.brokers.len();
        let others = count - 1;
        let behind = (at + count - leader) % count;
        (behind - 1 + others - round % others) % others
    }
}
