//! Refusals that the protocol expects. The numbers are kafka-protocol's generated table.

use std::fmt;

pub use kafka_protocol::ResponseError as ErrorCode;

/// A refusal: a code that clients act on and a sentence that people read. The sentence travels wherever the response has
/// an `error_message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// What clients act on.
    pub code: ErrorCode,
    /// What was wrong and what to do.
    pub detail: String,
}

impl ApiError {
    /// A refusal with its explanation.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub fn code(&self) -> i16 {
        self.code.code()
    }
}

impl From<ErrorCode> for ApiError {
    fn from(code: ErrorCode) -> Self {
        Self {
            code,
            detail: code.to_string(),
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({}): {}", self.code, self.code(), self.detail)
    }
}

impl std::error::Error for ApiError {}

/// The number on the wire of an optional refusal; 0 is "no error".
#[must_use]
pub fn wire_code(error: Option<ErrorCode>) -> i16 {
    error.map_or(0, |code| code.code())
}
