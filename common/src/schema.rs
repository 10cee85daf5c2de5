//! The guard before the decoder: walks a request body by its schema and refuses what would hurt to decode.
//!
//! kafka-protocol believes the counts it reads and reserves memory for them, so five bytes could end the process.
//! [`check_request`] allocates nothing, reads every byte once at most and promises that a
//! body it accepts has only lengths and counts that its bytes bear out. It does not look at values: UTF-8, ranges and
//! meaning are the decoder's and the handlers' matter. The schemas stand in `schema/requests.txt`.

mod table;
mod walk;

#[cfg(test)]
mod tests;

use thiserror::Error;

use table::REQUESTS;

/// Elements one array may have.
pub const ARRAY_ELEMENTS_MAX: usize = 1_000_000;
/// Bytes one string may have, in every version: more cannot be said where strings have a length of two bytes.
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;
/// Tagged fields one struct may have.
pub const TAGGED_FIELDS_MAX: usize = 10_000;
/// Strings, structs and arrays in arrays, and tagged fields, that one request may have, all together; bounds what decoding it allocates.
pub const REQUEST_ITEMS_MAX: usize = 1_000_000;

/// Why a request body is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SchemaError {
    /// No schema has this key.
    #[error("api key {0} is unknown")]
    UnknownApi(i16),
    /// The schema has no such version.
    #[error("{api} has no version {version}, it has {min} to {max}")]
    UnsupportedVersion {
        /// Kafka's name of the API.
        api: &'static str,
        /// The version asked for.
        version: i16,
        /// The lowest version there is.
        min: i16,
        /// The highest version there is.
        max: i16,
    },
    /// The bytes do not follow the schema, or pass a limit.
    #[error("{api} request v{version}, {path}: {fault}")]
    Body {
        /// Kafka's name of the API.
        api: &'static str,
        /// The request's version.
        version: i16,
        /// The field, such as `topics[3].partitions`; `body` for the whole.
        path: String,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// The body ends within the field.
    #[error("needs {needed} bytes and {left} are left")]
    CutOff {
        /// Bytes the field needs.
        needed: usize,
        /// Bytes there are.
        left: usize,
    },
    /// A count that even the smallest elements would not fit.
    #[error("{count} elements of at least {element_bytes_min} bytes do not fit the {left} bytes left")]
    Count {
        /// The count read.
        count: usize,
        /// The least bytes of an element.
        element_bytes_min: usize,
        /// Bytes there are.
        left: usize,
    },
    /// A null where the schema has none.
    #[error("is null and must not be")]
    Null,
    /// A negative length other than the null's.
    #[error("has the length {0}")]
    NegativeLength(i32),
    /// A nullable struct begins with a byte that is neither 1 nor -1.
    #[error("begins with {0}, neither null (-1) nor present (1)")]
    Presence(i8),
    /// A varint beyond 32 bits.
    #[error("is no unsigned varint of 32 bits")]
    Varint,
    /// More than [`ARRAY_ELEMENTS_MAX`].
    #[error("has {0} elements, more than {ARRAY_ELEMENTS_MAX}")]
    TooManyElements(usize),
    /// More than [`STRING_BYTES_MAX`].
    #[error("is a string of {0} bytes, more than {STRING_BYTES_MAX}")]
    LongString(usize),
    /// More than [`TAGGED_FIELDS_MAX`].
    #[error("has {0} tagged fields, more than {TAGGED_FIELDS_MAX}")]
    TooManyTaggedFields(usize),
    /// More than [`REQUEST_ITEMS_MAX`].
    #[error("brings the request over {REQUEST_ITEMS_MAX} array elements and tagged fields")]
    TooManyItems,
    /// A tagged field is longer than what it holds.
    #[error("{0} bytes follow the last field")]
    TrailingBytes(usize),
}

/// Versions that kafka-protocol does not know yet, of requests whose bodies are laid out as in the version behind them.
const LATER_VERSIONS: [(i16, i16, i16); 2] = [
    // ListOffsets v11 has one more special timestamp (KIP-1023).
    (2, 11, 10),
    // DescribeLogDirs v5 has one more field in its response.
    (35, 5, 4),
];

/// The version in which a request's body can be read: its own, or an older one with the same fields.
#[must_use]
pub fn layout_version(api_key: i16, api_version: i16) -> i16 {
    let later = LATER_VERSIONS
        .iter()
        .find(|(key, version, _)| (*key, *version) == (api_key, api_version));
    later.map_or(api_version, |(_, _, layout)| *layout)
}

/// Checks a request body (without the request header) before it is decoded; the number of bytes that belong to it.
///
/// Bytes behind the last field are no fault: Kafka ignores them, and librdkafka 2.12 sends three after a Metadata
/// request for all topics. They are not looked at; the decoder must not see them.
pub fn check_request(api_key: i16, api_version: i16, body: &[u8]) -> Result<usize, SchemaError> {
    let request = REQUESTS.get(api_key).ok_or(SchemaError::UnknownApi(api_key))?;
    let Some(plan) = request.plan(layout_version(api_key, api_version)) else {
        return Err(SchemaError::UnsupportedVersion {
            api: request.name,
            version: api_version,
            min: request.version_min,
            max: request.version_max,
        });
    };
    walk::walk_body(plan, request.is_flexible(api_version), body).map_err(|failure| SchemaError::Body {
        api: request.name,
        version: api_version,
        path: failure.path,
        fault: failure.fault,
    })
}

/// The version of the request header that precedes a body: 2 (with tagged fields) if the body is flexible, else 1.
///
/// Says so for versions above the known ones too, as a newer client's ApiVersions needs; 1 for unknown keys.
pub fn request_header_version(api_key: i16, api_version: i16) -> i16 {
    match REQUESTS.get(api_key) {
        Some(request) if request.is_flexible(api_version) => 2,
        Some(_) | None => 1,
    }
}

/// The versions of a request that can be checked and decoded, lowest and highest.
pub fn request_versions(api_key: i16) -> Option<(i16, i16)> {
    REQUESTS
        .get(api_key)
        .map(|request| (request.version_min, request.version_max))
}
