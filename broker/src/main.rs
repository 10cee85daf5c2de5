//! The binary `odradek`: the command line, with `server` carried out here.

use std::process::ExitCode;

use odradek_broker::{logging, memory, server};
use odradek_cli::ServerArguments;
use odradek_config::ServerConfig;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    odradek_cli::run(std::env::args_os(), serve)
}

fn serve(arguments: ServerArguments) -> ExitCode {
    memory::settle();
    let variable = |name| std::env::var(name).ok();
    let logging = logging::start(
        variable(logging::LEVEL_VARIABLE).as_deref(),
        variable(logging::FORMAT_VARIABLE).as_deref(),
    );
    let log = &logging.root;
    let text = match &arguments.file {
        None => None,
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => Some((path.display().to_string(), text)),
            Err(error) => {
                slog::crit!(log, "cannot read the configuration"; "file" => %path.display(), "error" => %error);
                return ExitCode::FAILURE;
            }
        },
    };
    let file = text.as_ref().map(|(path, text)| (path.as_str(), text.as_str()));
    let (config, warnings) = match ServerConfig::load(file, std::env::vars(), &arguments.overrides) {
        Ok(loaded) => loaded,
        Err(error) => {
            for line in error.to_string().lines() {
                slog::crit!(log, "configuration refused: {}", line);
            }
            return ExitCode::FAILURE;
        }
    };
    for warning in warnings {
        slog::warn!(log, "{}", warning);
    }
    match server::run(config, arguments.dev, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            slog::crit!(log, "{}", error);
            ExitCode::FAILURE
        }
    }
}
