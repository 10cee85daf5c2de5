//! How many connections there may be, over all listeners and from one address.
//!
//! Promises that every admitted connection is counted until its place is dropped. Changes apply to new connections only.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The counters, shared by the listeners of a node.
#[derive(Debug)]
pub struct ConnectionQuotas {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    max_connections: usize,
    max_connections_per_ip: usize,
    per_ip_overrides: HashMap<IpAddr, usize>,
    connections: usize,
    per_ip: HashMap<IpAddr, usize>,
}

/// The address has as many connections as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyFromAddress {
    pub(crate) max: usize,
}

impl ConnectionQuotas {
    /// Limits as in `max.connections` and `max.connections.per.ip`.
    #[must_use]
    pub fn new(max_connections: usize, max_connections_per_ip: usize) -> Arc<Self> {
        let state = State {
            max_connections,
            max_connections_per_ip,
            per_ip_overrides: HashMap::new(),
            connections: 0,
            per_ip: HashMap::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            freed: Notify::new(),
        })
    }

    /// No limits.
    #[must_use]
    pub fn unlimited() -> Arc<Self> {
        Self::new(usize::MAX, usize::MAX)
    }

    /// Changes the limits for connections to come.
    pub fn set_limits(&self, max_connections: usize, max_connections_per_ip: usize) {
        let mut state = self.state.lock();
        state.max_connections = max_connections;
        state.max_connections_per_ip = max_connections_per_ip;
        drop(state);
        self.freed.notify_waiters();
    }

    /// Limits for single addresses, as in `max.connections.per.ip.overrides`.
    pub fn set_overrides(&self, overrides: HashMap<IpAddr, usize>) {
        self.state.lock().per_ip_overrides = overrides;
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.lock().connections
    }

    /// Waits until there is room for one connection more.
    pub(crate) async fn wait_for_room(&self) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.connections < state.max_connections
    }

    /// Counts a connection in.
    pub(crate) fn admit(self: &Arc<Self>, ip: IpAddr) -> Result<Place, TooManyFromAddress> {
        let ip = ip.to_canonical();
        let mut state = self.state.lock();
        let max = state
            .per_ip_overrides
            .get(&ip)
            .copied()
            .unwrap_or(state.max_connections_per_ip);
        if state.per_ip.get(&ip).copied().unwrap_or(0) >= max {
            return Err(TooManyFromAddress { max });
        }
        *state.per_ip.entry(ip).or_insert(0) += 1;
        state.connections += 1;
        Ok(Place {
            quotas: Arc::clone(self),
            ip,
        })
    }
}

/// One counted connection.
#[derive(Debug)]
pub(crate) struct Place {
    quotas: Arc<ConnectionQuotas>,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.quotas.state.lock();
        state.connections -= 1;
        if let Some(count) = state.per_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                state.per_ip.remove(&self.ip);
            }
        }
        drop(state);
        self.quotas.freed.notify_waiters();
    }
}
