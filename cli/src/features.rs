//! `odradek features`: what kafka-features.sh does, and `finalize`, which takes every feature to the highest level
//! that all nodes know.

use clap::{Args, Subcommand};
use kafka_protocol::messages::api_versions_response::ApiVersionsResponse;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::{ApiVersionsRequest, UpdateFeaturesRequest};
use kafka_protocol::protocol::StrBytes;

use odradek_common::metadata::features::{ELR_VERSION, TRANSACTION_VERSION};

use crate::client::{ClusterClient, Connection, common_version, send, text};
use crate::error::{CommandError, Outcome, check};
use crate::output::{say, say_text};

const METADATA_VERSION: &str = "metadata.version";
/// Names of the levels of metadata.version, from level 7 on.
const METADATA_VERSIONS: [&str; 24] = [
    "3.3-IV3", "3.4-IV0", "3.5-IV0", "3.5-IV1", "3.5-IV2", "3.6-IV0", "3.6-IV1", "3.6-IV2", "3.7-IV0",
    "3.7-IV1", "3.7-IV2", "3.7-IV3", "3.7-IV4", "3.8-IV0", "3.9-IV0", "4.0-IV0", "4.0-IV1", "4.0-IV2",
    "4.0-IV3", "4.1-IV0", "4.1-IV1", "4.2-IV0", "4.2-IV1", "4.3-IV0",
];
const FIRST_METADATA_VERSION: usize = 7;

/// Flags of `odradek features`.
#[derive(Debug, Args)]
pub struct FeaturesArguments {
    #[command(flatten)]
    connection: Connection,
    /// Controllers to ask instead of brokers.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', global = true)]
    bootstrap_controller: Option<Vec<String>>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists the features, what the node supports, and what is finalized.
    Describe,
    /// Raises features.
    Upgrade(UpdateArguments),
    /// Lowers features.
    Downgrade(DowngradeArguments),
    /// Switches features off (level 0).
    Disable(DisableArguments),
    /// Raises every feature to the highest level that the cluster supports; there may be no way back from that.
    Finalize {
        /// Says what would be done and whether it is allowed, and does nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
struct UpdateArguments {
    /// A feature and its new level, as name=level; may be given more than once.
    #[arg(long, value_name = "NAME=LEVEL")]
    feature: Vec<String>,
    /// The level of metadata.version, as number or name (like 4.0-IV3 or 4.0).
    #[arg(long, value_name = "VERSION")]
    metadata: Option<String>,
    /// The release whose levels metadata.version and the other features get.
    #[arg(long, value_name = "RELEASE", conflicts_with_all = ["metadata", "feature"])]
    release_version: Option<String>,
    /// Says what would be done and whether it is allowed, and does nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct DowngradeArguments {
    #[command(flatten)]
    update: UpdateArguments,
    /// Also downgrades that lose metadata.
    #[arg(long = "unsafe")]
    lossy: bool,
}

#[derive(Debug, Args)]
struct DisableArguments {
    /// The feature; may be given more than once.
    #[arg(long, value_name = "NAME", required = true)]
    feature: Vec<String>,
    /// Also downgrades that lose metadata.
    #[arg(long = "unsafe")]
    lossy: bool,
    /// Says what would be done and whether it is allowed, and does nothing.
    #[arg(long)]
    dry_run: bool,
}

/// The wire's kinds of update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UpgradeType {
    Upgrade = 1,
    SafeDowngrade = 2,
    UnsafeDowngrade = 3,
}

/// Levels to set, and how to talk about it.
struct Update {
    levels: Vec<(String, i16)>,
    upgrade_type: UpgradeType,
    dry_run: bool,
    verb: &'static str,
}

/// Carries out `odradek features`.
pub async fn run(mut arguments: FeaturesArguments) -> Outcome {
    if let Some(controllers) = arguments.bootstrap_controller.take() {
        arguments.connection.bootstrap_server = controllers;
    }
    let client = ClusterClient::new(&arguments.connection)?;
    let downgrade = |lossy| {
        if lossy {
            UpgradeType::UnsafeDowngrade
        } else {
            UpgradeType::SafeDowngrade
        }
    };
    let change = match arguments.action {
        Action::Describe => {
            say_text!("{}", describe(&versions(&client).await?));
            return Ok(());
        }
        Action::Finalize { dry_run } => {
            let levels = unfinalized(&versions(&client).await?);
            if levels.is_empty() {
                say!("Every feature is finalized at the highest level that the cluster supports.");
                return Ok(());
            }
            Update {
                levels,
                upgrade_type: UpgradeType::Upgrade,
                dry_run,
                verb: "upgrade",
            }
        }
        Action::Upgrade(it) => Update {
            levels: wanted(&client, &it).await?,
            upgrade_type: UpgradeType::Upgrade,
            dry_run: it.dry_run,
            verb: "upgrade",
        },
        Action::Downgrade(it) => Update {
            levels: wanted(&client, &it.update).await?,
            upgrade_type: downgrade(it.lossy),
            dry_run: it.update.dry_run,
            verb: "downgrade",
        },
        Action::Disable(it) => Update {
            levels: it.feature.into_iter().map(|name| (name, 0)).collect(),
            upgrade_type: downgrade(it.lossy),
            dry_run: it.dry_run,
            verb: "disable",
        },
    };
    update(&client, &change).await
}

async fn versions(client: &ClusterClient) -> Outcome<ApiVersionsResponse> {
    let request = ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("odradek"))
        .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
    let response = client.ask(request).await?;
    check(response.error_code, None)?;
    Ok(response)
}

fn describe(versions: &ApiVersionsResponse) -> String {
    let mut features: Vec<_> = versions.supported_features.iter().collect();
    features.sort_by(|a, b| a.name.cmp(&b.name));
    let line = |feature: &&kafka_protocol::messages::api_versions_response::SupportedFeatureKey| {
        let show = |level| level_name(&feature.name, level);
        format!(
            "Feature: {:<42}SupportedMinVersion: {:<17}SupportedMaxVersion: {:<17}FinalizedVersionLevel: {:<17}Epoch: {}\n",
            feature.name.as_str(),
            show(feature.min_version),
            show(feature.max_version),
            show(finalized(versions, &feature.name)),
            match versions.finalized_features_epoch {
                -1 => "-".to_owned(),
                epoch => epoch.to_string(),
            }
        )
    };
    features.iter().map(line).collect()
}

fn finalized(versions: &ApiVersionsResponse, name: &str) -> i16 {
    let feature = versions
        .finalized_features
        .iter()
        .find(|feature| &*feature.name == name);
    feature.map_or(0, |feature| feature.max_version_level)
}

/// Features whose finalized level is below the supported one, with the latter.
fn unfinalized(versions: &ApiVersionsResponse) -> Vec<(String, i16)> {
    versions
        .supported_features
        .iter()
        .filter(|feature| finalized(versions, &feature.name) < feature.max_version)
        .map(|feature| (feature.name.to_string(), feature.max_version))
        .collect()
}

fn level_name(feature: &str, level: i16) -> String {
    let name = (feature == METADATA_VERSION)
        .then(|| usize::try_from(level).ok()?.checked_sub(FIRST_METADATA_VERSION))
        .flatten()
        .and_then(|index| METADATA_VERSIONS.get(index));
    name.map_or_else(|| level.to_string(), |&name| name.to_owned())
}

/// The level of metadata.version behind a number, a name (4.0-IV3) or a release (4.0, 4.0.1: its last level).
fn metadata_level(version: &str) -> Outcome<i16> {
    if let Ok(level) = version.parse() {
        return Ok(level);
    }
    let release: Vec<&str> = version.split('.').take(2).collect();
    let prefix = format!("{}-", release.join("."));
    let named = METADATA_VERSIONS
        .iter()
        .rposition(|name| *name == version || name.starts_with(&prefix));
    let index = named.ok_or_else(|| {
        CommandError::refused(format!(
            "Unknown metadata.version {version}. Supported metadata.version are {}",
            METADATA_VERSIONS.join(", ")
        ))
    })?;
    Ok(i16::try_from(index + FIRST_METADATA_VERSION).expect("the table is short"))
}

/// What is asked for; of a release, metadata.version and what else it changes in this cluster.
async fn wanted(client: &ClusterClient, arguments: &UpdateArguments) -> Outcome<Vec<(String, i16)>> {
    let mut levels = levels(arguments)?;
    if arguments.release_version.is_some()
        && let [(_, metadata_version)] = levels[..]
    {
        let versions = versions(client).await?;
        let changes = |name: &str, level: i16| {
            let mut known = versions.supported_features.iter();
            known.any(|feature| &*feature.name == name) && finalized(&versions, name) != level
        };
        let others = features_of(metadata_version).into_iter();
        levels.extend(
            others
                .filter(|(name, level)| changes(name, *level))
                .map(|(name, level)| (name.to_owned(), level)),
        );
    }
    Ok(levels)
}

/// Levels that other features have in the release of this metadata.version.
fn features_of(metadata_version: i16) -> [(&'static str, i16); 2] {
    let since = |name: &str| metadata_level(name).is_ok_and(|since| metadata_version >= since);
    [
        (TRANSACTION_VERSION, if since("4.0-IV2") { 2 } else { 0 }),
        (ELR_VERSION, i16::from(since("4.1-IV0"))),
    ]
}

fn levels(arguments: &UpdateArguments) -> Outcome<Vec<(String, i16)>> {
    let mut levels = Vec::new();
    if let Some(version) = arguments.metadata.as_ref().or(arguments.release_version.as_ref()) {
        levels.push((METADATA_VERSION.to_owned(), metadata_level(version)?));
    }
    for feature in &arguments.feature {
        let parsed = feature.split_once('=').and_then(|(name, level)| {
            let level = level.trim().parse::<i16>().ok()?;
            Some((name.trim().to_owned(), level))
        });
        levels.push(parsed.ok_or_else(|| {
            CommandError::refused(format!(
                "Can't parse feature=level string {feature}: name=level expected, level a number"
            ))
        })?);
    }
    if levels.is_empty() {
        return Err(CommandError::refused(
            "You must specify at least one feature: --feature, --metadata or --release-version",
        ));
    }
    Ok(levels)
}

async fn update(client: &ClusterClient, change: &Update) -> Outcome {
    const UPGRADE_TYPE_SINCE: i16 = 1;
    let any = client.any().await?;
    let typed = common_version::<UpdateFeaturesRequest>(&any)? >= UPGRADE_TYPE_SINCE;
    let key = |(name, level): &(String, i16)| {
        let key = FeatureUpdateKey::default()
            .with_feature(text(name))
            .with_max_version_level(*level);
        if typed {
            key.with_upgrade_type(change.upgrade_type as i8)
        } else {
            key.with_allow_downgrade(change.upgrade_type != UpgradeType::Upgrade)
        }
    };
    let request = UpdateFeaturesRequest::default()
        .with_timeout_ms(client.timeout_ms())
        .with_feature_updates(change.levels.iter().map(key).collect())
        .with_validate_only(typed && change.dry_run);
    let response = send(&any, request).await?;
    // Newer servers answer for all features at once; older ones for each.
    let overall = check(response.error_code, response.error_message.as_deref()).err();
    let mut failed = 0;
    for (name, level) in &change.levels {
        let result = response
            .results
            .iter()
            .find(|result| &*result.feature == name.as_str());
        let own = result.and_then(|result| check(result.error_code, result.error_message.as_deref()).err());
        let error = own.or_else(|| overall.clone());
        failed += i32::from(error.is_some());
        say!(
            "{}",
            sentence(
                change,
                name,
                *level,
                error.as_ref().map(|error| error.detail.as_str())
            )
        );
    }
    if failed > 0 {
        return Err(CommandError::refused(format!(
            "{failed} out of {} operation(s) failed.",
            change.levels.len()
        )));
    }
    Ok(())
}

fn sentence(change: &Update, name: &str, level: i16, error: Option<&str>) -> String {
    let target = if change.verb == "disable" {
        String::new()
    } else {
        format!(" to {}", level_name(name, level))
    };
    match (error, change.dry_run) {
        (Some(error), true) => format!("Can not {} {name}{target}. {error}", change.verb),
        (Some(error), false) => format!("Could not {} {name}{target}. {error}", change.verb),
        (None, true) => format!("{name} can be {}d{target}.", change.verb),
        (None, false) => format!("{name} was {}d{target}.", change.verb),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_has_levels_of_all_features() {
        let of = |release: &str| features_of(metadata_level(release).unwrap()).map(|(_, level)| level);
        assert_eq!(of("3.9"), [0, 0]);
        assert_eq!(of("4.0"), [2, 0]);
        assert_eq!(of("4.1"), [2, 1]);
    }

    #[test]
    fn a_release_means_its_last_metadata_version() {
        for (text, level) in [
            ("4.0", 25),
            ("4.0-IV0", 22),
            ("3.9.1", 21),
            ("30", 30),
            ("4.3", 30),
            ("3.3-IV3", 7),
        ] {
            assert_eq!(metadata_level(text).expect(text), level);
        }
        assert!(metadata_level("2.8").is_err());
        assert_eq!(level_name(METADATA_VERSION, 25), "4.0-IV3");
        assert_eq!(level_name(METADATA_VERSION, 99), "99");
        assert_eq!(level_name("group.version", 25), "25");
    }

    #[test]
    fn sentences_read_as_those_of_kafka() {
        let mut change = Update {
            levels: Vec::new(),
            upgrade_type: UpgradeType::Upgrade,
            dry_run: false,
            verb: "upgrade",
        };
        assert_eq!(
            sentence(&change, "group.version", 1, None),
            "group.version was upgraded to 1."
        );
        assert_eq!(
            sentence(&change, "nope", 1, Some("Why.")),
            "Could not upgrade nope to 1. Why."
        );
        change.dry_run = true;
        assert_eq!(
            sentence(&change, "group.version", 1, None),
            "group.version can be upgraded to 1."
        );
    }
}
