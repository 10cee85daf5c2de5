//! Waiting for a state, with a bound and the last reason in the message.

use std::time::{Duration, Instant};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks until there is an answer.
///
/// # Panics
/// There is none within `limit`; the message says what was awaited and why the last look failed.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let begin = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(reason) => assert!(
                begin.elapsed() < limit,
                "{what}: not within {} ms; at last: {reason}",
                limit.as_millis()
            ),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// `Ok(())` if it holds, else the reason; for use in [`eventually`].
///
/// # Errors
/// It does not hold.
pub fn holds(condition: bool, reason: impl Into<String>) -> Result<(), String> {
    if condition { Ok(()) } else { Err(reason.into()) }
}
