//! Kafka's rule for the names of topics.

/// Characters of a name at most.
const LENGTH_MAX: usize = 249;

/// What is wrong with a topic's name, if anything.
#[must_use]
pub fn problem(name: &str) -> Option<String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let why = if name.is_empty() {
        "is empty"
    } else if name == "." || name == ".." {
        "is a directory's name"
    } else if name.len() > LENGTH_MAX {
        "is longer than 249 characters"
    } else if !name.bytes().all(legal) {
        "has characters other than ASCII letters, digits, '.', '_' and '-'"
    } else {
        return None;
    };
    let shown: String = name.chars().take(LENGTH_MAX + 1).collect();
    Some(format!("topic name {shown:?} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_kafka_takes() {
        let longest = "a".repeat(LENGTH_MAX);
        for name in ["a", "A.b_c-9", "...", longest.as_str()] {
            assert_eq!(problem(name), None, "{name}");
        }
        let too_long = "a".repeat(LENGTH_MAX + 1);
        for name in ["", ".", "..", "a b", "\u{e4}", "a/b", too_long.as_str()] {
            assert!(problem(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_message_shows_no_more_than_a_name_may_have() {
        let message = problem(&"\u{e4}".repeat(100_000)).unwrap();
        assert!(message.chars().count() < 2 * LENGTH_MAX, "{}", message.len());
    }
}
