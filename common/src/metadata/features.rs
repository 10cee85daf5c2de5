//! Feature levels: what this version can run, and what a new cluster starts with.
//!
//! A record or a field is written only at the level that knows it, so two versions run side by side until the operator
//! finalises the higher level (`odradek features upgrade`, UpdateFeatures).

/// The level of the metadata records. Kafka's numbers, so that its tools print the release they know.
pub const METADATA_VERSION: &str = "metadata.version";
/// The quorum's membership protocol: 1 = voters come and go (KIP-853).
pub const KRAFT_VERSION: &str = "kraft.version";
/// Eligible leader replicas (KIP-966).
pub const ELR_VERSION: &str = "eligible.leader.replicas.version";

/// Transactions (KIP-890): 1 = flexible records of their state; 2 = every transaction ends with a new producer epoch.
pub const TRANSACTION_VERSION: &str = "transaction.version";

/// One feature of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// Lowest level this version can run.
    pub min_level: i16,
    /// Highest level this version can run.
    pub max_level: i16,
    /// The level that a new cluster starts with.
    pub initial_level: i16,
}

/// Every feature of this version.
pub const FEATURES: &[Feature] = &[
    Feature {
        name: METADATA_VERSION,
        min_level: 25,
        max_level: 27,
        initial_level: 27,
    },
    Feature {
        name: KRAFT_VERSION,
        min_level: 0,
        max_level: 1,
        initial_level: 1,
    },
    Feature {
        name: ELR_VERSION,
        min_level: 0,
        max_level: 1,
        initial_level: 1,
    },
    Feature {
        name: TRANSACTION_VERSION,
        min_level: 0,
        max_level: 2,
        initial_level: 2,
    },
];

/// The feature of that name.
#[must_use]
pub fn feature(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|feature| feature.name == name)
}
