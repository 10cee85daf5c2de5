//! What the controller must know about configuration keys, without knowing the keys.

use kafka_protocol::messages::create_topics_response::CreatableTopicConfigs;
use odradek_common::metadata::{ConfigResourceType, MetadataImage};

/// The table of configuration keys, as the controller asks it.
pub trait ConfigValidator: Send + Sync {
    /// Checks one override of a resource of that kind.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the key or the value.
    fn validate(&self, resource_type: ConfigResourceType, name: &str, value: &str) -> Result<(), String>;

    /// True if the key holds a comma-separated list, which APPEND and SUBTRACT need.
    fn is_list(&self, resource_type: ConfigResourceType, name: &str) -> bool;

    /// The value that an APPEND or SUBTRACT starts from where the key is not overridden.
    fn default_value(&self, resource_type: ConfigResourceType, name: &str) -> Option<String>;

    /// The effective configuration of a topic created with these overrides, for the answer to CreateTopics.
    fn topic_configs(
        &self,
        image: &MetadataImage,
        overrides: &[(String, String)],
    ) -> Vec<CreatableTopicConfigs>;
}

/// Accepts every key and value; for tests and simulations.
#[derive(Clone, Copy, Debug, Default)]
pub struct PermissiveConfigs;

impl ConfigValidator for PermissiveConfigs {
    fn validate(&self, _: ConfigResourceType, _: &str, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn is_list(&self, _: ConfigResourceType, name: &str) -> bool {
        name == "cleanup.policy"
    }

    fn default_value(&self, _: ConfigResourceType, name: &str) -> Option<String> {
        (name == "cleanup.policy").then(|| "delete".to_owned())
    }

    fn topic_configs(&self, _: &MetadataImage, _: &[(String, String)]) -> Vec<CreatableTopicConfigs> {
        Vec::new()
    }
}
