//! The note of a clean stop, Kafka's `.kafka_cleanshutdown`: it names the broker epoch, which the next registration repeats
//! so that the controller keeps this broker eligible (KIP-966).

use std::io;
use std::path::Path;

const FILE: &str = ".kafka_cleanshutdown";

/// Leaves the note in a log directory.
pub(super) fn write(directory: &Path, broker_epoch: i64) -> io::Result<()> {
    let note = serde_json::json!({ "version": 0, "brokerEpoch": broker_epoch });
    std::fs::write(directory.join(FILE), note.to_string())?;
    std::fs::File::open(directory)?.sync_all()
}

/// Takes the note away; the epoch that all directories agree on, or -1.
pub(super) fn take<'a>(directories: impl Iterator<Item = &'a Path>) -> io::Result<i64> {
    let mut agreed = None;
    for directory in directories {
        let path = directory.join(FILE);
        let epoch = match std::fs::read_to_string(&path) {
            Ok(text) => epoch(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => -1,
            Err(error) => return Err(error),
        };
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        agreed = match agreed {
            None => Some(epoch),
            Some(other) if other == epoch => Some(epoch),
            Some(_) => Some(-1),
        };
    }
    Ok(agreed.unwrap_or(-1))
}

fn epoch(text: &str) -> i64 {
    let note: Option<serde_json::Value> = serde_json::from_str(text).ok();
    note.and_then(|note| note.get("brokerEpoch")?.as_i64())
        .unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_is_read_once_and_only_if_all_agree() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let both = || [a.path(), b.path()].into_iter();
        write(a.path(), 7).unwrap();
        write(b.path(), 7).unwrap();
        assert_eq!(take(both()).unwrap(), 7);
        assert_eq!(take(both()).unwrap(), -1);
        write(a.path(), 7).unwrap();
        assert_eq!(take(both()).unwrap(), -1);
    }
}
