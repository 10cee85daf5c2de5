//! DescribeAcls: there is no authorizer, and whoever asks for its rules is told so.

use std::sync::Arc;

use kafka_protocol::messages::{DescribeAclsRequest, DescribeAclsResponse};
use odradek_common::error::ErrorCode;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::names::text;

/// What comes with SECURITY_DISABLED, here and from [`super::create_acls`] and [`super::delete_acls`]. Short, since those say it of
/// every element, of which a request may have very many.
pub(super) const NO_AUTHORIZER: &str = "no authorizer is configured";

/// The handler.
pub struct DescribeAcls;

impl Handler for DescribeAcls {
    type Request = DescribeAclsRequest;

    async fn handle(_: Arc<Broker>, _: Call, _: DescribeAclsRequest) -> DescribeAclsResponse {
        DescribeAclsResponse::default()
            .with_error_code(ErrorCode::SecurityDisabled.code())
            .with_error_message(Some(text(NO_AUTHORIZER)))
    }
}
