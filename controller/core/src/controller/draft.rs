//! A decision in the making: the records so far and the image they lead to.

use odradek_common::metadata::{MetadataImage, MetadataRecord, Record, proto::PartitionChangeRecord, record};

/// Records and the image after them, so that later parts of a decision see what the earlier ones did.
pub(super) struct Draft {
    pub(super) image: MetadataImage,
    pub(super) records: Vec<MetadataRecord>,
}

impl Draft {
    pub(super) fn new(image: &MetadataImage) -> Self {
        Self {
            image: image.clone(),
            records: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, record: MetadataRecord) {
        self.image.apply(&record);
        self.records.push(record);
    }

    pub(super) fn extend(&mut self, records: impl IntoIterator<Item = MetadataRecord>) {
        for record in records {
            self.push(record);
        }
    }

    pub(super) fn push_change(&mut self, change: PartitionChangeRecord) {
        self.push(record(Record::PartitionChange(change)));
    }
}
