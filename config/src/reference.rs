//! The reference of all keys, docs/generated/configs.md, written from the table.

use std::fmt::Write as _;

use crate::key::{Key, State, Synonym};
use crate::keys;

/// The whole reference as Markdown.
pub fn configs_markdown() -> String {
    let mut text = String::from(
        "<!-- Generated from config/src/keys by `UPDATE=1 cargo test -p odradek-config reference`. Do not edit. -->\n\n\
         # Configuration\n\n\
         Names, types and defaults are those of Apache Kafka 4.3; keys that start with `odradek.` are this product's \
         own. A key is *used*, or *accepted*: a file that sets it starts with a warning, or *refused*: a file that sets \
         it does not start. \
         *Update* is Kafka's word; listeners cannot be altered while a broker runs.\n",
    );
    for (subject, keys) in keys::BROKER_SUBJECTS {
        section(&mut text, &format!("Node: {subject}"), keys);
    }
    section(&mut text, "Topics", keys::TOPIC_KEYS);
    section(&mut text, "Groups", keys::GROUP_KEYS);
    text
}

fn section(text: &mut String, title: &str, keys: &[Key]) {
    let header = "| Key | Type | Default | Valid | Update | State | |\n|---|---|---|---|---|---|---|\n";
    write!(text, "\n## {title}\n\n{header}").expect("writing to a string cannot fail");
    for key in keys.iter().filter(|key| !key.internal) {
        text.push_str(&row(key));
    }
}

fn row(key: &Key) -> String {
    let default = match key.default {
        None => "none".to_owned(),
        Some("") => "empty".to_owned(),
        Some(default) => format!("`{default}`"),
    };
    let state = match key.state {
        State::Used => "used".to_owned(),
        State::AcceptedNotYet(why) => format!("accepted: {why}"),
        State::Refused(why) => format!("refused: {why}"),
    };
    let others: Vec<&Synonym> = key
        .synonyms
        .iter()
        .filter(|synonym| synonym.name != key.name)
        .collect();
    let chain = others
        .iter()
        .map(|synonym| format!("`{}`", synonym.name))
        .collect::<Vec<_>>()
        .join(", ");
    let chain = match (chain.is_empty(), key.scope) {
        (true, _) => String::new(),
        (false, crate::key::Scope::Broker) => format!(" One setting with {chain}."),
        (false, crate::key::Scope::Topic | crate::key::Scope::Group) => {
            format!(" Not set: {chain} of the node.")
        }
    };
    let kind = key.kind.name().to_ascii_lowercase();
    let valid = key.valid.to_string();
    format!(
        "| `{}` | {kind} | {default} | {valid} | {} | {state} | {}{chain} |\n",
        key.name,
        key.mode.name(),
        key.doc()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_in_the_repository_is_the_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/generated/configs.md");
        let expected = configs_markdown();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/generated")).unwrap();
            std::fs::write(path, &expected).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == expected,
            "docs/generated/configs.md is stale: UPDATE=1 cargo test -p odradek-config reference"
        );
    }
}
