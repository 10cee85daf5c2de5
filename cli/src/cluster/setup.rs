//! What must be true before the first node of a cluster starts: nobody else runs it, its ports are free, its
//! configuration is valid, and every data directory belongs to the same cluster.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};

use super::layout::{Layout, NodeFiles, Ports, properties};
use crate::error::{CommandError, Outcome};
use crate::storage::format::{FormatRequest, format_directories};
use crate::{kafka_uuid, processes};

/// Prepares the directory; the lock must live as long as the cluster runs.
pub fn prepare(
    layout: &Layout,
    nodes: i32,
    ports: Ports,
    overrides: &[(String, String)],
) -> Outcome<(File, String)> {
    fs::create_dir_all(&layout.root)
        .map_err(CommandError::io(format!("cannot make {}", layout.root.display())))?;
    let lock = lock(layout)?;
    same_size(layout, nodes)?;
    same_voters(layout, nodes, ports)?;
    for id in 1..=nodes {
        let files = layout.node(id);
        if let Some(pid) = processes::running(&files.pid, &files.properties) {
            return Err(CommandError::refused(format!(
                "node {id} of {} runs already, as process {}; stop it first",
                layout.root.display(),
                pid.as_raw_nonzero()
            )));
        }
    }
    free_ports(nodes, ports)?;
    let cluster_id = cluster_id(layout)?;
    for id in 1..=nodes {
        let files = layout.node(id);
        prepare_node(&files, nodes, ports, overrides)?;
        let config = files.load()?;
        format_directories(&FormatRequest {
            config: &config,
            cluster_id: &cluster_id,
            founders: None,
            ignore_formatted: true,
        })?;
    }
    Ok((lock, cluster_id))
}

fn lock(layout: &Layout) -> Outcome<File> {
    let path = layout.lock();
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(CommandError::io(format!("cannot open {}", path.display())))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let by = processes::read_pid(&layout.pid()).map(|pid| format!(", process {}", pid.as_raw_nonzero()));
        return Err(CommandError::refused(format!(
            "another `odradek cluster`{} runs on {}; stop it, or give this one its own --data-dir",
            by.unwrap_or_default(),
            layout.root.display()
        )));
    }
    processes::write_pid(&layout.pid(), std::process::id()).map_err(CommandError::io(format!(
        "cannot write {}",
        layout.pid().display()
    )))?;
    Ok(file)
}

/// Whether a process runs this cluster now.
pub fn is_supervised(layout: &Layout) -> bool {
    let Ok(file) = OpenOptions::new().write(true).open(layout.lock()) else {
        return false;
    };
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}

/// The voters of a quorum cannot be changed by starting more or fewer of them.
fn same_size(layout: &Layout, nodes: i32) -> Outcome {
    let formatted = layout
        .nodes()
        .iter()
        .filter(|files| files.data.join("meta.properties").exists())
        .count();
    if formatted > 0 && i32::try_from(formatted) != Ok(nodes) {
        return Err(CommandError::refused(format!(
            "{} holds a cluster of {formatted} node(s): start it with --nodes {formatted}, give another --data-dir, or \
             remove the directory with all its records",
            layout.root.display()
        )));
    }
    Ok(())
}

/// The voters of a quorum of several know one another by the addresses that it began with. A file that cannot be read, say
/// because an override was wrong, says nothing: it is written anew.
fn same_voters(layout: &Layout, nodes: i32, ports: Ports) -> Outcome {
    if nodes == 1 {
        return Ok(());
    }
    let formatted = layout.nodes().into_iter();
    let formatted = formatted.filter(|files| files.data.join("meta.properties").exists());
    for config in formatted.filter_map(|files| files.load().ok()) {
        let Some(first) = config.quorum.voters.iter().find(|voter| voter.id == 1) else {
            continue;
        };
        if first.address.port != ports.controllers(1) {
            let base = first.address.port.saturating_sub(1);
            return Err(CommandError::refused(format!(
                "{} holds a cluster whose ports begin at {base}: start it with --base-port {base}, or give another --data-dir",
                layout.root.display()
            )));
        }
    }
    Ok(())
}

fn free_ports(nodes: i32, ports: Ports) -> Outcome {
    let mut taken = Vec::new();
    for id in 1..=nodes {
        for (what, port) in [
            ("clients", ports.clients(id)),
            ("controllers", ports.controllers(id)),
            ("metrics", ports.metrics(id)),
        ] {
            if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
                taken.push(format!("  127.0.0.1:{port} (node {id}, for {what}): {error}"));
            }
        }
    }
    if taken.is_empty() {
        return Ok(());
    }
    Err(CommandError::refused(format!(
        "ports are not free:\n{}\nstop what uses them, or choose others with --base-port and --metrics-base-port",
        taken.join("\n")
    )))
}

fn cluster_id(layout: &Layout) -> Outcome<String> {
    let path = layout.cluster_id();
    if let Ok(text) = fs::read_to_string(&path)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let id = kafka_uuid::format(kafka_uuid::random());
    let written = File::create(&path).and_then(|mut file| {
        writeln!(file, "{id}")?;
        file.sync_all()
    });
    written.map_err(CommandError::io(format!("cannot write {}", path.display())))?;
    Ok(id)
}

fn prepare_node(files: &NodeFiles, nodes: i32, ports: Ports, overrides: &[(String, String)]) -> Outcome {
    fs::create_dir_all(&files.directory).map_err(CommandError::io(format!(
        "cannot make {}",
        files.directory.display()
    )))?;
    for stale in [&files.restart, &files.restart_failed] {
        fs::remove_file(stale).ok();
    }
    // The log of the last run stays beside that of this one.
    let before: PathBuf = files.log.with_extension("log.1");
    fs::rename(&files.log, before).ok();
    let text = properties(files, nodes, ports, overrides);
    fs::write(&files.properties, text).map_err(CommandError::io(format!(
        "cannot write {}",
        files.properties.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free_base() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        listener.local_addr().expect("bound").port().min(60_000)
    }

    #[test]
    fn a_port_in_use_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = listener.local_addr().expect("bound").port();
        let ports = Ports {
            base: port,
            metrics_base: port.wrapping_add(10).max(1024),
        };
        let error = free_ports(1, ports).expect_err("in use").to_string();
        assert!(
            error.contains(&format!("127.0.0.1:{port} (node 1, for clients)")),
            "{error}"
        );
    }

    #[test]
    fn a_directory_is_prepared_once_and_for_one_process() {
        let directory = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(directory.path()).expect("fits");
        let base = free_base();
        let ports = Ports::new(base, None, 3).expect("fit");
        assert!(!is_supervised(&layout));
        // Ports of this machine may be in use by others; everything else is checked without them.
        let lock = lock(&layout).expect("free");
        assert!(is_supervised(&layout));
        assert!(
            super::lock(&layout)
                .expect_err("locked")
                .to_string()
                .contains("another `odradek cluster`")
        );
        let id = cluster_id(&layout).expect("made");
        assert_eq!(cluster_id(&layout).expect("kept"), id);
        for node in 1..=3 {
            let files = layout.node(node);
            prepare_node(&files, 3, ports, &[]).expect("prepares");
            let config = files.load().expect("valid");
            let request = FormatRequest {
                config: &config,
                cluster_id: &id,
                founders: None,
                ignore_formatted: true,
            };
            format_directories(&request).expect("formats");
            format_directories(&request).expect("leaves it as it is");
        }
        same_size(&layout, 3).expect("the same");
        assert!(
            same_size(&layout, 1)
                .expect_err("another size")
                .to_string()
                .contains("--nodes 3")
        );
        same_voters(&layout, 3, ports).expect("the same");
        let moved = Ports::new(base + 10, None, 3).expect("fit");
        let refused = same_voters(&layout, 3, moved)
            .expect_err("other ports")
            .to_string();
        assert!(refused.contains(&format!("--base-port {base}")), "{refused}");
        let wrong = [("num.partitions".to_owned(), "none".to_owned())];
        for node in 1..=3 {
            prepare_node(&layout.node(node), 3, ports, &wrong).expect("writes it");
        }
        same_voters(&layout, 3, ports).expect("the files are written anew");
        drop(lock);
        // A child that another test forks holds the lock too, until it runs its own program.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while is_supervised(&layout) {
            assert!(
                std::time::Instant::now() < deadline,
                "the lock outlives its owner"
            );
            std::thread::yield_now();
        }
    }
}
