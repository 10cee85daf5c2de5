//! A controller, the image it decides on, and short names for the requests.

use std::sync::Arc;

use kafka_protocol::messages::alter_partition_request::{BrokerState, PartitionData, TopicData};
use kafka_protocol::messages::broker_registration_request::{Feature, Listener};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::{
    AlterPartitionRequest, BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerRegistrationRequest,
    BrokerRegistrationResponse, CreateTopicsRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use odradek_common::ids::{NO_NODE, NodeId};
use odradek_common::metadata::features::{ELR_VERSION, FEATURES};
use odradek_common::metadata::{MetadataImage, MetadataRecord, PartitionImage, TopicImage};
use odradek_common::time::Now;
use odradek_config::ServerConfig;
use odradek_controller_core::controller::{Controller, ControllerSettings, Decision, ServerConfigs};
use uuid::Uuid;

pub const CLUSTER: &str = "the-cluster";

pub struct World {
    pub controller: Controller,
    pub image: MetadataImage,
    pub now: Now,
}

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// The incarnation `number` of a broker.
pub fn incarnation(broker: NodeId, number: u128) -> Uuid {
    Uuid::from_u128((u128::try_from(broker).expect("broker ids are small") + 1) << 64 | (number + 1))
}

/// A broker's only log directory.
pub fn directory(broker: NodeId) -> Uuid {
    Uuid::from_u128(0xd100_0000 + u128::try_from(broker).expect("broker ids are small"))
}

impl World {
    pub fn new() -> Self {
        Self::with(ControllerSettings::default())
    }

    pub fn with(settings: ControllerSettings) -> Self {
        let configs = Arc::new(ServerConfigs(Arc::new(ServerConfig::single_node_default())));
        let controller = Controller::new(
            settings,
            configs,
            7,
            slog::Logger::root(slog::Discard, slog::o!()),
        );
        let now = Now::new(1_000_000, 1_700_000_000_000);
        let mut world = Self {
            controller,
            image: MetadataImage::default(),
            now,
        };
        world.lead();
        world
    }

    /// Another controller becomes the active one.
    pub fn lead(&mut self) {
        let opening = self.controller.opening_records(&self.image, CLUSTER);
        self.commit(opening);
        self.controller
            .on_leadership(&self.image, self.now, self.image.offset);
    }

    /// A world with brokers 0 to `count` - 1, all unfenced.
    pub fn of_brokers(count: i32) -> Self {
        Self::new().brokers(count)
    }

    pub fn brokers(mut self, count: i32) -> Self {
        for id in 0..count {
            self.start(id, 0);
        }
        self
    }

    pub fn next_offset(&self) -> i64 {
        self.image.offset + 1
    }

    pub fn commit(&mut self, records: Vec<MetadataRecord>) {
        if records.is_empty() {
            return;
        }
        let before = self.image.clone();
        for record in &records {
            self.image.apply(record);
        }
        self.image.offset += 1;
        check(&before, &self.image, self.controller.settings());
    }

    pub fn decide<R>(&mut self, decision: Decision<R>) -> R {
        self.commit(decision.records);
        decision.response
    }

    pub fn pass(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    pub fn tick(&mut self) -> usize {
        let records = self.controller.tick(&self.image, self.now);
        let count = records.len();
        self.commit(records);
        count
    }

    pub fn register(&mut self, request: &BrokerRegistrationRequest) -> BrokerRegistrationResponse {
        let next_offset = self.next_offset();
        let decision = self
            .controller
            .register_broker(&self.image, self.now, next_offset, request);
        self.decide(decision)
    }

    /// Heartbeats of a broker that has applied everything.
    pub fn heartbeat(&mut self, id: NodeId) -> BrokerHeartbeatResponse {
        let request = self.heartbeat_request(id);
        self.send_heartbeat(&request)
    }

    pub fn heartbeat_request(&self, id: NodeId) -> BrokerHeartbeatRequest {
        BrokerHeartbeatRequest::default()
            .with_broker_id(id.into())
            .with_broker_epoch(
                self.image
                    .brokers
                    .get(&id)
                    .map_or(-1, |broker| broker.broker_epoch),
            )
            .with_current_metadata_offset(self.image.offset)
    }

    pub fn send_heartbeat(&mut self, request: &BrokerHeartbeatRequest) -> BrokerHeartbeatResponse {
        let next_offset = self.next_offset();
        let decision = self
            .controller
            .broker_heartbeat(&self.image, self.now, next_offset, request);
        self.decide(decision)
    }

    /// Registers an incarnation that has lost what it had, and unfences it.
    pub fn start(&mut self, id: NodeId, number: u128) {
        let response = self.register(&registration(id, number));
        assert_eq!(response.error_code, 0);
        assert!(!self.heartbeat(id).is_fenced);
    }

    /// Registers an incarnation that proves that the last one stopped cleanly, and unfences it.
    pub fn start_after_clean_stop(&mut self, id: NodeId, number: u128) {
        let epoch = self.image.brokers[&id].broker_epoch;
        let response = self.register(&registration(id, number).with_previous_broker_epoch(epoch));
        assert_eq!(response.error_code, 0);
        assert!(!self.heartbeat(id).is_fenced);
    }

    pub fn fence(&mut self, id: NodeId) {
        let records = self.controller.session_dropped(&self.image, self.now, id);
        self.commit(records);
    }

    pub fn create(&mut self, topic: CreatableTopic) -> CreatableTopicResult {
        let request = CreateTopicsRequest::default().with_topics(vec![topic]);
        let decision = self.controller.create_topics(&self.image, self.now, &request);
        self.decide(decision).topics.remove(0)
    }

    /// Creates a topic of one partition on these replicas.
    pub fn create_on(&mut self, topic: &str, replicas: &[NodeId]) {
        let result = self.create(assigned(topic, &[replicas]));
        assert_eq!(result.error_code, 0, "{:?}", result.error_message);
    }

    pub fn topic(&self, topic: &str) -> Arc<TopicImage> {
        self.image.topic(topic).expect("the topic exists").clone()
    }

    pub fn partition(&self, topic: &str, index: i32) -> Arc<PartitionImage> {
        self.image
            .partition(topic, index)
            .expect("the partition exists")
            .clone()
    }

    /// The leader sets the ISR, with everybody's current epoch; returns the partition's error.
    pub fn set_isr(&mut self, topic: &str, index: i32, isr: &[NodeId]) -> i16 {
        let partition = self.partition(topic, index);
        let request = self.isr_request(topic, index, partition.leader, isr);
        self.alter_partition(&request)
    }

    pub fn isr_request(
        &self,
        topic: &str,
        index: i32,
        leader: NodeId,
        isr: &[NodeId],
    ) -> AlterPartitionRequest {
        let partition = self.partition(topic, index);
        let epoch = |id: NodeId| {
            self.image
                .brokers
                .get(&id)
                .map_or(-1, |broker| broker.broker_epoch)
        };
        let state = |id: &NodeId| {
            BrokerState::default()
                .with_broker_id((*id).into())
                .with_broker_epoch(epoch(*id))
        };
        let asked = PartitionData::default()
            .with_partition_index(index)
            .with_leader_epoch(partition.leader_epoch)
            .with_partition_epoch(partition.partition_epoch)
            .with_new_isr_with_epochs(isr.iter().map(state).collect());
        let topic = TopicData::default()
            .with_topic_id(self.topic(topic).id)
            .with_partitions(vec![asked]);
        AlterPartitionRequest::default()
            .with_broker_id(leader.into())
            .with_broker_epoch(epoch(leader))
            .with_topics(vec![topic])
    }

    pub fn alter_partition(&mut self, request: &AlterPartitionRequest) -> i16 {
        let decision = self.controller.alter_partition(&self.image, self.now, 3, request);
        let response = self.decide(decision);
        if response.error_code != 0 {
            response.error_code
        } else {
            response.topics[0].partitions[0].error_code
        }
    }
}

pub fn registration(id: NodeId, number: u128) -> BrokerRegistrationRequest {
    let port = 9_092 + u16::try_from(id).expect("broker ids are small");
    let listener = Listener::default()
        .with_name(text("PLAINTEXT"))
        .with_host(text("localhost"))
        .with_port(port);
    let features = FEATURES.iter().map(|feature| {
        Feature::default()
            .with_name(text(feature.name))
            .with_min_supported_version(feature.min_level)
            .with_max_supported_version(feature.max_level)
    });
    BrokerRegistrationRequest::default()
        .with_broker_id(id.into())
        .with_cluster_id(text(CLUSTER))
        .with_incarnation_id(incarnation(id, number))
        .with_listeners(vec![listener])
        .with_features(features.collect())
        .with_log_dirs(vec![directory(id)])
}

pub fn sized(topic: &str, partitions: i32, replication_factor: i16) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(replication_factor)
}

pub fn assigned(topic: &str, partitions: &[&[NodeId]]) -> CreatableTopic {
    use kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment;
    let assignments = (0..).zip(partitions).map(|(index, replicas)| {
        CreatableReplicaAssignment::default()
            .with_partition_index(index)
            .with_broker_ids(replicas.iter().map(|id| (*id).into()).collect())
    });
    sized(topic, -1, -1).with_assignments(assignments.collect())
}

/// What holds of every image that decisions lead to, and of every step.
fn check(before: &MetadataImage, after: &MetadataImage, settings: &ControllerSettings) {
    let elr_enabled = after.feature_level(ELR_VERSION) > 0;
    for topic in after.topics.values() {
        let min_isr = settings.min_isr(after, &topic.name);
        for (index, partition) in (0..).zip(&topic.partitions) {
            let context = format!("{}-{index}: {partition:?}", topic.name);
            check_partition(after, partition, elr_enabled, min_isr, &context);
            let earlier = before
                .topic_by_id(&topic.id)
                .and_then(|topic| topic.partition(index));
            if let Some(earlier) = earlier {
                check_step(earlier, partition, &context);
            }
        }
    }
}

fn check_partition(
    image: &MetadataImage,
    p: &PartitionImage,
    elr_enabled: bool,
    min_isr: usize,
    context: &str,
) {
    assert!(!p.replicas.is_empty(), "no replicas: {context}");
    assert_eq!(
        p.directories.len(),
        p.replicas.len(),
        "a directory per replica: {context}"
    );
    assert!(
        p.leader == NO_NODE || p.isr.contains(&p.leader),
        "leader not in ISR: {context}"
    );
    assert!(
        p.leader == NO_NODE || image.is_active(p.leader),
        "leader cannot lead: {context}"
    );
    for id in p.isr.iter().chain(&p.elr) {
        assert!(
            p.replicas.contains(id),
            "ISR or ELR not among replicas: {context}"
        );
    }
    for ids in [&p.replicas, &p.isr, &p.elr] {
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "twice in a list: {context}");
    }
    assert!(
        !p.elr.iter().any(|id| p.isr.contains(id)),
        "ISR and ELR overlap: {context}"
    );
    let min_isr = min_isr.min(p.replicas.len());
    assert!(
        p.isr.len() < min_isr || p.elr.is_empty(),
        "ELR beside a whole ISR: {context}"
    );
    assert!(
        elr_enabled || (p.elr.is_empty() && !p.isr.is_empty()),
        "ELR or empty ISR without the feature: {context}"
    );
    // Without ELR, and just after it was switched on, the last member of an offline partition stays in its ISR.
    let last_member = p.leader == NO_NODE && p.isr.len() == 1;
    assert!(
        last_member || p.isr.iter().all(|id| image.is_active(*id)),
        "fenced in ISR: {context}"
    );
    for id in p.adding_replicas.iter().chain(&p.removing_replicas) {
        assert!(p.replicas.contains(id), "reassigns what is no replica: {context}");
    }
}

fn check_step(before: &PartitionImage, after: &PartitionImage, context: &str) {
    if before == after {
        return;
    }
    assert!(
        after.partition_epoch > before.partition_epoch,
        "partition epoch did not rise: {context}"
    );
    assert!(
        after.leader_epoch >= before.leader_epoch,
        "leader epoch fell: {context}"
    );
    let same_epoch = after.leader_epoch == before.leader_epoch;
    assert!(
        !same_epoch || after.leader == before.leader,
        "two leaders of one epoch: {context}"
    );
}
