//! Whether every typed setting is read by code outside of `config/`: a key that claims to be used has to change something.
//!
//! Works on text: a field counts as read in a file that names its group (the field of `ServerConfig` or `TopicConfig` that
//! it hangs on, or its type) and has `.field` somewhere. Tests do not count.

use std::fs;
use std::path::Path;

use crate::tidy::{Finding, files};

/// Where the typed settings are declared.
const DECLARED_IN: [&str; 2] = ["config/src/server/settings.rs", "config/src/topic.rs"];
/// Where the groups of settings hang together.
const GROUPED_IN: [&str; 3] = [
    "config/src/server.rs",
    "config/src/server/settings.rs",
    "config/src/topic.rs",
];

/// A public field of a struct.
#[derive(Debug, PartialEq, Eq)]
struct Field {
    owner: String,
    name: String,
    kind: String,
}

/// Every public field of the typed settings that nothing outside of `config/` reads.
///
/// # Errors
/// The tree cannot be read.
pub fn check(root: &Path) -> std::io::Result<Vec<Finding>> {
    let mut readers = Vec::new();
    for path in files(root)? {
        let file = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let is_test = file.contains("/tests/") || file.ends_with("/tests.rs");
        let inside = file.starts_with("config/") || file.starts_with("xtask/");
        if file.ends_with(".rs") && !inside && !is_test {
            readers.push(without_tests(&fs::read_to_string(&path)?).to_owned());
        }
    }
    let mut grouped = Vec::new();
    for file in GROUPED_IN {
        grouped.extend(public_fields(&fs::read_to_string(root.join(file))?));
    }
    let mut findings = Vec::new();
    for file in DECLARED_IN {
        for field in public_fields(&fs::read_to_string(root.join(file))?) {
            if !readers.iter().any(|text| reads(text, &field, &grouped)) {
                let problem = format!(
                    "nothing outside of config/ reads {}.{}: honour the key, or make it AcceptedNotYet and delete the field",
                    field.owner, field.name
                );
                findings.push(Finding {
                    file: file.to_owned(),
                    problem,
                });
            }
        }
    }
    Ok(findings)
}

fn reads(text: &str, field: &Field, grouped: &[Field]) -> bool {
    let groups = grouped.iter().filter(|group| group.kind == field.owner);
    let named = has_word(text, &field.owner) || groups.into_iter().any(|group| has_access(text, &group.name));
    named && has_access(text, &field.name)
}

fn public_fields(text: &str) -> Vec<Field> {
    let mut owner = None;
    let mut fields = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            owner = rest.split([' ', '<']).next().map(str::to_owned);
        } else if line.starts_with('}') {
            owner = None;
        }
        let declared = line
            .strip_prefix("    pub ")
            .and_then(|rest| rest.split_once(": "));
        if let (Some(owner), Some((name, kind))) = (&owner, declared) {
            fields.push(Field {
                owner: owner.clone(),
                name: name.to_owned(),
                kind: kind.trim_end_matches(',').to_owned(),
            });
        }
    }
    fields
}

/// What stands before the tests of a file.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// `.name`, but neither a longer name nor a call.
fn has_access(text: &str, name: &str) -> bool {
    text.match_indices(&format!(".{name}")).any(|(at, found)| {
        let next = text[at + found.len()..].chars().next();
        next.is_none_or(|next| !is_of_a_word(next) && next != '(')
    })
}

fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, found)| {
        let before = text[..at].chars().next_back();
        let after = text[at + found.len()..].chars().next();
        [before, after].into_iter().flatten().all(|c| !is_of_a_word(c))
    })
}

fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str =
        "pub struct ServerConfig {\n    /// Doc\n    pub socket: SocketSettings,\n    hidden: u8,\n}\n";
    const SOCKET: &str =
        "pub struct SocketSettings {\n    pub backlog: u32,\n    pub(crate) inner: u32,\n}\n";

    fn is_read(text: &str) -> bool {
        let fields = public_fields(SOCKET);
        assert_eq!(fields.len(), 1, "only public fields count");
        reads(without_tests(text), &fields[0], &public_fields(CONFIG))
    }

    #[test]
    fn a_field_is_read_with_its_group() {
        assert!(is_read("config.socket.backlog"));
        assert!(is_read(
            "let socket = &config.socket;\nuse_it(socket\n    .backlog);"
        ));
        assert!(is_read("fn f(settings: &SocketSettings) { g(settings.backlog) }"));
    }

    #[test]
    fn another_field_of_the_name_a_longer_name_a_call_or_a_test_is_no_reader() {
        assert!(!is_read("listener.backlog"));
        assert!(!is_read("config.socket.backlog_max"));
        assert!(!is_read("config.socket; queue.backlog()"));
        assert!(!is_read(
            "f();\n#[cfg(test)]\nmod tests {\n    config.socket.backlog\n}"
        ));
        assert!(!is_read("config.my_socket; x.backlog"));
    }
}
