//! Why a command ends without success.

use std::io;

use kafka_protocol::ResponseError;
use odradek_common::error::ApiError;
use odradek_net::client::ClientError;
use thiserror::Error;

/// What a command tells the person who gave it.
#[derive(Debug, Error)]
pub enum CommandError {
    /// No answer.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// The cluster refuses.
    #[error("{}", .0.detail)]
    Api(#[from] ApiError),
    /// None of the servers given can be reached.
    #[error("none of the bootstrap servers can be reached: {0}")]
    Unreachable(String),
    /// The server does not have an API that the command needs.
    #[error("{address} does not serve {api} in a version that this program knows")]
    Unsupported {
        /// The server.
        address: String,
        /// The API's name.
        api: String,
    },
    /// A controller was named where a broker has to be.
    #[error(
        "{address} is a controller's listener, which does not serve {api}: name a broker's listener instead, where clients connect"
    )]
    Controller {
        /// The server.
        address: String,
        /// The API's name.
        api: String,
    },
    /// What the active controller decides got no answer.
    #[error(
        "{source}: the active controller decides that, and perhaps the metadata quorum has no leader, as /readyz of its \
         controllers would say. Whether the request was carried out is unknown"
    )]
    NoController {
        /// How the wait ended.
        source: ClientError,
    },
    /// A file or process cannot be read, written or started.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, on what.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// Everything else, as a sentence.
    #[error("{0}")]
    Refused(String),
}

/// What commands return.
pub type Outcome<T = ()> = Result<T, CommandError>;

impl CommandError {
    /// A refusal in words.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }

    /// Names what failed in front of what the system says.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Whether the same request may succeed a moment later.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Client(_) | Self::Unreachable(_) | Self::NoController { .. } => true,
            Self::Api(error) => error.code.is_retriable(),
            Self::Unsupported { .. } | Self::Controller { .. } | Self::Io { .. } | Self::Refused(_) => false,
        }
    }
}

/// The refusal behind an error code of a response, with its message if the response carries one.
pub fn check(code: i16, message: Option<&str>) -> Result<(), ApiError> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => match message.filter(|message| !message.is_empty()) {
            Some(message) => Err(ApiError::new(error, message)),
            None => Err(ApiError::from(error)),
        },
    }
}
