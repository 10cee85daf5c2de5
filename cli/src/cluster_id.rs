//! `odradek cluster-id`: which cluster answers, and with `--list-endpoints` which nodes it has.

use clap::Args;
use kafka_protocol::messages::DescribeClusterRequest;

use crate::client::{ClusterClient, Connection, common_version, send_in};
use crate::error::{Outcome, check};
use crate::output::{say, say_text};
use crate::{quorum, table};

/// Flags of `odradek cluster-id`.
#[derive(Debug, Args)]
pub struct ClusterIdArguments {
    #[command(flatten)]
    connection: Connection,
    /// Lists the brokers, also those that are fenced.
    #[arg(long)]
    list_endpoints: bool,
}

/// Carries out `odradek cluster-id`.
pub async fn run(arguments: ClusterIdArguments) -> Outcome {
    const FENCED_SINCE: i16 = 2;
    let client = ClusterClient::new(&arguments.connection)?;
    let any = client.any().await?;
    if !arguments.list_endpoints {
        say!("Cluster ID: {}", quorum::cluster_id(&any).await?);
        return Ok(());
    }
    let version = common_version::<DescribeClusterRequest>(&any)?;
    let request = DescribeClusterRequest::default().with_include_fenced_brokers(version >= FENCED_SINCE);
    let response = send_in(&any, version, request).await?;
    check(response.error_code, response.error_message.as_deref())?;
    let mut brokers = response.brokers;
    brokers.sort_by_key(|broker| broker.broker_id.0);
    let rows: Vec<Vec<String>> = brokers
        .iter()
        .map(|broker| {
            vec![
                broker.broker_id.0.to_string(),
                broker.host.to_string(),
                broker.port.to_string(),
                broker.rack.as_deref().unwrap_or("null").to_owned(),
                if broker.is_fenced { "fenced" } else { "unfenced" }.to_owned(),
                "broker".to_owned(),
            ]
        })
        .collect();
    say_text!(
        "{}",
        table::render(
            &["ID", "HOST", "PORT", "RACK", "STATE", "ENDPOINT_TYPE"],
            &rows,
            " "
        )
    );
    Ok(())
}
