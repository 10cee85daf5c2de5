//! One connection that sends typed requests in a version the test chooses.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::protocol::Request;
use odradek_net::client::{Client, ClientError, ClientSettings};

use crate::wait::eventually;

/// Until somebody listens.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Until a request is answered.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A connection to a broker. Everything unexpected panics: this is for tests.
#[derive(Debug, Clone)]
pub struct Connection {
    client: Arc<Client>,
}

impl Connection {
    /// Connects, waiting for a listener that is about to open.
    ///
    /// # Panics
    /// Nobody listens there.
    pub async fn open(address: &str) -> Self {
        eventually(&format!("a connection to {address}"), CONNECT_LIMIT, async || {
            Self::try_open(address).await.map_err(|error| error.to_string())
        })
        .await
    }

    /// Connects, once.
    ///
    /// # Errors
    /// Nobody listens, or ApiVersions failed.
    pub async fn try_open(address: &str) -> Result<Self, ClientError> {
        let settings = ClientSettings {
            client_id: "cluster-tests".to_owned(),
            request_timeout: ANSWER_LIMIT,
            ..ClientSettings::default()
        };
        Ok(Self {
            client: Client::connect(address, settings).await?,
        })
    }

    /// Asks in the highest version that both sides know.
    ///
    /// # Panics
    /// There is no answer.
    pub async fn ask<R: Request>(&self, request: R) -> R::Response {
        let version = self
            .client
            .common_version::<R>()
            .expect("the broker serves this API");
        self.ask_at(version, request).await
    }

    /// Asks in a given version.
    ///
    /// # Panics
    /// There is no answer.
    pub async fn ask_at<R: Request>(&self, version: i16, request: R) -> R::Response {
        match self.client.send(version, request).await {
            Ok(response) => response,
            Err(error) => panic!("API {} version {version}: {error}", R::KEY),
        }
    }

    /// Asks in a given version, where no answer is an answer.
    ///
    /// # Errors
    /// The connection closed, or there was no answer in time.
    pub async fn try_ask_at<R: Request>(&self, version: i16, request: R) -> Result<R::Response, ClientError> {
        self.client.send(version, request).await
    }

    /// The client below.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}
