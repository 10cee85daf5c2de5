//! The metadata image: the state of the cluster as a value, the records that change it, and what one change touched.
//!
//! Invariant: an image changes through [`MetadataImage::apply`] alone, so two nodes that applied the same records hold the
//! same image, and `replay(image.to_records()) == image` (property-tested in `common/tests/metadata.rs`).

mod apply;
mod delta;
pub mod features;
mod image;
pub mod proto;
mod records;

pub use delta::{MetadataDelta, PartitionChange, Publisher, TopicDelta};
pub use image::{
    BrokerImage, ConfigResource, ConfigResourceType, ControllerImage, Endpoint, FeatureRange, MetadataImage,
    PartitionImage, SecurityProtocol, TopicImage,
};
pub use proto::{MetadataBatch, MetadataRecord, metadata_record::Record};
pub use records::{batch_bytes, batch_from_bytes, config_record, partition_change, partition_record, record};
