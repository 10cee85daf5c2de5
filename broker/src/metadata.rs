//! Metadata as it arrives from the controller, published in a fixed order: first the image that handlers read, then the
//! broker's own configuration, replicas, fetchers, coordinators.
//!
//! Invariant: every change is published, in order, by one task: a coordinator never sees an image whose replicas are not
//! there.

use std::sync::Arc;
use std::time::Duration;

use odradek_common::metadata::{ConfigResource, MetadataDelta, MetadataImage};
use odradek_config::ServerConfig;
use odradek_controller::update::{MetadataContent, MetadataReceiver, MetadataUpdate};
use odradek_controller_core::describe_configs::overrides;
use odradek_net::listener::ConnectionQuotas;
use slog::Logger;

use crate::broker::Broker;
use crate::connection_limits::apply_connection_limits;
use crate::coordinator::groups::GroupCoordinators;
use crate::coordinator::transactions::TransactionCoordinators;
use crate::fetcher::Fetchers;
use crate::replicas::RoleEvent;

/// How long a partition that could not be opened or led is left alone.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Publishes updates to one broker.
pub struct MetadataLoader {
    broker: Arc<Broker>,
    fetchers: Arc<Fetchers>,
    static_config: Arc<ServerConfig>,
    connection_quotas: [Arc<ConnectionQuotas>; 2],
    image: MetadataImage,
    log: Logger,
}

impl MetadataLoader {
    /// Nothing is published yet; `static_config` is what the file says, `connection_quotas` those of its listeners and of its controllers'.
    #[must_use]
    pub fn new(
        broker: Arc<Broker>,
        fetchers: Arc<Fetchers>,
        static_config: Arc<ServerConfig>,
        connection_quotas: [Arc<ConnectionQuotas>; 2],
    ) -> Self {
        let log = broker.log.clone();
        Self {
            broker,
            fetchers,
            static_config,
            connection_quotas,
            image: MetadataImage::default(),
            log,
        }
    }

    /// Publishes until the source ends. Opening logs blocks: run it on a thread that serves nobody.
    pub async fn run(mut self, mut updates: MetadataReceiver) {
        let broker = self.broker.clone();
        loop {
            tokio::select! {
                update = updates.recv() => match update {
                    Some(update) => self.publish(update),
                    None => return,
                },
                () = broker.registered.notified() => {
                    self.hand_on(&MetadataDelta::default(), &Arc::new(self.image.clone()));
                }
                () = tokio::time::sleep(RETRY_INTERVAL), if self.broker.replicas.failures().unapplied() > 0 => {
                    self.try_again();
                }
            }
        }
    }

    /// Tries again to open and lead what could not be, for example for want of room.
    fn try_again(&self) {
        let delta = self.broker.replicas.failures().again(&self.image);
        self.hand_on(&delta, &Arc::new(self.image.clone()));
    }

    fn publish(&mut self, update: MetadataUpdate) {
        let delta = match &update.content {
            MetadataContent::Snapshot => {
                let delta = MetadataDelta::between(&self.image, &update.image);
                self.image = (*update.image).clone();
                delta
            }
            MetadataContent::Records(records) => {
                let delta = MetadataDelta::apply(&mut self.image, records);
                self.image.offset = update.offset;
                self.image.epoch = update.epoch;
                delta
            }
        };
        // The update's own image may be ahead of its records: taken over, it would hide what later records change.
        let image = Arc::new(self.image.clone());
        self.broker.image.store(image.clone());
        self.publish_config(&delta, &image);
        self.hand_on(&delta, &image);
    }

    fn hand_on(&self, delta: &MetadataDelta, image: &Arc<MetadataImage>) {
        let config = self.broker.config.load_full();
        let events = self
            .broker
            .replicas
            .publish(delta, image, &config, self.broker.is_caught_up(image));
        for event in &events {
            self.log_event(event);
        }
        self.fetchers.publish(delta, image, &events);
        GroupCoordinators::publish(&self.broker, delta, &events);
        TransactionCoordinators::publish(&self.broker, &events);
    }

    /// Dynamic broker configuration goes on top of the file's.
    fn publish_config(&self, delta: &MetadataDelta, image: &MetadataImage) {
        let own = ConfigResource::broker(self.broker.node_id);
        let every = ConfigResource::every_broker();
        if !delta.configs.contains(&own) && !delta.configs.contains(&every) {
            return;
        }
        let (config, warnings) = self
            .static_config
            .with_dynamic(&overrides(image, &own), &overrides(image, &every));
        for warning in warnings {
            slog::warn!(self.log, "dynamic configuration"; "key" => &warning.key, "warning" => &warning.message);
        }
        self.warn_of_min_isr(&config);
        for quotas in &self.connection_quotas {
            apply_connection_limits(quotas, &config, &self.log);
        }
        self.broker.config.store(Arc::new(config));
    }

    /// With ELR the cluster has one `min.insync.replicas`, which may be less than what somebody wrote into this node's file.
    fn warn_of_min_isr(&self, config: &ServerConfig) {
        const KEY: &str = "min.insync.replicas";
        let (own, counts) = (self.static_config.text(KEY), config.text(KEY));
        if self.static_config.was_set(KEY) && own != counts {
            slog::warn!(self.log, "the cluster's min.insync.replicas counts, not that of this node's file; alter it for all \
                with --entity-type brokers --entity-default"; "of_file" => own, "of_cluster" => counts);
        }
    }

    fn log_event(&self, event: &RoleEvent) {
        match event {
            RoleEvent::Leads(replica, epoch) => {
                slog::debug!(self.log, "leads"; "partition" => %replica.id, "leader_epoch" => epoch);
            }
            RoleEvent::Follows(replica, leader, epoch) => {
                slog::debug!(self.log, "follows";
                    "partition" => %replica.id, "leader" => leader, "leader_epoch" => epoch);
            }
            RoleEvent::Stops(id, epoch) => {
                slog::debug!(self.log, "stops"; "partition" => %id, "leader_epoch" => epoch);
            }
        }
    }
}
