//! Arguments that more than one subcommand has, and those of `server`, which the caller of this crate carries out.

use std::path::PathBuf;

use clap::Args;

/// What `odradek server` was asked to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ServerArguments {
    /// The node's configuration, a Java .properties file; without it a cluster of one node on 127.0.0.1:9092.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Sets a configuration key, over the file and the environment; may be given more than once.
    #[arg(long = "override", value_name = "KEY=VALUE", value_parser = key_value)]
    pub overrides: Vec<(String, String)>,
    /// Formats empty data directories whatever the quorum, for development.
    #[arg(long)]
    pub dev: bool,
}

/// Parses `key=value`; blanks around the key fall away.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    let key = key.trim();
    if key.is_empty() {
        return Err(format!("`{text}` has no key before the `=`"));
    }
    Ok((key.to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_keeps_further_equal_signs() {
        assert_eq!(key_value("a.b = c=d"), Ok(("a.b".to_owned(), "c=d".to_owned())));
        assert!(key_value("a.b").is_err());
        assert!(key_value("=v").is_err());
    }
}
