//! Nodes that have committed the same offset of the metadata log hold the same image.

use std::collections::BTreeMap;

use odradek_common::ids::NodeId;
use odradek_common::metadata::MetadataImage;

use super::fail;

/// The images at every offset.
#[derive(Default)]
pub struct MetadataAgreement {
    images: BTreeMap<i64, (NodeId, MetadataImage)>,
    /// What was broken.
    pub failure: Option<String>,
}

impl MetadataAgreement {
    /// A node committed this image's offset, by an entry or a snapshot.
    pub fn committed(&mut self, node: NodeId, image: &MetadataImage) {
        let (first, known) = self
            .images
            .entry(image.offset)
            .or_insert_with(|| (node, image.clone()));
        if known != image {
            let what = format!(
                "metadata offset {}: nodes {first} and {node} hold different images",
                image.offset
            );
            fail(&mut self.failure, what);
        }
    }

    /// The newest image that any node has committed.
    #[must_use]
    pub fn newest(&self) -> Option<&MetadataImage> {
        self.images.last_key_value().map(|(_, (_, image))| image)
    }

    /// The image at an offset and the one before it, for those who look at changes.
    #[must_use]
    pub fn offsets(&self) -> usize {
        self.images.len()
    }
}
