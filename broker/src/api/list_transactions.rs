//! ListTransactions: the transactions that this broker coordinates.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::list_transactions_response::TransactionState as ListedTransaction;
use kafka_protocol::messages::{
    ApiKey, ListTransactionsRequest, ListTransactionsResponse, ProducerId, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use odradek_broker_core::transactions::ListFilter;
use odradek_broker_core::transactions::metadata::TransactionState;
use odradek_common::error::ErrorCode;
use regex::{Regex, RegexBuilder};

use super::{Call, Handler};
use crate::broker::Broker;
use crate::names::text;

/// Longest pattern: what a pattern takes while it is read is not bounded otherwise.
const PATTERN_LENGTH_MAX: usize = 4_096;
/// Memory that a pattern may take when it is compiled.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// The handler.
pub struct ListTransactions;

impl Handler for ListTransactions {
    type Request = ListTransactionsRequest;

    async fn handle(
        broker: Arc<Broker>,
        _call: Call,
        request: ListTransactionsRequest,
    ) -> ListTransactionsResponse {
        match list(&broker, &request).await {
            Ok(response) => response,
            Err(code) => {
                broker.metrics.refused(ApiKey::ListTransactions, code);
                ListTransactionsResponse::default().with_error_code(code.code())
            }
        }
    }
}

async fn list(
    broker: &Broker,
    request: &ListTransactionsRequest,
) -> Result<ListTransactionsResponse, ErrorCode> {
    let pattern = pattern(request.transactional_id_pattern.as_ref())?;
    let (states, unknown) = states(&request.state_filters);
    let filter = ListFilter {
        states,
        producer_ids: request.producer_id_filters.iter().map(|id| id.0).collect(),
        duration_ms: request.duration_filter,
    };
    let listed = broker.transactions.list(filter).await?.into_iter();
    let listed = listed
        .filter(|(transactional_id, ..)| {
            pattern
                .as_ref()
                .is_none_or(|pattern| pattern.is_match(transactional_id))
        })
        .map(|(transactional_id, producer_id, state)| {
            ListedTransaction::default()
                .with_transactional_id(TransactionalId(transactional_id))
                .with_producer_id(ProducerId(producer_id))
                .with_transaction_state(text(state.name()))
        });
    Ok(ListTransactionsResponse::default()
        .with_unknown_state_filters(unknown)
        .with_transaction_states(listed.collect()))
}

/// The states that are asked for, `None` for any, and the names of no state.
fn states(filters: &[StrBytes]) -> (Option<BTreeSet<TransactionState>>, Vec<StrBytes>) {
    let mut states = BTreeSet::new();
    let mut unknown = Vec::new();
    for name in filters {
        match TransactionState::from_name(name) {
            Some(state) => _ = states.insert(state),
            None => unknown.push(name.clone()),
        }
    }
    ((!filters.is_empty()).then_some(states), unknown)
}

/// A pattern that whole transactional ids match (KIP-1152); none lets every id through. Kafka takes RE2's syntax, which this is
/// too, but for `\Q...\E`, which is refused, and for `\d`, `\s`, `\w` and `\b`, which know all of Unicode here and ASCII there.
fn pattern(pattern: Option<&StrBytes>) -> Result<Option<Regex>, ErrorCode> {
    let Some(pattern) = pattern.filter(|pattern| !pattern.is_empty()) else {
        return Ok(None);
    };
    if pattern.len() > PATTERN_LENGTH_MAX {
        return Err(ErrorCode::InvalidRegularExpression);
    }
    // By itself first: within brackets `a)|(b` would be one.
    compile(pattern)?;
    compile(&format!("^(?:{})$", pattern.as_str())).map(Some)
}

fn compile(pattern: &str) -> Result<Regex, ErrorCode> {
    let mut builder = RegexBuilder::new(pattern);
    let built = builder.size_limit(PATTERN_BYTES_MAX).build();
    built.map_err(|_| ErrorCode::InvalidRegularExpression)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_ids() {
        let compiled = pattern(Some(&text("transfer-[0-9]+|x"))).unwrap().unwrap();
        assert!(compiled.is_match("transfer-17"));
        assert!(!compiled.is_match("transfer-17b") && !compiled.is_match("my-transfer-1"));
        assert!(pattern(Some(&text(""))).unwrap().is_none() && pattern(None).unwrap().is_none());
        let longest = "a".repeat(PATTERN_LENGTH_MAX);
        assert!(
            pattern(Some(&text(&longest)))
                .unwrap()
                .unwrap()
                .is_match(&longest)
        );
        for refused in ["(", "a)|(b", &format!("{longest}a"), "((a{100}){100}){100}"] {
            let refused = pattern(Some(&text(refused)));
            assert_eq!(refused.err(), Some(ErrorCode::InvalidRegularExpression));
        }
    }

    #[test]
    fn names_of_no_state_are_told_and_let_nothing_through() {
        assert_eq!(states(&[]), (None, vec![]));
        let (known, unknown) = states(&[text("Ongoing"), text("ongoing"), text("Nonsense")]);
        assert_eq!(known, Some(BTreeSet::from([TransactionState::Ongoing])));
        assert_eq!(unknown, [text("ongoing"), text("Nonsense")]);
        assert_eq!(states(&[text("Nonsense")]).0, Some(BTreeSet::new()));
    }
}
