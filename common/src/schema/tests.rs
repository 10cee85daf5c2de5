//! The table against kafka-protocol: what the plans describe is what the decoder reads, for every key and version.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, Request};
use proptest::prelude::*;

use super::table::{Field, Kind, Plan, REQUESTS};
use super::*;

/// What the tests need of one request type.
struct Case {
    key: i16,
    versions: (i16, i16),
    /// Encodes the default request.
    encode_default: fn(i16) -> Vec<u8>,
    /// Decodes a body and encodes it again.
    reencode: fn(&[u8], i16) -> Vec<u8>,
    /// Bytes the decoder leaves of a body, if it takes it.
    bytes_left: fn(&[u8], i16) -> Option<usize>,
    header_version: fn(i16) -> i16,
}

fn case<R: Request + Message + Default + Encodable + Decodable + HeaderVersion>() -> Case {
    Case {
        key: R::KEY,
        versions: (R::VERSIONS.min, R::VERSIONS.max),
        encode_default: |version| encode(&R::default(), version),
        reencode: |body, version| {
            let mut rest = Bytes::copy_from_slice(body);
            let request = R::decode(&mut rest, version).unwrap();
            assert!(rest.is_empty(), "the decoder left {} bytes", rest.len());
            encode(&request, version)
        },
        bytes_left: |body, version| {
            let mut rest = Bytes::copy_from_slice(body);
            R::decode(&mut rest, version).ok().map(|_| rest.len())
        },
        header_version: R::header_version,
    }
}

fn encode<R: Encodable>(request: &R, version: i16) -> Vec<u8> {
    let mut out = BytesMut::new();
    request.encode(&mut out, version).unwrap();
    out.to_vec()
}

macro_rules! cases {
    ($($request:ident,)*) => {
        fn cases() -> Vec<Case> {
            vec![$(case::<$request>()),*]
        }
    };
}

cases! {
    ProduceRequest,
    FetchRequest,
    ListOffsetsRequest,
    MetadataRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
    FindCoordinatorRequest,
    JoinGroupRequest,
    HeartbeatRequest,
    LeaveGroupRequest,
    SyncGroupRequest,
    DescribeGroupsRequest,
    ListGroupsRequest,
    SaslHandshakeRequest,
    ApiVersionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    DeleteRecordsRequest,
    InitProducerIdRequest,
    OffsetForLeaderEpochRequest,
    AddPartitionsToTxnRequest,
    AddOffsetsToTxnRequest,
    EndTxnRequest,
    WriteTxnMarkersRequest,
    TxnOffsetCommitRequest,
    DescribeAclsRequest,
    CreateAclsRequest,
    DeleteAclsRequest,
    DescribeConfigsRequest,
    AlterConfigsRequest,
    AlterReplicaLogDirsRequest,
    DescribeLogDirsRequest,
    SaslAuthenticateRequest,
    CreatePartitionsRequest,
    CreateDelegationTokenRequest,
    RenewDelegationTokenRequest,
    ExpireDelegationTokenRequest,
    DescribeDelegationTokenRequest,
    DeleteGroupsRequest,
    ElectLeadersRequest,
    IncrementalAlterConfigsRequest,
    AlterPartitionReassignmentsRequest,
    ListPartitionReassignmentsRequest,
    OffsetDeleteRequest,
    DescribeClientQuotasRequest,
    AlterClientQuotasRequest,
    DescribeUserScramCredentialsRequest,
    AlterUserScramCredentialsRequest,
    VoteRequest,
    BeginQuorumEpochRequest,
    EndQuorumEpochRequest,
    DescribeQuorumRequest,
    AlterPartitionRequest,
    UpdateFeaturesRequest,
    EnvelopeRequest,
    FetchSnapshotRequest,
    DescribeClusterRequest,
    DescribeProducersRequest,
    BrokerRegistrationRequest,
    BrokerHeartbeatRequest,
    UnregisterBrokerRequest,
    DescribeTransactionsRequest,
    ListTransactionsRequest,
    AllocateProducerIdsRequest,
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupDescribeRequest,
    ControllerRegistrationRequest,
    GetTelemetrySubscriptionsRequest,
    PushTelemetryRequest,
    AssignReplicasToDirsRequest,
    ListConfigResourcesRequest,
    DescribeTopicPartitionsRequest,
    ShareGroupHeartbeatRequest,
    ShareGroupDescribeRequest,
    ShareFetchRequest,
    ShareAcknowledgeRequest,
    AddRaftVoterRequest,
    RemoveRaftVoterRequest,
    UpdateRaftVoterRequest,
    InitializeShareGroupStateRequest,
    ReadShareGroupStateRequest,
    WriteShareGroupStateRequest,
    DeleteShareGroupStateRequest,
    ReadShareGroupStateSummaryRequest,
    DescribeShareGroupOffsetsRequest,
    AlterShareGroupOffsetsRequest,
    DeleteShareGroupOffsetsRequest,
}

/// What a filled body has where a null may stand, and how many elements its arrays have.
#[derive(Clone, Copy)]
struct Filling {
    null: bool,
    elements: u8,
    unknown_tag: bool,
}

fn write_length(out: &mut Vec<u8>, length: Option<u8>, width: usize, flexible: bool) {
    if flexible {
        out.push(length.map_or(0, |length| length + 1));
    } else {
        match length {
            None => out.extend(std::iter::repeat_n(0xff, width)),
            Some(length) => {
                out.extend(std::iter::repeat_n(0, width - 1));
                out.push(length);
            }
        }
    }
}

fn fill_kind(out: &mut Vec<u8>, kind: &Kind, flexible: bool, filling: Filling) {
    match kind {
        Kind::Fixed(bytes) => {
            out.extend(std::iter::repeat_n(0, bytes - 1));
            out.push(1);
        }
        Kind::String => {
            write_length(out, Some(3), 2, flexible);
            out.extend(b"abc");
        }
        Kind::Bytes => {
            write_length(out, Some(2), 4, flexible);
            out.extend([0xff, 0]);
        }
        Kind::Struct(plan) => fill_plan(out, plan, flexible, filling),
        Kind::Array(element) => {
            write_length(out, Some(filling.elements), 4, flexible);
            for _ in 0..filling.elements {
                fill_kind(out, element, flexible, filling);
            }
        }
    }
}

fn fill_field(out: &mut Vec<u8>, field: &Field, flexible: bool, filling: Filling) {
    let null = field.nullable && filling.null;
    match &field.kind {
        Kind::Struct(_) if null => out.push(0xff),
        Kind::String if null => write_length(out, None, 2, flexible),
        Kind::Bytes | Kind::Array(_) if null => write_length(out, None, 4, flexible),
        kind => {
            if field.nullable && matches!(kind, Kind::Struct(_)) {
                out.push(1);
            }
            fill_kind(out, kind, flexible, filling);
        }
    }
}

fn fill_plan(out: &mut Vec<u8>, plan: &Plan, flexible: bool, filling: Filling) {
    for field in &plan.fields {
        fill_field(out, field, flexible, filling);
    }
    if !flexible {
        return;
    }
    let tagged: Vec<_> = plan
        .tagged
        .iter()
        .filter(|(_, field)| !(field.nullable && filling.null))
        .collect();
    out.push(tagged.len() as u8 + u8::from(filling.unknown_tag));
    for (tag, field) in tagged {
        let mut content = Vec::new();
        fill_field(&mut content, field, flexible, filling);
        out.extend([u8::try_from(*tag).unwrap(), u8::try_from(content.len()).unwrap()]);
        out.extend(content);
    }
    if filling.unknown_tag {
        out.extend([77, 2, b'h', b'i']);
    }
}

const FILLINGS: [Filling; 3] = [
    Filling {
        null: false,
        elements: 2,
        unknown_tag: true,
    },
    Filling {
        null: true,
        elements: 1,
        unknown_tag: false,
    },
    Filling {
        null: false,
        elements: 1,
        unknown_tag: false,
    },
];

fn filled(case: &Case, version: i16, filling: Filling) -> Vec<u8> {
    let request = REQUESTS.get(case.key).unwrap();
    let mut out = Vec::new();
    fill_plan(
        &mut out,
        request.plan(version).unwrap(),
        request.is_flexible(version),
        filling,
    );
    out
}

#[test]
fn every_key_of_the_decoder_is_in_the_table() {
    let keys: Vec<i16> = ApiKey::iter().map(|key| key as i16).collect();
    let mut tested: Vec<i16> = cases().iter().map(|case| case.key).collect();
    tested.sort_unstable();
    assert_eq!(keys, tested);
    let known: Vec<i16> = (-1..=i16::MAX)
        .filter(|key| REQUESTS.get(*key).is_some())
        .collect();
    assert_eq!(known, tested);
}

#[test]
fn versions_are_those_of_the_request_decoder() {
    // WriteTxnMarkers v2 has a field that the decoder does not know; the broker reads it by hand.
    const READ_BY_HAND: [(i16, i16); 1] = [(27, 2)];
    for case in cases() {
        let later = READ_BY_HAND.iter().find(|(key, _)| *key == case.key);
        let last = later.map_or(case.versions.1, |(_, version)| *version);
        assert_eq!(
            request_versions(case.key),
            Some((case.versions.0, last)),
            "key {}",
            case.key
        );
    }
}

#[test]
fn header_versions_agree() {
    for case in cases() {
        for version in case.versions.0..=case.versions.1 + 1 {
            let expected = (case.header_version)(version);
            assert_eq!(
                request_header_version(case.key, version),
                expected,
                "key {} v{version}",
                case.key
            );
        }
    }
    assert_eq!(request_header_version(18, i16::MAX), 2);
    assert_eq!(request_header_version(-1, 0), 1);
}

#[test]
fn default_requests_pass() {
    for case in cases() {
        for version in case.versions.0..=case.versions.1 {
            let body = (case.encode_default)(version);
            assert_eq!(
                check_request(case.key, version, &body),
                Ok(body.len()),
                "key {} v{version}",
                case.key
            );
        }
    }
}

#[test]
fn filled_bodies_mean_the_same_to_the_decoder() {
    for case in cases() {
        for version in case.versions.0..=case.versions.1 {
            for filling in FILLINGS {
                let body = filled(&case, version, filling);
                assert_eq!(
                    check_request(case.key, version, &body),
                    Ok(body.len()),
                    "key {} v{version}",
                    case.key
                );
                assert_eq!(
                    (case.reencode)(&body, version),
                    body,
                    "key {} v{version}",
                    case.key
                );
            }
        }
    }
}

#[test]
fn cut_bodies_are_refused_and_longer_ones_measured() {
    for case in cases() {
        for version in case.versions.0..=case.versions.1 {
            let body = filled(&case, version, FILLINGS[0]);
            for end in 0..body.len() {
                let refused = check_request(case.key, version, &body[..end]);
                assert!(
                    matches!(refused, Err(SchemaError::Body { .. })),
                    "key {} v{version} at {end}",
                    case.key
                );
            }
            let mut longer = body.clone();
            longer.extend([0, 1, 2]);
            assert_eq!(
                check_request(case.key, version, &longer),
                Ok(body.len()),
                "key {} v{version}",
                case.key
            );
        }
    }
}

proptest! {
    /// Whatever the guard lets pass, the decoder must survive: it may refuse (UTF-8), not abort
    /// or stop at another byte.
    #[test]
    fn what_passes_can_be_decoded(
        index in 0usize..87, version in 0i16..20, at in any::<prop::sample::Index>(), byte: u8, filling in 0usize..3
    ) {
        let all = cases();
        let case = &all[index % all.len()];
        let version = case.versions.0 + version % (case.versions.1 - case.versions.0 + 1);
        let mut body = filled(case, version, FILLINGS[filling]);
        if !body.is_empty() {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Ok(length) = check_request(case.key, version, &body) {
            let left = (case.bytes_left)(&body[..length], version);
            prop_assert!(left.is_none_or(|left| left == 0), "key {} v{version}: {left:?}", case.key);
        }
    }

    #[test]
    fn random_bytes_never_panic(key in -1i16..95, version in -1i16..20, body: Vec<u8>) {
        let _ = check_request(key, version, &body);
    }
}
