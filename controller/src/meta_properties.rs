//! `meta.properties`: which cluster, which node and which directory a directory belongs to.
//!
//! Kafka's file and keys (version 1), so its tools can read it. It promises that a directory is never used for another node
//! or cluster than the one it was made for, and that a half-written file never shows.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use odradek_common::ids::NodeId;
use uuid::Uuid;

use crate::format::advice;

/// The file's name.
pub const FILE: &str = "meta.properties";

/// What a directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaProperties {
    /// The cluster.
    pub cluster_id: String,
    /// The node.
    pub node_id: NodeId,
    /// The directory itself; a replaced disk has another.
    pub directory_id: Uuid,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetaPropertiesError {
    /// The file or its directory cannot be read or written.
    #[error("cannot {what} {}{}", path.display(), advice(source))]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not what Kafka or Odradek write.
    #[error("{} is damaged: {detail}; restore it from a backup or from another log directory of this node", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The directory belongs to another node.
    #[error("{} says node.id={found}, but this node is configured with node.id={expected}: set node.id={found}, or point log.dirs to this node's own directory", path.display())]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: NodeId,
        /// What is configured.
        expected: NodeId,
    },
    /// The directory belongs to another cluster.
    #[error("{} says cluster.id={found}, but {expected_by} says {expected}: point log.dirs to a directory of cluster {expected}, or this node to cluster {found}", path.display())]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What the other side says.
        expected: String,
        /// Who the other side is.
        expected_by: String,
    },
}

impl MetaProperties {
    /// The file of a directory; `None` if the directory has none or is not there.
    ///
    /// # Errors
    /// The file is unreadable or damaged.
    pub fn read(directory: &Path) -> Result<Option<Self>, MetaPropertiesError> {
        let path = directory.join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text)
                .map(Some)
                .map_err(|detail| MetaPropertiesError::Malformed { path, detail }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(MetaPropertiesError::Io {
                what: "read",
                path,
                source,
            }),
        }
    }

    /// Writes the file, making the directory if need be; the old one stays whole until the new one is.
    ///
    /// # Errors
    /// The disk fails.
    pub fn write(&self, directory: &Path) -> Result<(), MetaPropertiesError> {
        let path = directory.join(FILE);
        self.write_to(directory, &path)
            .map_err(|source| MetaPropertiesError::Io {
                what: "write",
                path,
                source,
            })
    }

    fn write_to(&self, directory: &Path, path: &Path) -> io::Result<()> {
        // A node must come up on a full disk, too, to make room on it.
        if fs::read_to_string(path).is_ok_and(|text| text == self.to_text()) {
            return Ok(());
        }
        fs::create_dir_all(directory)?;
        let temporary = directory.join("meta.properties.tmp");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(self.to_text().as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(directory)?.sync_all()
    }

    /// Refuses a directory of another node, or of another cluster if the cluster is known.
    ///
    /// # Errors
    /// It is one.
    pub fn check(
        &self,
        directory: &Path,
        node_id: NodeId,
        cluster_id: Option<(&str, &str)>,
    ) -> Result<(), MetaPropertiesError> {
        let path = directory.join(FILE);
        if self.node_id != node_id {
            return Err(MetaPropertiesError::OtherNode {
                path,
                found: self.node_id,
                expected: node_id,
            });
        }
        match cluster_id {
            Some((expected, expected_by)) if expected != self.cluster_id => {
                Err(MetaPropertiesError::OtherCluster {
                    path,
                    found: self.cluster_id.clone(),
                    expected: expected.to_owned(),
                    expected_by: expected_by.to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    fn to_text(&self) -> String {
        format!(
            "#\ncluster.id={}\ndirectory.id={}\nnode.id={}\nversion=1\n",
            self.cluster_id,
            uuid_to_base64(self.directory_id),
            self.node_id
        )
    }

    fn parse(text: &str) -> Result<Self, String> {
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| name.trim() == key)
                .map(|(_, value)| value.trim().replace("\\=", "="))
        };
        let required = |key: &str| value(key).ok_or_else(|| format!("it has no {key}"));
        let version = required("version")?;
        if version != "1" {
            return Err(format!("its version is {version}, and only version 1 is known"));
        }
        let node_id = required("node.id")?;
        let node_id = node_id
            .parse()
            .map_err(|_| format!("node.id={node_id} is no number"))?;
        // Directories formatted before Kafka 3.7 have no id of their own.
        let directory_id = match value("directory.id") {
            Some(text) => uuid_from_base64(&text).ok_or_else(|| format!("directory.id={text} is no id"))?,
            None => random_uuid(),
        };
        Ok(Self {
            cluster_id: required("cluster.id")?,
            node_id,
            directory_id,
        })
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const BASE64_UUID_CHARS: usize = 22;

/// An id as Kafka prints it: 22 characters of URL-safe base64.
#[must_use]
pub fn uuid_to_base64(id: Uuid) -> String {
    let bits = id.as_u128();
    (0..BASE64_UUID_CHARS)
        .map(|position| {
            // 128 bits are 21 characters of 6 and one of 2, which is padded on the right.
            let shift = 122 - 6 * i32::try_from(position).expect("small");
            let six = if shift >= 0 { bits >> shift } else { bits << -shift };
            char::from(BASE64[usize::try_from(six & 63).expect("six bits")])
        })
        .collect()
}

/// The id behind 22 characters of URL-safe base64.
#[must_use]
pub fn uuid_from_base64(text: &str) -> Option<Uuid> {
    if text.len() != BASE64_UUID_CHARS {
        return None;
    }
    let mut bits: u128 = 0;
    for (position, byte) in text.bytes().enumerate() {
        let six = BASE64.iter().position(|candidate| *candidate == byte)? as u128;
        if position + 1 == BASE64_UUID_CHARS {
            bits = (bits << 2) | (six >> 4);
        } else {
            bits = (bits << 6) | six;
        }
    }
    Some(Uuid::from_u128(bits))
}

/// A new id that does not begin with a dash, which command lines would take for an option.
#[must_use]
pub fn random_uuid() -> Uuid {
    loop {
        let id = Uuid::new_v4();
        if !uuid_to_base64(id).starts_with('-') {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_kafka_prints_them() {
        let id = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        assert_eq!(uuid_to_base64(id), "ABEiM0RVZneImaq7zN3u_w");
        assert_eq!(uuid_from_base64("ABEiM0RVZneImaq7zN3u_w"), Some(id));
        assert_eq!(uuid_from_base64("short"), None);
        for _ in 0..100 {
            let id = random_uuid();
            assert_eq!(uuid_from_base64(&uuid_to_base64(id)), Some(id));
        }
    }

    #[test]
    fn a_file_is_read_back_and_checked() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(MetaProperties::read(directory.path()).expect("reads"), None);
        let written = MetaProperties {
            cluster_id: "the-cluster".to_owned(),
            node_id: 3,
            directory_id: random_uuid(),
        };
        written.write(directory.path()).expect("writes");
        let read = MetaProperties::read(directory.path())
            .expect("reads")
            .expect("there");
        assert_eq!(read, written);
        assert!(
            read.check(directory.path(), 3, Some(("the-cluster", "x")))
                .is_ok()
        );
        let error = read
            .check(directory.path(), 4, None)
            .expect_err("another node")
            .to_string();
        assert!(
            error.contains("node.id=3") && error.contains("node.id=4") && error.contains(FILE),
            "{error}"
        );
        let error = read
            .check(directory.path(), 3, Some(("b", "the quorum")))
            .expect_err("another cluster");
        assert!(error.to_string().contains("the quorum says b"), "{error}");
    }

    #[test]
    fn a_file_of_kafka_is_understood_and_damage_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let kafka = "#\n#Mon Nov 23 14:18:00 UTC 2026\ncluster.id=4L6g3nShT-eMCtK--X86sw\ndirectory.id=ABEiM0RVZneImaq7zN3u_w\nnode.id=1\nversion=1\n";
        fs::write(directory.path().join(FILE), kafka).expect("writes");
        let read = MetaProperties::read(directory.path())
            .expect("reads")
            .expect("there");
        assert_eq!(
            (read.cluster_id.as_str(), read.node_id),
            ("4L6g3nShT-eMCtK--X86sw", 1)
        );
        fs::write(directory.path().join(FILE), "version=0\nbroker.id=1\n").expect("writes");
        let error = MetaProperties::read(directory.path())
            .expect_err("an old version")
            .to_string();
        assert!(error.contains("version is 0"), "{error}");
    }
}
