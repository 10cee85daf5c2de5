//! Typed reading of settings that have already been validated.

use std::collections::BTreeMap;

use crate::error::Origin;
use crate::keys;
use crate::value::{self, Value};

/// A value as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The text of the value.
    pub value: String,
    /// Where it was given; `None` for a dynamic configuration.
    pub origin: Option<Origin>,
}

/// Settings by key, each of them valid for its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values(pub(crate) BTreeMap<String, Setting>);

impl Values {
    /// The text that was given for a key.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|setting| setting.value.as_str())
    }

    /// The text that was given, or the default.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.given(name).or_else(|| known(name).default)
    }

    /// The text that was given, or the default of a key that the table has.
    pub(crate) fn text_of_any(&self, name: &str) -> Option<&str> {
        self.given(name).or_else(|| keys::broker_key(name)?.default)
    }

    fn value(&self, name: &str) -> Option<Value> {
        self.text(name)
            .map(|text| value::validate(known(name), text).expect("settings are validated when given"))
    }

    /// The text of a key that may be missing; blanks around it do not count.
    pub(crate) fn string(&self, name: &str) -> Option<String> {
        self.text(name).map(|text| text.trim().to_owned())
    }

    /// The value of an integer key with a default.
    pub(crate) fn long(&self, name: &str) -> i64 {
        match self.value(name) {
            Some(Value::Integer(n)) => n,
            other => unreachable!("{name} is declared as an integer with a default, not {other:?}"),
        }
    }

    /// The value of an int key with a default.
    pub(crate) fn int(&self, name: &str) -> i32 {
        i32::try_from(self.long(name)).expect("int keys are validated as 32-bit")
    }

    /// The value of an int key that has no default.
    pub(crate) fn int_if_given(&self, name: &str) -> Option<i32> {
        match self.value(name)? {
            Value::Integer(n) => Some(i32::try_from(n).expect("int keys are validated as 32-bit")),
            other => unreachable!("{name} is declared as an integer, not {other:?}"),
        }
    }

    /// The value of an int key that is never negative.
    pub(crate) fn unsigned(&self, name: &str) -> u32 {
        u32::try_from(self.long(name)).expect("the table does not let this key be negative")
    }

    /// The value of a boolean key with a default.
    pub(crate) fn boolean(&self, name: &str) -> bool {
        match self.value(name) {
            Some(Value::Boolean(b)) => b,
            other => unreachable!("{name} is declared as a boolean with a default, not {other:?}"),
        }
    }

    /// The value of a double key with a default.
    pub(crate) fn double(&self, name: &str) -> f64 {
        match self.value(name) {
            Some(Value::Double(number)) => number,
            other => unreachable!("{name} is declared as a double with a default, not {other:?}"),
        }
    }

    /// The value of a list key; empty when there is neither value nor default.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        value::split_list(self.text(name).unwrap_or_default())
    }

    /// The value of a broker key whose synonyms have other units, in its own unit.
    pub(crate) fn chained(&self, name: &str) -> i64 {
        let chain = known(name).synonyms;
        let given = chain.iter().find(|synonym| self.given(synonym.name).is_some());
        let defaulted = || chain.iter().find(|synonym| known(synonym.name).default.is_some());
        let synonym = given
            .or_else(defaulted)
            .expect("the last key of every chain has a default");
        self.long(synonym.name).saturating_mul(synonym.factor)
    }

    /// `key (origin)` for each of these keys that was given, for error messages.
    pub(crate) fn origins(&self, names: &[&str]) -> Vec<String> {
        names
            .iter()
            .filter_map(|name| {
                let origin = self.0.get(*name)?.origin.as_ref()?;
                Some(format!("{name}: {origin}"))
            })
            .collect()
    }
}

fn known(name: &str) -> &'static crate::key::Key {
    keys::broker_key(name).unwrap_or_else(|| panic!("{name} is not in the table of keys"))
}
