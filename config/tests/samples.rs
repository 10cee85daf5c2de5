//! The sample files beside this crate are what the README points to: each has to start without a word.

use std::path::Path;

use odradek_config::ServerConfig;

const SAMPLES: &[&str] = &[
    "broker.properties",
    "combined-1.properties",
    "combined-2.properties",
    "combined-3.properties",
    "controller.properties",
    "server.properties",
    "single.properties",
];

fn load(name: &str) -> ServerConfig {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
        .expect("sample can be read");
    let (config, warnings) =
        ServerConfig::load(Some((name, &text)), std::iter::empty(), &[]).expect("sample is valid");
    assert_eq!(warnings, [], "{name}");
    config
}

#[test]
fn every_sample_loads_without_warning() {
    let mut found: Vec<String> = std::fs::read_dir(env!("CARGO_MANIFEST_DIR"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".properties"))
        .collect();
    found.sort();
    assert_eq!(found, SAMPLES);
    for name in SAMPLES {
        load(name);
    }
}

#[test]
fn the_single_sample_is_the_node_without_a_file() {
    let (sample, default) = (load("single.properties"), ServerConfig::single_node_default());
    assert_eq!(
        (&sample.node, &sample.listeners, &sample.quorum),
        (&default.node, &default.listeners, &default.quorum)
    );
}

#[test]
fn the_three_combined_nodes_are_one_cluster() {
    let nodes: Vec<ServerConfig> = (1..=3)
        .map(|node| load(&format!("combined-{node}.properties")))
        .collect();
    for (index, node) in nodes.iter().enumerate() {
        assert_eq!(node.quorum.voters, nodes[0].quorum.voters);
        let own = &node.quorum.voters[index];
        assert_eq!(own.id, node.node.node_id);
        assert_eq!(own.address.port, node.listeners.advertised_controller[0].port);
    }
    let mut ports: Vec<u16> = nodes
        .iter()
        .flat_map(|node| &node.listeners.listeners)
        .map(|listener| listener.port)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 6);
}
