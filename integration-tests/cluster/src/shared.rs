//! Clusters that all tests of a binary share, because starting one for each would take most of the time.
//!
//! Whoever uses them names topics and groups after the test, and kills nothing.

use tokio::sync::OnceCell;

use crate::cluster::TestCluster;
use crate::connection::Connection;
use crate::node::Node;

/// What makes waiting for groups bearable; Apache Kafka takes the same.
pub const OVERRIDES: &[(&str, &str)] = &[
    ("group.initial.rebalance.delay.ms", "0"),
    ("group.min.session.timeout.ms", "200"),
];

/// One or three nodes that are there for all.
#[derive(Debug)]
pub struct Shared {
    addresses: Vec<String>,
    cluster: Option<TestCluster>,
}

impl Shared {
    async fn start(count: i32, variable: &str) -> Self {
        if let Ok(addresses) = std::env::var(variable) {
            return Self {
                addresses: addresses.split(',').map(str::to_owned).collect(),
                cluster: None,
            };
        }
        let cluster = TestCluster::start(count, OVERRIDES).await;
        Self {
            addresses: cluster.nodes().iter().map(Node::address).collect(),
            cluster: Some(cluster),
        }
    }

    /// `host:port` of a node, by its id from 1.
    ///
    /// # Panics
    /// There is no such node.
    #[must_use]
    pub fn address(&self, id: i32) -> &str {
        let index = usize::try_from(id - 1).expect("node ids begin at 1");
        &self.addresses[index]
    }

    /// The ids of all nodes.
    #[must_use]
    pub fn ids(&self) -> Vec<i32> {
        (1..).take(self.addresses.len()).collect()
    }

    /// A connection to node 1.
    pub async fn connect(&self) -> Connection {
        self.connect_to(1).await
    }

    /// A connection to a node.
    pub async fn connect_to(&self, id: i32) -> Connection {
        Connection::open(self.address(id)).await
    }

    /// The processes; none if the tests run against something else.
    #[must_use]
    pub fn cluster(&self) -> Option<&TestCluster> {
        self.cluster.as_ref()
    }
}

/// One node.
pub async fn single() -> &'static Shared {
    static SINGLE: OnceCell<Shared> = OnceCell::const_new();
    SINGLE.get_or_init(|| Shared::start(1, "OD_EXTERNAL")).await
}

/// Three nodes.
pub async fn trio() -> &'static Shared {
    static TRIO: OnceCell<Shared> = OnceCell::const_new();
    TRIO.get_or_init(|| Shared::start(3, "OD_EXTERNAL_3")).await
}
