//! What grafana/ holds, looked at without a Prometheus: dashboards are whole, and ask for metrics and labels that there are.
//! Whether a query has a result is asked of a running cluster, in integration-tests/cluster/tests/dashboards.rs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use odradek_broker::metrics::catalogue::{Kind, METRICS, Metric};
use serde_json::Value;

/// Of a dashboard; Grafana's grid.
const COLUMNS: u64 = 24;
/// What Prometheus adds to every series, and what a query may name besides.
const COMMON_LABELS: &[&str] = &["job", "instance", "le"];

fn grafana() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../grafana")
}

/// File stem and content of each dashboard.
fn dashboards() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(grafana().join("dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        all.push((
            name,
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap(),
        ));
    }
    assert!(all.len() >= 5, "cluster, broker, topics, consumer groups, quorum");
    all
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn panels(board: &Value) -> &[Value] {
    board["panels"].as_array().unwrap()
}

fn targets(panel: &Value) -> &[Value] {
    panel["targets"].as_array().map_or(&[], Vec::as_slice)
}

fn variables(board: &Value) -> &[Value] {
    board["templating"]["list"].as_array().unwrap()
}

/// Where, and the expression, of each query and alert.
fn expressions() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (name, board) in &dashboards() {
        for panel in panels(board) {
            let where_ = || format!("{name}: {}", text(panel, "title"));
            all.extend(
                targets(panel)
                    .iter()
                    .map(|target| (where_(), text(target, "expr").to_owned())),
            );
        }
        for variable in variables(board)
            .iter()
            .filter(|variable| text(variable, "type") == "query")
        {
            let definition = text(variable, "definition");
            let inner = definition
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')'));
            let (metric, label) = inner.and_then(|inner| inner.split_once(", ")).unwrap();
            all.push((
                format!("{name}: ${}", text(variable, "name")),
                format!("{metric}{{{label}=~\"\"}}"),
            ));
        }
    }
    let alerts = std::fs::read_to_string(grafana().join("alerts.yml")).unwrap();
    let rules = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "));
    all.extend(rules.map(|rule| ("alerts.yml".to_owned(), rule.to_owned())));
    all
}

fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(is_word)?;
        let end = text[start..]
            .find(|c| !is_word(c))
            .map_or(text.len(), |len| start + len);
        at = end;
        Some((start, &text[start..end]))
    })
}

/// The catalogue's entry of a series' name.
fn metric(series: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| {
        let suffix = series.strip_prefix(metric.name);
        match metric.kind {
            Kind::Histogram => matches!(suffix, Some("_bucket" | "_sum" | "_count")),
            Kind::Counter | Kind::Gauge => suffix == Some(""),
        }
    })
}

#[test]
fn every_query_asks_for_metrics_and_labels_of_the_catalogue() {
    let mut used = BTreeSet::new();
    for (place, expression) in expressions() {
        for (at, series) in words(&expression) {
            if !series.starts_with("odradek_") && !series.starts_with("process_") {
                continue;
            }
            let Some(metric) = metric(series) else {
                panic!("{place}: there is no {series}: {expression}");
            };
            used.insert(metric.name);
            let rest = &expression[at + series.len()..];
            let matchers = rest
                .strip_prefix('{')
                .and_then(|rest| rest.split_once('}'))
                .map_or("", |(matchers, _)| matchers);
            for matcher in matchers.split(',').filter(|matcher| !matcher.is_empty()) {
                let (_, label) = words(matcher).next().unwrap();
                let known = metric.labels.contains(&label) || COMMON_LABELS.contains(&label);
                assert!(known, "{place}: {series} has no label {label}: {expression}");
                let is_send = label == "phase" && matcher.contains("send");
                assert!(!is_send, "{place}: the phase `send` is not measured");
            }
        }
        for grouping in expression
            .split(" by (")
            .skip(1)
            .chain(expression.split("on (").skip(1))
        {
            let (labels, _) = grouping.split_once(')').unwrap();
            for (_, label) in words(labels) {
                let known = COMMON_LABELS.contains(&label)
                    || METRICS.iter().any(|metric| metric.labels.contains(&label));
                assert!(known, "{place}: nothing has the label {label}: {expression}");
            }
        }
    }
    // Shown by subtraction of others, or for those who write queries of their own.
    let unused_on_purpose = ["odradek_quorum_applied_index"];
    for metric in METRICS {
        let shown = used.contains(metric.name) || unused_on_purpose.contains(&metric.name);
        assert!(shown, "{} is on no dashboard", metric.name);
    }
}

#[test]
fn variables_of_queries_are_declared() {
    for (name, board) in &dashboards() {
        let declared: BTreeSet<&str> = variables(board)
            .iter()
            .map(|variable| text(variable, "name"))
            .collect();
        for panel in panels(board) {
            for target in targets(panel) {
                for part in text(target, "expr").split('$').skip(1) {
                    let variable = words(part).next().unwrap().1;
                    let known = declared.contains(variable) || variable == "__rate_interval";
                    assert!(known, "{name}: {}: ${variable}", text(panel, "title"));
                }
            }
        }
    }
}

#[test]
fn dashboards_have_names_of_their_own() {
    let mut uids = BTreeSet::new();
    for (name, board) in &dashboards() {
        assert_eq!(
            text(board, "uid"),
            format!("odradek-{name}"),
            "links go by uid, files by name"
        );
        assert!(uids.insert(text(board, "uid").to_owned()));
        assert!(text(board, "title").starts_with("Odradek / "), "{name}");
        assert!(
            board["schemaVersion"]
                .as_u64()
                .is_some_and(|version| version >= 39),
            "{name}"
        );
        assert!(board["id"].is_null(), "{name}: an id is of one Grafana only");
        assert_eq!(text(&variables(board)[0], "type"), "datasource", "{name}");
    }
}

#[test]
fn panels_are_whole_and_do_not_overlap() {
    for (name, board) in &dashboards() {
        let mut ids = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in panels(board) {
            let place = format!("{name}: {}", text(panel, "title"));
            assert!(!text(panel, "title").is_empty(), "{place}");
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "{place}: its id is taken"
            );
            let side = |side: &str| panel["gridPos"][side].as_u64().unwrap();
            let (x, y, w, h) = (side("x"), side("y"), side("w"), side("h"));
            assert!(w > 0 && h > 0 && x + w <= COLUMNS, "{place}: beyond the grid");
            for column in x..x + w {
                for row in y..y + h {
                    assert!(
                        taken.insert((column, row)),
                        "{place}: overlaps at column {column}, row {row}"
                    );
                }
            }
            if text(panel, "type") == "row" {
                assert_eq!(
                    panel["collapsed"],
                    Value::Bool(false),
                    "{place}: its panels follow it"
                );
                continue;
            }
            assert!(!targets(panel).is_empty(), "{place}: asks nothing");
            let mut refs = BTreeSet::new();
            for target in targets(panel) {
                assert!(
                    refs.insert(text(target, "refId")),
                    "{place}: two queries of one refId"
                );
                for holder in [panel, target] {
                    assert_eq!(text(&holder["datasource"], "uid"), "${datasource}", "{place}");
                }
            }
            assert!(
                panel["fieldConfig"]["defaults"]["unit"].is_string(),
                "{place}: no unit"
            );
        }
    }
}

#[test]
fn prometheus_scrapes_as_often_as_grafana_is_told() {
    let prometheus = std::fs::read_to_string(grafana().join("prometheus.yml")).unwrap();
    let source = std::fs::read_to_string(grafana().join("provisioning/datasources/odradek.yml")).unwrap();
    let value = |text: &str, key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(key).map(str::to_owned));
        line.unwrap().trim_start_matches(':').trim().to_owned()
    };
    assert_eq!(
        value(&prometheus, "scrape_interval"),
        value(&source, "timeInterval")
    );
}
