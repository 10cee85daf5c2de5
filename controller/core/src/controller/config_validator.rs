//! What the controller must know about configuration keys, and the answers of this version's table of keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::create_topics_response::CreatableTopicConfigs;
use kafka_protocol::protocol::StrBytes;
use odradek_common::ids::NodeId;
use odradek_common::metadata::{ConfigResource, ConfigResourceType, MetadataImage};
use odradek_config::dynamic::BrokerOverrides;
use odradek_config::key::{Key, Scope};
use odradek_config::listener::Listener;
use odradek_config::{ServerConfig, dynamic, keys};

use crate::describe_configs::overrides;

/// The table of configuration keys, as the controller asks it.
pub trait ConfigValidator: Send + Sync {
    /// Checks the overrides that a resource is to have: `changed` are those that the request sets, `after` are all of them, `image`
    /// has those from before.
    ///
    /// # Errors
    /// A sentence that says what is wrong with a key or a value.
    fn validate(
        &self,
        image: &MetadataImage,
        resource: &ConfigResource,
        changed: &BTreeMap<String, String>,
        after: &BTreeMap<String, String>,
    ) -> Result<(), String>;

    /// True if the key holds a comma-separated list, which APPEND and SUBTRACT need.
    fn is_list(&self, resource_type: ConfigResourceType, name: &str) -> bool;

    /// The value that an APPEND or SUBTRACT starts from where the key is not overridden.
    fn default_value(&self, resource_type: ConfigResourceType, name: &str) -> Option<String>;

    /// The effective configuration of a topic created with these overrides, for the answer to CreateTopics.
    fn topic_configs(
        &self,
        image: &MetadataImage,
        overrides: &BTreeMap<String, String>,
    ) -> Vec<CreatableTopicConfigs>;
}

/// Accepts every key and value; for tests and simulations.
#[derive(Clone, Copy, Debug, Default)]
pub struct PermissiveConfigs;

impl ConfigValidator for PermissiveConfigs {
    fn validate(
        &self,
        _: &MetadataImage,
        _: &ConfigResource,
        _: &BTreeMap<String, String>,
        _: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        Ok(())
    }

    fn is_list(&self, _: ConfigResourceType, _: &str) -> bool {
        false
    }

    fn default_value(&self, _: ConfigResourceType, _: &str) -> Option<String> {
        None
    }

    fn topic_configs(&self, _: &MetadataImage, _: &BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
        Vec::new()
    }
}

/// The table of keys of this version, on the configuration that the controller was started with.
#[derive(Clone, Debug)]
pub struct ServerConfigs(pub Arc<ServerConfig>);

impl ConfigValidator for ServerConfigs {
    fn validate(
        &self,
        image: &MetadataImage,
        resource: &ConfigResource,
        changed: &BTreeMap<String, String>,
        after: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        match resource.resource_type {
            ConfigResourceType::Topic => dynamic::validate_topic_configs(after, &self.0),
            ConfigResourceType::Group => dynamic::validate_group_configs(after, &self.0),
            ConfigResourceType::Broker => {
                let per_broker = !resource.name.is_empty();
                changed
                    .iter()
                    .try_for_each(|(name, value)| dynamic::validate_broker_config(name, value, per_broker))?;
                self.validate_cleaner_threads(image, resource, after)?;
                self.validate_threads(image, resource, after)?;
                self.validate_together(image, resource, changed, after)
            }
            // What clients report is not collected: nothing would read a subscription.
            ConfigResourceType::ClientMetrics => Err("client metrics are not collected here".to_owned()),
            ConfigResourceType::BrokerLogger => {
                Err("a broker has one log level, which ODRADEK_LOG_LEVEL says at its start".to_owned())
            }
        }
    }

    fn is_list(&self, resource_type: ConfigResourceType, name: &str) -> bool {
        scope(resource_type).is_some_and(|scope| dynamic::is_list(scope, name))
    }

    fn default_value(&self, resource_type: ConfigResourceType, name: &str) -> Option<String> {
        match scope(resource_type)? {
            Scope::Broker => self.0.text(name).map(str::to_owned),
            Scope::Topic => {
                self.inherited(&MetadataImage::default(), keys::topic_key(name)?)
                    .0
            }
            Scope::Group => keys::group_key(name)?.default.map(str::to_owned),
        }
    }

    fn topic_configs(
        &self,
        image: &MetadataImage,
        overrides: &BTreeMap<String, String>,
    ) -> Vec<CreatableTopicConfigs> {
        let mut shown: Vec<&Key> = keys::TOPIC_KEYS.iter().filter(|key| !key.internal).collect();
        shown.sort_by_key(|key| key.name);
        let configs = shown.into_iter().map(|key| {
            let (value, source) = match overrides.get(key.name) {
                Some(value) => (Some(value.clone()), SOURCE_TOPIC),
                None => self.inherited(image, key),
            };
            CreatableTopicConfigs::default()
                .with_name(StrBytes::from_static_str(key.name))
                .with_value(value.map(StrBytes::from_string))
                .with_config_source(source)
                .with_is_sensitive(key.secret())
        });
        configs.collect()
    }
}

// Kafka's numbers of DescribeConfigsResponse.ConfigSource.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_DYNAMIC_DEFAULT: i8 = 3;
const SOURCE_STATIC: i8 = 4;
const SOURCE_DEFAULT: i8 = 5;

impl ServerConfigs {
    /// Checks a change of `log.cleaner.threads` against what a broker has: its override, the one of all brokers, or what this
    /// node was started with.
    fn validate_cleaner_threads(
        &self,
        image: &MetadataImage,
        resource: &ConfigResource,
        after: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        const NAME: &str = "log.cleaner.threads";
        let everybody = ConfigResource::every_broker();
        let inherited = image
            .config(&everybody, NAME)
            .filter(|_| *resource != everybody)
            .map_or_else(|| self.0.text(NAME), |value| Some(&**value));
        let number = |own: Option<&str>| own.or(inherited)?.trim().parse::<i64>().ok();
        let current = number(image.config(resource, NAME).map(|value| &**value));
        let wanted = number(after.get(NAME).map(String::as_str));
        match (current, wanted) {
            (Some(current), Some(wanted)) => dynamic::validate_cleaner_threads(current, wanted),
            _ => Ok(()),
        }
    }

    /// Checks changes of the sizes of thread pools if this node is a broker: Kafka compares them with what the broker has that is
    /// asked, and another one may have been started with more or fewer.
    fn validate_threads(
        &self,
        image: &MetadataImage,
        resource: &ConfigResource,
        after: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let own = ConfigResource::broker(self.0.node.node_id);
        let every = ConfigResource::every_broker();
        if !self.0.node.roles.broker || (*resource != own && *resource != every) {
            return Ok(());
        }
        for name in dynamic::THREAD_POOLS {
            let before = |resource| image.config(resource, name).map(|value| &**value);
            let own_before: Option<&str> = before(&own);
            let default_before: Option<&str> = before(&every);
            let given = after.get(*name).map(String::as_str);
            let number = |own: Option<&str>, default: Option<&str>| {
                own.or(default).or(self.0.text(name))?.trim().parse::<i64>().ok()
            };
            let current = number(own_before, default_before);
            let wanted = if *resource == own {
                number(given, default_before)
            } else {
                number(own_before, given)
            };
            if let (Some(current), Some(wanted)) = (current, wanted) {
                dynamic::validate_threads(name, current, wanted)?;
            }
        }
        Ok(())
    }

    /// Checks that brokers could run with all that they are to have: a broker with its own and the defaults, and with new defaults
    /// those brokers that have some of their own and one that has none.
    fn validate_together(
        &self,
        image: &MetadataImage,
        resource: &ConfigResource,
        changed: &BTreeMap<String, String>,
        after: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let every = ConfigResource::every_broker();
        let mut before = overrides(image, resource);
        before.retain(|name, _| !changed.contains_key(name));
        if *resource != every {
            let default = overrides(image, &every);
            let with = |per_broker: &BTreeMap<String, String>| BrokerOverrides {
                per_broker: per_broker.clone(),
                default: default.clone(),
            };
            if changed.keys().any(|name| dynamic::is_of_listeners(name)) {
                self.validate_listeners(image, resource, after)?;
            }
            return self.validate_broker(resource, with(&before), with(after));
        }
        let brokers = image.brokers.keys().map(|id| ConfigResource::broker(*id));
        let own = brokers.map(|broker| (overrides(image, &broker), broker));
        let own = own.filter(|(per_broker, _)| !per_broker.is_empty());
        for (per_broker, broker) in own.chain([(BTreeMap::new(), every.clone())]) {
            let with = |default: &BTreeMap<String, String>| BrokerOverrides {
                per_broker: per_broker.clone(),
                default: default.clone(),
            };
            self.validate_broker(&broker, with(&before), with(after))?;
        }
        Ok(())
    }

    /// This node's file stands for that of another broker, but it has other listeners.
    fn validate_broker(
        &self,
        broker: &ConfigResource,
        mut before: BrokerOverrides,
        mut after: BrokerOverrides,
    ) -> Result<(), String> {
        if !self.is_this_node(broker) {
            for overrides in [&mut before, &mut after] {
                overrides
                    .per_broker
                    .retain(|name, _| !dynamic::is_of_listeners(name));
            }
        }
        dynamic::validate_broker_configs(&before, &after, &self.0)
    }

    /// Checks the listeners of another broker against those that it registered.
    fn validate_listeners(
        &self,
        image: &MetadataImage,
        broker: &ConfigResource,
        after: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let id: Option<NodeId> = broker.name.parse().ok();
        let Some(registered) = id.and_then(|id| image.brokers.get(&id)) else {
            return Ok(());
        };
        if self.is_this_node(broker) {
            return Ok(());
        }
        let registered = registered.endpoints.iter().map(|endpoint| Listener {
            name: endpoint.listener.to_string(),
            host: endpoint.host.to_string(),
            port: endpoint.port,
            security_protocol: endpoint.security_protocol,
        });
        dynamic::validate_listeners(after, &registered.collect::<Vec<_>>(), &self.0)
    }

    fn is_this_node(&self, broker: &ConfigResource) -> bool {
        let node = &self.0.node;
        node.roles.broker && *broker == ConfigResource::broker(node.node_id)
    }

    /// What a topic has without an override of its own, and where it comes from.
    fn inherited(&self, image: &MetadataImage, key: &Key) -> (Option<String>, i8) {
        for synonym in key.synonyms {
            let dynamic = image
                .config(&ConfigResource::every_broker(), synonym.name)
                .map(|value| &**value);
            let (text, source) = match dynamic {
                Some(text) => (Some(text), SOURCE_DYNAMIC_DEFAULT),
                None if self.0.was_set(synonym.name) => (self.0.text(synonym.name), SOURCE_STATIC),
                None => continue,
            };
            return (text.map(|text| scaled(text, synonym.factor)), source);
        }
        (key.default.map(str::to_owned), SOURCE_DEFAULT)
    }
}

/// A value in the unit of the topic's key; the broker's may count hours.
fn scaled(text: &str, factor: i64) -> String {
    match text.trim().parse::<i64>() {
        Ok(number) if factor != 1 && number >= 0 => number.saturating_mul(factor).to_string(),
        Ok(_) | Err(_) => text.to_owned(),
    }
}

fn scope(resource_type: ConfigResourceType) -> Option<Scope> {
    match resource_type {
        ConfigResourceType::Topic => Some(Scope::Topic),
        ConfigResourceType::Broker => Some(Scope::Broker),
        ConfigResourceType::Group => Some(Scope::Group),
        ConfigResourceType::ClientMetrics | ConfigResourceType::BrokerLogger => None,
    }
}
