//! How the programs of each system are called.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::systems::{Programs, Shape, System};

/// The flags of Apache Kafka's own start scripts.
const SHIPPED_FLAGS: &[&str] = &[
    "-Xmx1G",
    "-Xms1G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
];
/// The collector that Kafka ships with, whose pauses are short, and memory that is there from the start; the heap is the caller's.
const TUNED_FLAGS: &[&str] = &[
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+AlwaysPreTouch",
    "-XX:+UseTransparentHugePages",
    "-Djava.awt.headless=true",
];

/// Formats the directory of a node.
///
/// # Errors
/// The system has no such tool here.
pub fn format(shape: &Shape, programs: &Programs, cluster_id: &str, properties: &Path) -> Result<Command> {
    let mut command = match shape.system {
        System::Odradek => {
            let mut command = Command::new(&programs.odradek);
            command.arg("storage");
            command
        }
        System::Kafka | System::KafkaTuned => java(programs, &["-Xmx256m"], "kafka.tools.StorageTool")?,
        System::Floor => bail!("the floor has nothing to format"),
    };
    command.args(["format", "-t", cluster_id, "-c"]).arg(properties);
    Ok(command)
}

/// Runs a node.
///
/// # Errors
/// The system is not here.
pub fn server(shape: &Shape, programs: &Programs, properties: &Path) -> Result<Command> {
    let mut command = match shape.system {
        System::Odradek => {
            let mut command = Command::new(&programs.odradek);
            command.arg("server");
            command
        }
        System::Kafka => java(
            programs,
            &[SHIPPED_FLAGS, &["-Dlog4j2.level=WARN"]].concat(),
            "kafka.Kafka",
        )?,
        System::KafkaTuned => {
            // The page cache is to have the larger part of the memory: 4 GiB for one node, 6 GiB for three.
            let heap: &[&str] = if shape.nodes == 1 {
                &["-Xms1500m", "-Xmx1500m"]
            } else {
                &["-Xms1g", "-Xmx1g"]
            };
            java(
                programs,
                &[TUNED_FLAGS, heap, &["-Dlog4j2.level=WARN"]].concat(),
                "kafka.Kafka",
            )?
        }
        System::Floor => bail!("the floor has no properties"),
    };
    command.arg(properties);
    Ok(command)
}

/// Lists the topics, as a person at a terminal would.
///
/// # Errors
/// The system has no such tool here.
pub fn list_topics(system: System, programs: &Programs, bootstrap: &str) -> Result<Command> {
    let mut command = match system {
        System::Odradek => {
            let mut command = Command::new(&programs.odradek);
            command.arg("topics");
            command
        }
        // The heap is that of kafka-topics.sh.
        System::Kafka | System::KafkaTuned => {
            let flags = [&["-Xmx256M"], &SHIPPED_FLAGS[2..], &["-Dlog4j2.level=WARN"]].concat();
            java(programs, &flags, "org.apache.kafka.tools.TopicCommand")?
        }
        System::Floor => bail!("the floor has no topics"),
    };
    command.args(["--bootstrap-server", bootstrap, "--list"]);
    Ok(command)
}

/// Runs the floor server, which is in this program.
///
/// # Errors
/// This program does not know where it is.
pub fn floor(port: u16, folder: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
    command
        .args(["floor", "--port", &port.to_string(), "--dir"])
        .arg(folder);
    Ok(command)
}

fn java(programs: &Programs, flags: &[&str], class: &str) -> Result<Command> {
    let jars = programs
        .jars
        .as_ref()
        .context("Apache Kafka's jars are not here")?;
    let mut class_path = OsString::from(jars);
    class_path.push("/*");
    let mut command = Command::new("java");
    command.args(flags).arg("-cp").arg(class_path).arg(class);
    Ok(command)
}
