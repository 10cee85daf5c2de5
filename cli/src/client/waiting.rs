//! What a command says on standard error while it waits, so that nobody takes it for one that hangs.
//!
//! Promises to say it once, and only if the wait is longer than a moment.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use odradek_net::client::{Client, ClientError};
use tokio::time::Instant;

use crate::error::{CommandError, Outcome};

/// A wait that is worth no word.
const MOMENT: Duration = Duration::from_secs(2);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// What a broker passes on to the active controller, and what a controller that is not active cannot answer.
const DECIDED_BY_CONTROLLER: &[ApiKey] = &[
    ApiKey::CreateTopics,
    ApiKey::DeleteTopics,
    ApiKey::CreatePartitions,
    ApiKey::ElectLeaders,
    ApiKey::IncrementalAlterConfigs,
    ApiKey::AlterPartitionReassignments,
    ApiKey::ListPartitionReassignments,
    ApiKey::DescribeQuorum,
    ApiKey::UpdateFeatures,
    ApiKey::AddRaftVoter,
    ApiKey::RemoveRaftVoter,
];

/// A request that is under way.
pub struct Asked {
    address: String,
    api_key: i16,
    api: String,
    limit: Duration,
}

impl Asked {
    /// A request of one API to a server.
    pub fn new(client: &Client, api_key: i16) -> Self {
        Self {
            address: client.address().to_owned(),
            api_key,
            api: odradek_net::wire::api_name(api_key),
            limit: client.request_timeout(),
        }
    }

    /// Waits for the answer.
    pub async fn answer<T>(self, answer: impl Future<Output = Result<T, ClientError>>) -> Outcome<T> {
        let mut late = false;
        let answered = patiently(answer, || {
            late = true;
            eprintln!("{}", self.while_late());
        })
        .await;
        match answered {
            Err(source @ (ClientError::Timeout { .. } | ClientError::Closed { .. }))
                if late && self.needs_controller() =>
            {
                Err(CommandError::NoController { source })
            }
            answered => Ok(answered?),
        }
    }

    fn needs_controller(&self) -> bool {
        DECIDED_BY_CONTROLLER
            .iter()
            .any(|key| *key as i16 == self.api_key)
    }

    fn while_late(&self) -> String {
        let reason = if self.needs_controller() {
            ", which the active controller decides: perhaps the metadata quorum has no leader"
        } else {
            ""
        };
        format!(
            "{} has not answered {} yet{reason}; waiting for {} s at most",
            self.address,
            self.api,
            self.limit.as_secs()
        )
    }
}

/// Waits for an answer, and tells if that takes longer than a moment.
async fn patiently<T>(answer: impl Future<Output = T>, tell: impl FnOnce()) -> T {
    let mut answer = pin!(answer);
    if let Ok(answered) = tokio::time::timeout(MOMENT, &mut answer).await {
        return answered;
    }
    tell();
    answer.await
}

/// Attempts at something that fails for reasons that pass.
pub struct Attempts {
    began: Instant,
    /// Without one they never end.
    limit: Option<Duration>,
    has_told: bool,
}

impl Attempts {
    /// Attempts that begin now and end after `limit`.
    pub fn within(limit: Duration) -> Self {
        Self {
            limit: Some(limit),
            ..Self::endless()
        }
    }

    /// Attempts that begin now and go on until they succeed.
    pub fn endless() -> Self {
        Self {
            began: Instant::now(),
            limit: None,
            has_told: false,
        }
    }

    /// Pauses after an attempt that failed; false when there is no time for another.
    pub async fn pause(&mut self, reason: &str) -> bool {
        let elapsed = self.began.elapsed();
        let left = self.limit.map(|limit| limit.saturating_sub(elapsed));
        if left.is_some_and(|left| left.is_zero()) {
            return false;
        }
        if let Some(words) = self.while_failing(elapsed, reason) {
            eprintln!("{words}");
        }
        tokio::time::sleep(left.unwrap_or(PAUSE).min(PAUSE)).await;
        true
    }

    fn while_failing(&mut self, elapsed: Duration, reason: &str) -> Option<String> {
        if self.has_told || elapsed < MOMENT {
            return None;
        }
        self.has_told = true;
        Some(match self.limit {
            Some(limit) => format!("{reason}; trying again for {} s in all", limit.as_secs()),
            None => format!("{reason}; trying again until it works"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_that_is_late_is_told_of_and_one_that_is_not_is_not() {
        let mut told = false;
        assert_eq!(patiently(async { 1 }, || told = true).await, 1);
        assert!(!told);
        let late = async {
            tokio::time::sleep(MOMENT + PAUSE).await;
            2
        };
        assert_eq!(patiently(late, || told = true).await, 2);
        assert!(told);
    }

    #[test]
    fn a_late_answer_of_the_controller_is_said_to_be_one() {
        let asked = |api_key: ApiKey| Asked {
            address: "h:1".to_owned(),
            api_key: api_key as i16,
            api: format!("{api_key:?}"),
            limit: Duration::from_secs(30),
        };
        assert_eq!(
            asked(ApiKey::Metadata).while_late(),
            "h:1 has not answered Metadata yet; waiting for 30 s at most"
        );
        let words = asked(ApiKey::CreateTopics).while_late();
        assert!(words.contains("the metadata quorum has no leader"), "{words}");
    }

    #[test]
    fn attempts_that_fail_are_told_of_once_and_after_a_moment() {
        let mut attempts = Attempts::within(Duration::from_secs(30));
        assert_eq!(attempts.while_failing(MOMENT / 2, "no leader"), None);
        let words = attempts.while_failing(MOMENT, "no leader");
        assert_eq!(words.as_deref(), Some("no leader; trying again for 30 s in all"));
        assert_eq!(attempts.while_failing(MOMENT * 2, "no leader"), None);
    }

    #[tokio::test]
    async fn attempts_end_with_their_time() {
        let begin = Instant::now();
        let mut attempts = Attempts::within(PAUSE * 2);
        while attempts.pause("no").await {}
        assert!((PAUSE * 2..PAUSE * 20).contains(&begin.elapsed()));
        assert!(!Attempts::within(Duration::ZERO).pause("no").await);
        assert!(Attempts::endless().pause("no").await);
    }
}
