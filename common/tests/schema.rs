//! The guard against requests as clients write them, and against bytes made to hurt the decoder.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::alter_partition_request::{BrokerState, PartitionData, TopicData};
use kafka_protocol::messages::broker_registration_request::{Feature, Listener};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, Message, Request, StrBytes};
use odradek_common::schema::{
    ARRAY_ELEMENTS_MAX, Fault, REQUEST_ITEMS_MAX, STRING_BYTES_MAX, SchemaError, TAGGED_FIELDS_MAX,
    check_request, layout_version, request_versions,
};
use uuid::Uuid;

fn s(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn topic() -> TopicName {
    TopicName(s("orders"))
}

/// Encodes `make(version)` in every version and checks that the guard takes it.
fn accepted<R: Request + Message + Encodable>(make: impl Fn(i16) -> R) {
    for version in R::VERSIONS.min..=R::VERSIONS.max {
        let mut body = BytesMut::new();
        make(version).encode(&mut body, version).unwrap();
        assert_eq!(
            check_request(R::KEY, version, &body),
            Ok(body.len()),
            "key {} v{version}",
            R::KEY
        );
        assert!(body.len() > 4, "a filled request has some bytes");
    }
}

fn fault_of(key: i16, version: i16, body: &[u8]) -> (String, Fault) {
    match check_request(key, version, body) {
        Err(SchemaError::Body { path, fault, .. }) => (path, fault),
        other => panic!("expected a fault of the body, got {other:?}"),
    }
}

#[test]
fn data_requests_are_accepted() {
    accepted(|version| {
        let data = PartitionProduceData::default()
            .with_index(3)
            .with_records(Some(Bytes::from_static(&[7; 300])));
        let mut topic_data = TopicProduceData::default().with_partition_data(vec![data.clone(), data]);
        if version >= 13 {
            topic_data = topic_data.with_topic_id(Uuid::from_u128(9));
        } else {
            topic_data = topic_data.with_name(topic());
        }
        ProduceRequest::default()
            .with_transactional_id(Some(TransactionalId(s("t-1"))))
            .with_acks(-1)
            .with_topic_data(vec![topic_data])
    });
    accepted(|version| {
        let mut partition = FetchPartition::default().with_partition(1).with_fetch_offset(77);
        if version >= 17 {
            partition = partition.with_replica_directory_id(Uuid::from_u128(5));
        }
        let mut fetched = FetchTopic::default().with_partitions(vec![partition]);
        if version >= 13 {
            fetched = fetched.with_topic_id(Uuid::from_u128(9));
        } else {
            fetched = fetched.with_topic(topic());
        }
        let mut request = FetchRequest::default()
            .with_max_wait_ms(500)
            .with_topics(vec![fetched]);
        if version >= 12 {
            request = request.with_cluster_id(Some(s("cluster")));
        }
        if version >= 15 {
            request = request.with_replica_state(ReplicaState::default().with_replica_id(BrokerId(2)));
        }
        request
    });
    accepted(|_| {
        let partition = ListOffsetsPartition::default()
            .with_partition_index(1)
            .with_timestamp(-1);
        let topics = vec![
            ListOffsetsTopic::default()
                .with_name(topic())
                .with_partitions(vec![partition]),
        ];
        ListOffsetsRequest::default().with_topics(topics)
    });
}

#[test]
fn client_requests_are_accepted() {
    accepted(|_| {
        MetadataRequest::default().with_topics(Some(vec![
            MetadataRequestTopic::default()
                .with_name(Some(topic()));
            3
        ]))
    });
    accepted(|_| {
        let config = CreatableTopicConfig::default()
            .with_name(s("retention.ms"))
            .with_value(Some(s("1000")));
        let creatable = CreatableTopic::default()
            .with_name(topic())
            .with_num_partitions(3)
            .with_replication_factor(3)
            .with_configs(vec![config]);
        CreateTopicsRequest::default()
            .with_topics(vec![creatable])
            .with_timeout_ms(1000)
    });
    accepted(|_| {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(s("range"))
            .with_metadata(Bytes::from_static(&[1; 40]));
        JoinGroupRequest::default()
            .with_group_id(GroupId(s("g")))
            .with_protocols(vec![protocol])
    });
    accepted(|_| {
        let partition = OffsetCommitRequestPartition::default()
            .with_committed_offset(9)
            .with_committed_metadata(Some(s("here")));
        let committed = OffsetCommitRequestTopic::default()
            .with_name(topic())
            .with_partitions(vec![partition]);
        OffsetCommitRequest::default()
            .with_group_id(GroupId(s("g")))
            .with_topics(vec![committed])
    });
}

#[test]
fn broker_requests_are_accepted() {
    accepted(|version| {
        let mut partition = PartitionData::default()
            .with_partition_index(1)
            .with_leader_epoch(4);
        if version >= 3 {
            let states = [1, 2].map(|id| {
                BrokerState::default()
                    .with_broker_id(BrokerId(id))
                    .with_broker_epoch(7)
            });
            partition = partition.with_new_isr_with_epochs(states.to_vec());
        } else {
            partition = partition.with_new_isr(vec![BrokerId(1), BrokerId(2)]);
        }
        let topics = vec![
            TopicData::default()
                .with_topic_id(Uuid::from_u128(3))
                .with_partitions(vec![partition]),
        ];
        AlterPartitionRequest::default()
            .with_broker_id(BrokerId(1))
            .with_topics(topics)
    });
    accepted(|version| {
        let listener = Listener::default()
            .with_name(s("PLAINTEXT"))
            .with_host(s("localhost"))
            .with_port(65535);
        let feature = Feature::default()
            .with_name(s("metadata.version"))
            .with_max_supported_version(25);
        let mut request = BrokerRegistrationRequest::default()
            .with_cluster_id(s("cluster"))
            .with_listeners(vec![listener])
            .with_features(vec![feature])
            .with_rack(Some(s("r1")));
        if version >= 2 {
            request = request.with_log_dirs(vec![Uuid::from_u128(1), Uuid::from_u128(2)]);
        }
        request
    });
    accepted(|_| {
        EnvelopeRequest::default()
            .with_request_data(Bytes::from_static(&[1; 200]))
            .with_request_principal(Some(Bytes::from_static(b"User:a")))
            .with_client_host_address(Bytes::from_static(&[127, 0, 0, 1]))
    });
}

#[test]
fn five_bytes_cannot_reserve_gigabytes() {
    // Metadata v12, topics with the count u32::MAX - 1: the decoder would reserve 300 GB and abort.
    let (path, fault) = fault_of(3, 12, &[0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(path, "topics");
    assert_eq!(fault, Fault::TooManyElements(u32::MAX as usize - 1));
    // Metadata v0 with i32::MAX.
    let (path, fault) = fault_of(3, 0, &i32::MAX.to_be_bytes());
    assert_eq!(
        (path.as_str(), fault),
        ("topics", Fault::TooManyElements(i32::MAX as usize))
    );
    // Below the limit of elements, but without the bytes.
    let (path, fault) = fault_of(3, 0, &[0, 0, 0x10, 0, 0, 1]);
    assert_eq!(path, "topics");
    assert_eq!(
        fault,
        Fault::Count {
            count: 4096,
            element_bytes_min: 2,
            left: 2
        }
    );
}

#[test]
fn errors_name_the_field() {
    // Fetch v4: one topic "t" whose partitions declare 1000 elements in 4 bytes.
    let mut body = vec![0; 17];
    body.extend([0, 0, 0, 1, 0, 1, b't', 0, 0, 3, 0xe8, 0, 0, 0, 0]);
    let error = check_request(1, 4, &body).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Fetch request v4, topics[0].partitions: 1000 elements of at least 16 bytes do not fit the 4 bytes left"
    );
}

#[test]
fn lengths_must_fit_and_nulls_must_be_allowed() {
    // SaslHandshake v0: mechanism.
    assert_eq!(
        fault_of(17, 0, &[0, 5, b'P']),
        ("mechanism".to_owned(), Fault::CutOff { needed: 5, left: 1 })
    );
    assert_eq!(
        fault_of(17, 0, &[0xff, 0xff]),
        ("mechanism".to_owned(), Fault::Null)
    );
    assert_eq!(
        fault_of(17, 0, &[0xff, 0xfe]),
        ("mechanism".to_owned(), Fault::NegativeLength(-2))
    );
    assert_eq!(check_request(17, 0, &[0, 1, b'P', 0]), Ok(3));
    // ApiVersions v3: client_software_name.
    assert_eq!(fault_of(18, 3, &[0, 1, 0]).1, Fault::Null);
    assert_eq!(
        fault_of(18, 3, &[0x80, 0x80, 0x80, 0x80, 0x80, 1]).1,
        Fault::Varint
    );
    assert_eq!(fault_of(18, 3, &[0xff, 0xff, 0xff, 0xff, 0x1f]).1, Fault::Varint);
    assert_eq!(check_request(18, 3, &[1, 1, 0]), Ok(3));
    // Compact lengths could say more than other versions can.
    let name = |bytes: u32| {
        let length = bytes + 1;
        let varint = [
            length as u8 | 0x80,
            (length >> 7) as u8 | 0x80,
            (length >> 14) as u8,
        ];
        [&varint[..], &vec![b'n'; bytes as usize], &[1, 0]].concat()
    };
    let longest = STRING_BYTES_MAX as u32;
    assert_eq!(check_request(18, 3, &name(longest)), Ok(3 + STRING_BYTES_MAX + 2));
    assert_eq!(
        fault_of(18, 3, &name(longest + 1)),
        (
            "client_software_name".to_owned(),
            Fault::LongString(STRING_BYTES_MAX + 1)
        )
    );
    // DescribeTopicPartitions v0: a cursor that is neither there nor null.
    assert_eq!(
        fault_of(75, 0, &[1, 0, 0, 0, 9, 2, 0]),
        ("cursor".to_owned(), Fault::Presence(2))
    );
    assert_eq!(check_request(75, 0, &[1, 0, 0, 0, 9, 0xff, 0]), Ok(7));
}

#[test]
fn tagged_fields_are_limited_and_must_fill_their_size() {
    let with_tags = |count: usize, rest: &[u8]| {
        let mut body = vec![
            1,
            1,
            (count & 0x7f) as u8 | 0x80,
            ((count >> 7) & 0x7f) as u8 | 0x80,
        ];
        body.push((count >> 14) as u8);
        body.extend_from_slice(rest);
        body
    };
    let unknown: Vec<u8> = [9, 0].repeat(TAGGED_FIELDS_MAX + 1);
    let most = with_tags(TAGGED_FIELDS_MAX, &unknown[2..]);
    assert_eq!(check_request(18, 3, &most), Ok(most.len()));
    let fault = fault_of(18, 3, &with_tags(TAGGED_FIELDS_MAX + 1, &unknown)).1;
    assert_eq!(fault, Fault::TooManyTaggedFields(TAGGED_FIELDS_MAX + 1));
    assert_eq!(
        fault_of(18, 3, &[1, 1, 1, 9, 5, 0]).1,
        Fault::CutOff { needed: 5, left: 1 }
    );

    // Fetch v12, cluster_id "ab" in tag 0: the decoder ignores the size, so a size that differs would shift what follows.
    let fetch = |size: u8, content: &[u8]| {
        let mut body = vec![0; 25];
        body.extend([1, 1, 1, 1, 0, size]);
        body.extend_from_slice(content);
        body
    };
    assert_eq!(check_request(1, 12, &fetch(3, &[3, b'a', b'b'])), Ok(34));
    let (path, fault) = fault_of(1, 12, &fetch(4, &[3, b'a', b'b', 0]));
    assert_eq!(
        (path.as_str(), fault),
        ("tagged_fields.cluster_id", Fault::TrailingBytes(1))
    );
    assert_eq!(
        fault_of(1, 12, &fetch(2, &[3, b'a', b'b'])).1,
        Fault::CutOff { needed: 2, left: 1 }
    );
}

#[test]
fn elements_are_limited_for_each_array_and_the_whole_request() {
    // DescribeGroups v0: strings.
    let mut body = ((ARRAY_ELEMENTS_MAX + 1) as i32).to_be_bytes().to_vec();
    body.resize(4 + 2 * (ARRAY_ELEMENTS_MAX + 1), 0);
    assert_eq!(
        fault_of(15, 0, &body),
        (
            "groups".to_owned(),
            Fault::TooManyElements(ARRAY_ELEMENTS_MAX + 1)
        )
    );
    // ListOffsets v1: topics of many partitions each, together too many.
    let partitions = REQUEST_ITEMS_MAX / 2;
    let mut body = vec![0, 0, 0, 0, 0, 0, 0, 2];
    for _ in 0..2 {
        body.extend([0, 0]);
        body.extend((partitions as i32).to_be_bytes());
        body.resize(body.len() + partitions * 12, 0);
    }
    assert_eq!(
        fault_of(2, 1, &body),
        ("topics[1].partitions".to_owned(), Fault::TooManyItems)
    );
}

#[test]
fn unknown_keys_and_versions_are_told_apart() {
    assert_eq!(check_request(4, 0, &[]), Err(SchemaError::UnknownApi(4)));
    assert_eq!(check_request(-1, 0, &[]), Err(SchemaError::UnknownApi(-1)));
    let unsupported = SchemaError::UnsupportedVersion {
        api: "OffsetCommit",
        version: 10,
        min: 2,
        max: 9,
    };
    assert_eq!(check_request(8, 10, &[]), Err(unsupported));
}

#[test]
fn later_versions_are_read_as_the_last_known_ones() {
    for (key, version) in [(2, 11), (35, 5)] {
        let layout = layout_version(key, version);
        assert_eq!(request_versions(key).map(|(_, max)| max), Some(layout));
        assert_eq!(layout, version - 1);
        assert!(check_request(key, version + 1, &[]).is_err());
    }
    assert_eq!(check_request(35, 5, &[0, 0]), Ok(2));
    assert_eq!(layout_version(3, 12), 12);
}
