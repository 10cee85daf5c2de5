//! The command line of `odradek`: one binary, one subcommand for each `kafka-*.sh`, with Kafka's flags.
//!
//! Owns parsing, the client tools, `cluster` (nodes as child processes), `roll` and `storage`. Does not know the
//! broker: what `server` does is handed in by the caller.

pub mod arguments;
mod client;
mod cluster;
mod cluster_id;
mod configs;
mod consume;
mod error;
mod features;
mod groups;
mod kafka_uuid;
mod leader_election;
mod output;
mod processes;
mod produce;
mod quorum;
mod reassign;
mod roll;
mod storage;
mod table;
mod topics;
mod transactions;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use client::run_command;

pub use arguments::ServerArguments;

/// A Kafka-compatible broker and its tools in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "odradek",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Runs one node: broker, controller or both, as its configuration says.
    Server(ServerArguments),
    /// Runs a cluster of several nodes on this machine until Ctrl-C.
    Cluster(cluster::ClusterArguments),
    /// Formats data directories and tells about them (kafka-storage.sh).
    Storage(storage::StorageArguments),
    /// Restarts the nodes of a cluster one at a time, perhaps with another program.
    Roll(roll::RollArguments),
    /// Creates, lists, describes, alters and deletes topics (kafka-topics.sh).
    Topics(topics::TopicsArguments),
    /// Lists, describes, deletes and resets consumer groups (kafka-consumer-groups.sh).
    Groups(groups::GroupsArguments),
    /// Lists and describes transactions, finds and aborts hanging ones (kafka-transactions.sh).
    Transactions(transactions::TransactionsArguments),
    /// Describes and alters configurations of topics, brokers and groups (kafka-configs.sh).
    Configs(configs::ConfigsArguments),
    /// Describes the metadata quorum (kafka-metadata-quorum.sh).
    Quorum(quorum::QuorumArguments),
    /// Describes and finalizes feature levels (kafka-features.sh).
    Features(features::FeaturesArguments),
    /// Moves replicas between brokers (kafka-reassign-partitions.sh).
    Reassign(reassign::ReassignArguments),
    /// Elects preferred or unclean leaders (kafka-leader-election.sh).
    LeaderElection(leader_election::LeaderElectionArguments),
    /// Prints the cluster's id or its brokers (kafka-cluster.sh).
    ClusterId(cluster_id::ClusterIdArguments),
    /// Sends lines of standard input to a topic (kafka-console-producer.sh).
    Produce(produce::ProduceArguments),
    /// Prints the records of a topic (kafka-console-consumer.sh).
    Consume(consume::ConsumeArguments),
}

/// Parses the arguments (the first is the program's name) and carries out the subcommand; `server` runs a node.
///
/// Errors of the command line end the process with code 2 and a usage message, as clap does.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    server: impl FnOnce(ServerArguments) -> ExitCode,
) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    match cli.command {
        Command::Server(arguments) => match processes::obey_parent() {
            Ok(()) => server(arguments),
            Err(error) => {
                eprintln!("odradek server: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Cluster(arguments) => cluster::run(&arguments),
        Command::Storage(arguments) => storage::run(arguments),
        Command::Roll(arguments) => run_command("roll", roll::run(arguments)),
        Command::Topics(arguments) => run_command("topic", topics::run(arguments)),
        Command::Groups(arguments) => run_command("group", groups::run(arguments)),
        Command::Transactions(arguments) => run_command("transaction", transactions::run(arguments)),
        Command::Configs(arguments) => run_command("config", configs::run(arguments)),
        Command::Quorum(arguments) => run_command("quorum", quorum::run(arguments)),
        Command::Features(arguments) => run_command("features", features::run(arguments)),
        Command::Reassign(arguments) => run_command("reassign", reassign::run(arguments)),
        Command::LeaderElection(arguments) => run_command("leader election", leader_election::run(arguments)),
        Command::ClusterId(arguments) => run_command("cluster", cluster_id::run(arguments)),
        Command::Produce(arguments) => run_command("produce", produce::run(arguments)),
        Command::Consume(arguments) => run_command("consume", consume::run(arguments)),
    }
}
