//! CreateAcls: there is no authorizer to keep them, so each is refused.

use std::sync::Arc;

use kafka_protocol::messages::create_acls_response::AclCreationResult;
use kafka_protocol::messages::{CreateAclsRequest, CreateAclsResponse};
use odradek_common::error::ErrorCode;

use super::describe_acls::NO_AUTHORIZER;
use super::{Call, Handler};
use crate::broker::Broker;
use crate::names::text;

/// The handler.
pub struct CreateAcls;

impl Handler for CreateAcls {
    type Request = CreateAclsRequest;

    async fn handle(_: Arc<Broker>, _: Call, request: CreateAclsRequest) -> CreateAclsResponse {
        let refused = AclCreationResult::default()
            .with_error_code(ErrorCode::SecurityDisabled.code())
            .with_error_message(Some(text(NO_AUTHORIZER)));
        CreateAclsResponse::default().with_results(vec![refused; request.creations.len()])
    }
}
