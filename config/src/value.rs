//! Values: text to typed value, with the refusals and the wording of Kafka's `ConfigDef`.

use crate::key::{Key, Kind, Valid};

/// A parsed value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of a [`Kind::Boolean`] key.
    Boolean(bool),
    /// Of an [`Kind::Int`], [`Kind::Long`] or [`Kind::Short`] key.
    Integer(i64),
    /// Of a [`Kind::Double`] key.
    Double(f64),
    /// Of a [`Kind::List`] key.
    List(Vec<String>),
    /// Of a [`Kind::String`], [`Kind::Password`] or [`Kind::Class`] key.
    Text(String),
}

/// Parses and checks a value; the error is Kafka's sentence `Invalid value X for configuration Y: ...`.
pub fn validate(key: &Key, text: &str) -> Result<Value, String> {
    let value = parse(key, text)?;
    match violation(key, &value) {
        None => Ok(value),
        Some(reason) => Err(invalid(key, &shown(&value, text.trim()), &reason)),
    }
}

/// Splits a list as Kafka does: at commas, without the blanks around them; an empty text is an empty list.
pub fn split_list(text: &str) -> Vec<String> {
    let text = text.trim();
    if text.is_empty() {
        return Vec::new();
    }
    text.split(',').map(|member| member.trim().to_owned()).collect()
}

fn parse(key: &Key, text: &str) -> Result<Value, String> {
    let trimmed = text.trim();
    let not_a_number = || invalid(key, text, &format!("Not a number of type {}", key.kind.name()));
    let integer = |min: i64, max: i64| {
        trimmed
            .parse::<i64>()
            .ok()
            .filter(|n| (min..=max).contains(n))
            .map(Value::Integer)
            .ok_or_else(not_a_number)
    };
    match key.kind {
        Kind::Boolean if trimmed.eq_ignore_ascii_case("true") => Ok(Value::Boolean(true)),
        Kind::Boolean if trimmed.eq_ignore_ascii_case("false") => Ok(Value::Boolean(false)),
        Kind::Boolean => Err(invalid(key, text, "Expected value to be either true or false")),
        Kind::Int => integer(i64::from(i32::MIN), i64::from(i32::MAX)),
        Kind::Short => integer(i64::from(i16::MIN), i64::from(i16::MAX)),
        Kind::Long => integer(i64::MIN, i64::MAX),
        Kind::Double => trimmed
            .parse::<f64>()
            .map(Value::Double)
            .map_err(|_| not_a_number()),
        Kind::List => Ok(Value::List(split_list(trimmed))),
        Kind::String | Kind::Class | Kind::Password => Ok(Value::Text(trimmed.to_owned())),
    }
}

/// Why a value of the right type is refused; `None` when it is not.
fn violation(key: &Key, value: &Value) -> Option<String> {
    match (key.valid, value) {
        (Valid::AtLeast(min), Value::Integer(n)) => below(*n, min),
        (Valid::Between(min, max), Value::Integer(n)) => below(*n, min).or_else(|| above(*n, max)),
        (Valid::BetweenDouble(min, _), Value::Double(n)) if *n < min || n.is_nan() => {
            Some(format!("Value must be at least {min}"))
        }
        (Valid::BetweenDouble(_, max), Value::Double(n)) if *n > max => {
            Some(format!("Value must be no more than {max}"))
        }
        (Valid::GzipLevel, Value::Integer(n)) if *n != -1 && !(1..=9).contains(n) => {
            Some("Value must be between 1 and 9 or equal to -1".to_owned())
        }
        (Valid::Codec, Value::Integer(n)) if !(0..=4).contains(n) => {
            Some(format!("Unknown compression type id: {n}"))
        }
        (Valid::OneOf(allowed), Value::Text(text)) if !allowed.contains(&text.as_str()) => {
            Some(format!("String must be one of: {}", allowed.join(", ")))
        }
        (Valid::OneOfIgnoreCase(allowed), Value::Text(text))
            if !allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(text)) =>
        {
            Some(format!(
                "String must be one of (case insensitive): {}",
                allowed.join(", ")
            ))
        }
        (Valid::ListOf(allowed), Value::List(list)) => not_among(allowed, list),
        (Valid::NonEmptyListOf(allowed), Value::List(list)) => {
            if list.is_empty() {
                Some("the list must not be empty".to_owned())
            } else {
                not_among(allowed, list)
            }
        }
        (Valid::NonEmptyList, Value::List(list)) if list.is_empty() => {
            Some("the list must not be empty".to_owned())
        }
        (Valid::NonEmpty, Value::Text(text)) if text.is_empty() => {
            Some("String must be non-empty".to_owned())
        }
        (Valid::ThrottledReplicas, Value::List(list)) if !throttled_replicas(list) => Some(format!(
            "{} must be the literal '*' or a list of replicas in the following format: \
             [partitionId]:[brokerId],[partitionId]:[brokerId],...",
            key.name
        )),
        (Valid::ShareOffsetReset, Value::Text(text)) if !share_offset_reset(text) => Some(
            "the value must be earliest, latest, or by_duration: followed by a duration such as PT24H"
                .to_owned(),
        ),
        _ => None,
    }
}

fn below(n: i64, min: i64) -> Option<String> {
    (n < min).then(|| format!("Value must be at least {min}"))
}

fn above(n: i64, max: i64) -> Option<String> {
    (n > max).then(|| format!("Value must be no more than {max}"))
}

fn not_among(allowed: &[&str], list: &[String]) -> Option<String> {
    let stranger = list.iter().any(|member| !allowed.contains(&member.as_str()));
    stranger.then(|| format!("String must be one of: {}", allowed.join(", ")))
}

fn throttled_replicas(list: &[String]) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let pair = |text: &String| {
        text.split_once(':')
            .is_some_and(|(partition, broker)| digits(partition) && digits(broker))
    };
    matches!(list, [only] if only == "*") || list.iter().all(pair)
}

/// Days, hours, minutes and seconds of ISO 8601, each at most once and in this order.
fn share_offset_reset(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    if text == "earliest" || text == "latest" {
        return true;
    }
    let Some(duration) = text.strip_prefix("by_duration:p") else {
        return false;
    };
    let (days, time) = duration
        .split_once('t')
        .map_or((duration, None), |(days, time)| (days, Some(time)));
    let parts = |mut rest: &str, units: &[char]| {
        for unit in units {
            if let Some((number, after)) = rest.split_once(*unit) {
                if number.parse::<f64>().is_err() {
                    return false;
                }
                rest = after;
            }
        }
        rest.is_empty()
    };
    let some_part = !days.is_empty() || time.is_some_and(|time| !time.is_empty());
    some_part
        && parts(days, &['d'])
        && time.is_none_or(|time| !time.is_empty() && parts(time, &['h', 'm', 's']))
}

/// The value as Kafka shows it in a refusal: the offending member of a list, the list in brackets for replicas.
fn shown(value: &Value, text: &str) -> String {
    match value {
        Value::List(list) if list.iter().any(|member| member.contains(':')) || list.len() > 1 => {
            format!("[{}]", list.join(", "))
        }
        Value::Integer(n) => n.to_string(),
        Value::List(_) | Value::Boolean(_) | Value::Double(_) | Value::Text(_) => text.to_owned(),
    }
}

fn invalid(key: &Key, text: &str, reason: &str) -> String {
    let text = if key.secret() { "[hidden]" } else { text };
    format!("Invalid value {text} for configuration {}: {reason}", key.name)
}
