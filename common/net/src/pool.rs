//! Clients to the nodes of a cluster, one connection per address, made again when it breaks.
//!
//! Promises at most one attempt at a time per address, and pauses between failing attempts that grow from 50 ms to 1 s. Does not
//! repeat requests: whether that is safe only the caller knows.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::client::{Client, ClientError, ClientSettings};

/// The pause after the first failed attempt.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Clients by address.
#[derive(Debug)]
pub struct ClientPool {
    settings: ClientSettings,
    entries: Mutex<HashMap<String, Arc<Entry>>>,
    nodes: Mutex<BTreeMap<i32, String>>,
}

#[derive(Debug, Default)]
struct Entry {
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    client: Option<Arc<Client>>,
    failures: u32,
    retry_at: Option<(Instant, String)>,
}

impl ClientPool {
    /// A pool whose clients are made with these settings.
    #[must_use]
    pub fn new(settings: ClientSettings) -> Arc<Self> {
        let entries = Mutex::new(HashMap::new());
        Arc::new(Self {
            settings,
            entries,
            nodes: Mutex::new(BTreeMap::new()),
        })
    }

    /// A connected client for `host:port`; connects if there is none, after the pause that failures before demand.
    ///
    /// # Errors
    /// The attempt fails.
    pub async fn get(&self, address: &str) -> Result<Arc<Client>, ClientError> {
        let entry = self.entry(address);
        let mut state = entry.state.lock().await;
        if let Some(client) = state.connected() {
            return Ok(client);
        }
        if let Some((retry_at, _)) = state.retry_at {
            tokio::time::sleep_until(retry_at).await;
        }
        state.connect(address, self.settings.clone()).await
    }

    /// Like [`ClientPool::get`], but fails at once while a pause lasts.
    ///
    /// # Errors
    /// The attempt fails, or the last one failed a moment ago.
    pub async fn try_get(&self, address: &str) -> Result<Arc<Client>, ClientError> {
        let entry = self.entry(address);
        let mut state = entry.state.lock().await;
        if let Some(client) = state.connected() {
            return Ok(client);
        }
        if let Some((retry_at, reason)) = &state.retry_at
            && Instant::now() < *retry_at
        {
            return Err(ClientError::BackingOff {
                address: address.to_owned(),
                reason: reason.clone(),
            });
        }
        state.connect(address, self.settings.clone()).await
    }

    /// A connected client for a node, at the address last set for it.
    ///
    /// # Errors
    /// The node's address is unknown, or as for [`ClientPool::get`].
    pub async fn node(&self, node_id: i32) -> Result<Arc<Client>, ClientError> {
        let address = self
            .nodes
            .lock()
            .get(&node_id)
            .cloned()
            .ok_or(ClientError::UnknownNode(node_id))?;
        self.get(&address).await
    }

    /// Says where a node is; a connection to another address of it before is closed.
    pub fn set_node(&self, node_id: i32, host: &str, port: u16) {
        let address = join_address(host, port);
        let before = self.nodes.lock().insert(node_id, address.clone());
        if let Some(before) = before.filter(|before| *before != address) {
            self.remove(&before);
        }
    }

    /// Forgets a node and closes the connection to it.
    pub fn remove_node(&self, node_id: i32) {
        let before = self.nodes.lock().remove(&node_id);
        if let Some(address) = before {
            self.remove(&address);
        }
    }

    /// Closes the connection to an address and forgets its failures.
    pub fn remove(&self, address: &str) {
        let entry = self.entries.lock().remove(address);
        if let Some(client) = entry.and_then(|entry| entry.state.try_lock().ok()?.client.take()) {
            client.close("the address is no longer in use");
        }
    }

    fn entry(&self, address: &str) -> Arc<Entry> {
        Arc::clone(self.entries.lock().entry(address.to_owned()).or_default())
    }
}

impl State {
    fn connected(&self) -> Option<Arc<Client>> {
        self.client.as_ref().filter(|client| !client.is_closed()).cloned()
    }

    async fn connect(&mut self, address: &str, settings: ClientSettings) -> Result<Arc<Client>, ClientError> {
        match Client::connect(address, settings).await {
            Ok(client) => {
                *self = Self {
                    client: Some(Arc::clone(&client)),
                    ..Self::default()
                };
                Ok(client)
            }
            Err(error) => {
                let pause = BACKOFF_MIN
                    .saturating_mul(1 << self.failures.min(10))
                    .min(BACKOFF_MAX);
                self.failures = self.failures.saturating_add(1);
                self.client = None;
                self.retry_at = Some((Instant::now() + pause, error.to_string()));
                Err(error)
            }
        }
    }
}

/// `host:port`, with brackets around an IPv6 address.
#[must_use]
pub fn join_address(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        return format!("[{host}]:{port}");
    }
    format!("{host}:{port}")
}
