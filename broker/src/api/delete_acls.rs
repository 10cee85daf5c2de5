//! DeleteAcls: there is no authorizer that had any, so each filter is refused.

use std::sync::Arc;

use kafka_protocol::messages::delete_acls_response::DeleteAclsFilterResult;
use kafka_protocol::messages::{DeleteAclsRequest, DeleteAclsResponse};
use odradek_common::error::ErrorCode;

use super::describe_acls::NO_AUTHORIZER;
use super::{Call, Handler};
use crate::broker::Broker;
use crate::names::text;

/// The handler.
pub struct DeleteAcls;

impl Handler for DeleteAcls {
    type Request = DeleteAclsRequest;

    async fn handle(_: Arc<Broker>, _: Call, request: DeleteAclsRequest) -> DeleteAclsResponse {
        let refused = DeleteAclsFilterResult::default()
            .with_error_code(ErrorCode::SecurityDisabled.code())
            .with_error_message(Some(text(NO_AUTHORIZER)));
        DeleteAclsResponse::default().with_filter_results(vec![refused; request.filters.len()])
    }
}
