//! Where log lines go: one drain on standard error, text or JSON, for this code and for what dependencies emit.

use std::io::IsTerminal;
use std::str::FromStr;

use slog::{Drain, Level, LevelFilter, Logger, o};

/// Lines that may wait to be written; beyond, lines are dropped and their number is reported.
const LINES_QUEUED_MAX: usize = 8192;
/// Environment variable with the lowest level: trace, debug, info, warning, error.
pub const LEVEL_VARIABLE: &str = "ODRADEK_LOG_LEVEL";
/// Environment variable with the format: text or json.
pub const FORMAT_VARIABLE: &str = "ODRADEK_LOG_FORMAT";

/// Keeps logging alive; what was logged is written when it is dropped.
pub struct Logging {
    /// The root logger.
    pub root: Logger,
    _scope: slog_scope::GlobalLoggerGuard,
    _flush: slog_async::AsyncGuard,
}

/// Starts logging as the variables say.
#[must_use]
pub fn start(level: Option<&str>, format: Option<&str>) -> Logging {
    let level = level
        .and_then(|name| Level::from_str(name).ok())
        .unwrap_or(Level::Info);
    let (drain, flush) = if format == Some("json") {
        let json = slog_json::Json::default(std::io::stderr()).fuse();
        spawn(json)
    } else {
        let decorator = if std::io::stderr().is_terminal() {
            slog_term::TermDecorator::new().stderr().build()
        } else {
            slog_term::TermDecorator::new().stderr().force_plain().build()
        };
        let text = slog_term::FullFormat::new(decorator)
            .use_custom_timestamp(slog_term::timestamp_utc)
            .build()
            .fuse();
        spawn(text)
    };
    let root = Logger::root(LevelFilter::new(drain, level).fuse(), o!());
    let scope = slog_scope::set_global_logger(root.clone());
    // What dependencies say below WARN is of interest to those who develop them.
    let bridged = if level.is_at_least(Level::Debug) {
        log::Level::Debug
    } else {
        log::Level::Warn
    };
    // A second start in one process (tests) finds the bridge in place already.
    _ = slog_stdlog::init_with_level(bridged);
    Logging {
        root,
        _scope: scope,
        _flush: flush,
    }
}

fn spawn<D>(drain: slog::Fuse<D>) -> (slog::Fuse<slog_async::Async>, slog_async::AsyncGuard)
where
    D: Drain<Err: std::fmt::Debug, Ok = ()> + Send + 'static,
{
    let (drain, guard) = slog_async::Async::new(drain)
        .chan_size(LINES_QUEUED_MAX)
        .build_with_guard();
    (drain.fuse(), guard)
}
