//! The command line of `odradek`: one binary, one subcommand for each `kafka-*.sh`, with Kafka's flags.
//!
//! Owns parsing, the client tools, `cluster` (nodes as child processes), `roll` and `storage`. Does not know the
//! broker: what `server` does is handed in by the caller.
#![expect(clippy::print_stdout, reason = "a command line answers on standard output")]

pub mod arguments;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

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
        Command::Server(arguments) => server(arguments),
    }
}
