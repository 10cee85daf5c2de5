//! How many connections there may be, over all listeners and from one address, and how many may begin in a second.
//!
//! Promises that every admitted connection is counted until its place is dropped. Changes apply to new connections only.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// Connections that were not made in the last second may be made at once.
const CREATION_BURST: Duration = Duration::from_secs(1);

/// The counters of one listener, or of all that share them.
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
    creations: Creations,
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
            creations: Creations::unlimited(),
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

    /// Most new connections in one second, as in `max.connection.creation.rate`.
    pub fn set_creation_rate(&self, rate_max: u32) {
        self.state.lock().creations = Creations::new(rate_max, Instant::now());
        self.freed.notify_waiters();
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
            match self.room() {
                Room::Now => return,
                Room::From(at) => {
                    let _changed = tokio::time::timeout_at(at, freed).await;
                }
                Room::Full => freed.await,
            }
        }
    }

    fn room(&self) -> Room {
        let state = self.state.lock();
        if state.connections >= state.max_connections {
            return Room::Full;
        }
        state.creations.room(Instant::now())
    }

    /// Counts a connection in.
    pub(crate) fn admit(self: &Arc<Self>, ip: IpAddr) -> Result<Place, TooManyFromAddress> {
        let ip = ip.to_canonical();
        let mut state = self.state.lock();
        state.creations.count(Instant::now());
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

/// How fast connections may begin: each takes up its share of a second.
#[derive(Debug)]
struct Creations {
    /// The share; `None` lets nobody in.
    interval: Option<Duration>,
    /// When the connections of the past have used up theirs.
    until: Instant,
}

impl Creations {
    fn new(rate_max: u32, now: Instant) -> Self {
        Self {
            interval: Duration::from_secs(1).checked_div(rate_max),
            until: now,
        }
    }

    fn unlimited() -> Self {
        Self::new(u32::MAX, Instant::now())
    }

    fn count(&mut self, now: Instant) {
        self.until = self.until.max(now) + self.interval.unwrap_or_default();
    }

    fn room(&self, now: Instant) -> Room {
        let Some(interval) = self.interval else {
            return Room::Full;
        };
        let burst = CREATION_BURST.max(interval);
        if self.until + interval <= now + burst {
            Room::Now
        } else {
            Room::From(self.until + interval - burst)
        }
    }
}

/// Whether there is room for one connection more.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Now,
    From(Instant),
    Full,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_begin_no_faster_than_the_rate() {
        let begun = Instant::now();
        let mut creations = Creations::new(10, begun);
        let mut now = begun;
        let mut ready = Vec::new();
        for _ in 0..12 {
            if let Room::From(at) = creations.room(now) {
                now = at;
            }
            assert_eq!(creations.room(now), Room::Now);
            creations.count(now);
            ready.push((now - begun).as_millis());
        }
        let at_once = [0; 10];
        assert_eq!(ready[..10], at_once, "a second's worth at once");
        assert_eq!(ready[10..], [100, 200], "and ten in each second after that");
    }

    #[test]
    fn a_rate_below_one_burst_still_lets_one_in() {
        let now = Instant::now();
        let mut creations = Creations::new(1, now);
        assert_eq!(creations.room(now), Room::Now);
        creations.count(now);
        assert_eq!(creations.room(now), Room::From(now + Duration::from_secs(1)));
    }

    #[test]
    fn a_rate_of_nothing_lets_nobody_in() {
        let now = Instant::now();
        assert_eq!(Creations::new(0, now).room(now), Room::Full);
    }
}
