//! `odradek roll` on brokers that say what a test wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::describe_quorum_response::{PartitionData, TopicData};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, BrokerId, DescribeConfigsRequest,
    DescribeConfigsResponse, DescribeQuorumRequest, DescribeQuorumResponse, MetadataRequest,
    MetadataResponse,
};
use kafka_protocol::protocol::{Encodable, Request};
use odradek_net::wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::client::{text, topic_name};

const TOPIC: &str = "orders";

/// A broker whose n-th answer to Metadata is given, and whose last one is repeated.
#[derive(Clone)]
struct Scripted {
    answers: Arc<Vec<MetadataResponse>>,
    asked: Arc<AtomicUsize>,
}

impl Scripted {
    fn serve(listener: TcpListener, answers: Vec<MetadataResponse>) -> Self {
        let broker = Self {
            answers: Arc::new(answers),
            asked: Arc::default(),
        };
        let served = broker.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(served.clone().connection(stream));
            }
        });
        broker
    }

    async fn connection(self, mut stream: TcpStream) {
        // Ends with the connection.
        while let Ok(size) = stream.read_i32().await {
            let mut request = vec![0; usize::try_from(size).expect("a size")];
            stream.read_exact(&mut request).await.expect("the request");
            let mut header = &request[..];
            let (key, version, correlation_id) = (header.get_i16(), header.get_i16(), header.get_i32());
            let mut answer = BytesMut::new();
            let header_version = wire::response_header_version(key, version);
            wire::put_response_header(&mut answer, header_version, correlation_id);
            self.answer(key, version, &mut answer);
            stream
                .write_i32(answer.len().try_into().expect("fits"))
                .await
                .expect("writes");
            stream.write_all(&answer).await.expect("writes");
        }
    }

    fn answer(&self, key: i16, version: i16, to: &mut BytesMut) {
        let encoded = match ApiKey::try_from(key).expect("a known API") {
            ApiKey::ApiVersions => ApiVersionsResponse::default()
                .with_api_keys(vec![
                    served::<ApiVersionsRequest>(),
                    served::<MetadataRequest>(),
                    served::<DescribeConfigsRequest>(),
                    served::<DescribeQuorumRequest>(),
                ])
                .encode(to, version),
            ApiKey::Metadata => {
                let nth = self.asked.fetch_add(1, Ordering::Relaxed);
                self.answers[nth.min(self.answers.len() - 1)].encode(to, version)
            }
            ApiKey::DescribeConfigs => DescribeConfigsResponse::default().encode(to, version),
            ApiKey::DescribeQuorum => {
                let topic = TopicData::default().with_partitions(vec![PartitionData::default()]);
                DescribeQuorumResponse::default()
                    .with_topics(vec![topic])
                    .encode(to, version)
            }
            other => panic!("{other:?} is not asked for"),
        };
        encoded.expect("encodes");
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn served<R: Request>() -> ApiVersion {
    let versions = wire::served_versions::<R>();
    ApiVersion::default()
        .with_api_key(R::KEY)
        .with_min_version(versions.min)
        .with_max_version(versions.max)
}

/// Metadata with these brokers, and a partition of brokers 1 and 2 with this ISR.
fn metadata(brokers: &[(i32, &str)], isr: &[i32]) -> MetadataResponse {
    let broker = |(id, address): &(i32, &str)| {
        let (host, port) = address.rsplit_once(':').expect("host and port");
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(*id))
            .with_host(text(host))
            .with_port(port.parse().expect("a port"))
    };
    let ids = |ids: &[i32]| ids.iter().map(|id| BrokerId(*id)).collect();
    let partition = MetadataResponsePartition::default()
        .with_leader_id(BrokerId(1))
        .with_replica_nodes(ids(&[1, 2]))
        .with_isr_nodes(ids(isr));
    let topic = MetadataResponseTopic::default()
        .with_name(Some(topic_name(TOPIC)))
        .with_partitions(vec![partition]);
    MetadataResponse::default()
        .with_brokers(brokers.iter().map(broker).collect())
        .with_topics(vec![topic])
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    (listener, address)
}

fn roll(bootstrap: String, timeout: Duration) -> Roll {
    let settings = ClientSettings::default();
    Roll {
        client: ClusterClient::with_settings(vec![bootstrap], settings.clone()),
        settings,
        restarter: Restarter::Command("true".to_owned()),
        allow_unavailable: false,
        timeout,
    }
}

fn in_sync() -> Vec<(String, i32)> {
    vec![(TOPIC.to_owned(), 0)]
}

#[tokio::test]
async fn a_node_is_back_once_it_says_so_itself() {
    let ((other, others_address), (restarted, address)) = (listen().await, listen().await);
    let (one, two) = ((1, others_address.as_str()), (2, address.as_str()));
    // The other one has not heard of the restart.
    Scripted::serve(other, vec![metadata(&[one, two], &[1, 2])]);
    let restarted = Scripted::serve(
        restarted,
        vec![
            metadata(&[one], &[1]),
            metadata(&[one, two], &[1]),
            metadata(&[one, two], &[1, 2]),
        ],
    );
    let roll = roll(others_address.clone(), Duration::from_secs(60));
    roll.until_back(2, &in_sync()).await.expect("it comes back");
    assert_eq!(restarted.asked(), 3);
}

#[tokio::test]
async fn a_node_that_does_not_come_back_ends_the_roll_with_what_is_missing() {
    let ((other, others_address), (gone, address)) = (listen().await, listen().await);
    let (one, two) = ((1, others_address.as_str()), (2, address.as_str()));
    let answers = vec![
        metadata(&[one, two], &[1, 2]),
        metadata(&[one, two], &[1]),
        metadata(&[one], &[1]),
    ];
    Scripted::serve(other, answers);
    drop(gone);
    let roll = roll(others_address.clone(), Duration::ZERO);
    let expected = [
        format!("node 2 is not answering at {address} (cannot connect"),
        "node 2 is not back in the ISR of orders-0 after 0 s".to_owned(),
        "node 2 is still fenced after 0 s".to_owned(),
    ];
    for expected in expected {
        let outcome = roll.until_back(2, &in_sync()).await;
        let reason = outcome.expect_err("it is not back").to_string();
        assert!(reason.starts_with(&expected), "{reason}");
    }
}
