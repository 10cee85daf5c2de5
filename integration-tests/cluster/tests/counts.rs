//! What a request costs in counts that repeat: instructions and allocations of the broker under callgrind, and its system calls.
//! A count that grows by more than its margin fails the test; one that shrinks by as much wants a new record in `counts.txt`.
//!
//! No timings: those are the benchmark's.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use odradek_cluster_tests::asks::{FETCH_BY_NAME, PRODUCE_BY_NAME, fetch_request, produce_request};
use odradek_cluster_tests::binary;
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::node::Node;
use odradek_cluster_tests::process;
use odradek_cluster_tests::raw::{RawConnection, framed};
use odradek_cluster_tests::records::{batch, idempotent};
use odradek_cluster_tests::wait::eventually;

/// Requests that are counted, after as many that are not.
const REQUESTS: usize = 1_000;
/// How far a count may be from its record, in percent.
const MARGIN_PERCENT: f64 = 10.0;
/// Counts below this are all alike: timers and other chores of the process make so many.
const SLACK: f64 = 0.1;
const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

/// One kind of load: the bytes of some requests that leave together, again and again or each once.
struct Load {
    name: &'static str,
    together: usize,
    bytes: Vec<Bytes>,
}

fn loads() -> Vec<Load> {
    let load = |name, together, frame: Bytes| Load {
        name,
        together,
        bytes: vec![vec![frame; together].concat().into()],
    };
    let produce = |value: String| {
        framed(
            PRODUCE_BY_NAME,
            7,
            &produce_request("counts", 0, 1, &batch(&[&value])),
        )
    };
    // A batch that has its number twice would be a repetition.
    let numbered = (0..2 * REQUESTS).map(|number| {
        let sequence = i32::try_from(number).expect("few requests");
        let batch = idempotent(1, 0, sequence, &[&"x".repeat(100)]);
        framed(PRODUCE_BY_NAME, 7, &produce_request("counts", 0, -1, &batch))
    });
    vec![
        load("produce, 100 B, one in flight", 1, produce("x".repeat(100))),
        load("produce, 100 B, five in flight", 5, produce("x".repeat(100))),
        load("produce, 64 KiB, one in flight", 1, produce("x".repeat(64 << 10))),
        load(
            "produce, 100 B, one in flight, acks=all",
            1,
            framed(
                PRODUCE_BY_NAME,
                7,
                &produce_request("counts", 0, -1, &batch(&[&"x".repeat(100)])),
            ),
        ),
        Load {
            name: "produce, 100 B, one in flight, idempotent, acks=all",
            together: 1,
            bytes: numbered.collect(),
        },
        load("fetch, 100 B", 1, framed(FETCH_BY_NAME, 7, &fetch_first(1))),
        load(
            "fetch, 64 KiB",
            1,
            framed(FETCH_BY_NAME, 7, &fetch_first(64 << 10)),
        ),
    ]
}

/// Of the first bytes, and one batch at least, so that every fetch brings the same.
fn fetch_first(bytes: i32) -> kafka_protocol::messages::FetchRequest {
    let mut fetch = fetch_request("counts", 0, 0);
    fetch.topics[0].partitions[0].partition_max_bytes = bytes;
    fetch.max_bytes = bytes;
    fetch
}

/// Sends as many requests, from number `from` on.
async fn send(connection: &mut RawConnection, load: &Load, from: usize, requests: usize) {
    let together = load.bytes.iter().cycle().skip(from / load.together);
    for bytes in together.take(requests / load.together) {
        connection.send(bytes).await;
        for _ in 0..load.together {
            connection.receive().await.expect("the broker answers");
        }
    }
}

/// What the process did for one request of each load.
type Counts = Vec<(&'static str, HashMap<&'static str, f64>)>;

fn tool(name: &str) -> Command {
    let found = Command::new(name).arg("--version").output();
    assert!(
        found.is_ok_and(|output| output.status.success()),
        "{name} is missing; install it (Debian package {})",
        if name == "strace" { "strace" } else { "valgrind" }
    );
    Command::new(name)
}

/// A node with one topic that has one record.
async fn serve(cluster: &TestCluster, command: Command) -> &Node {
    let node = cluster.node(1);
    node.spawn_as(command);
    node.ready().await;
    let connection = cluster.connect(1).await;
    connection.create_topic("counts", 1, 1, &[]).await;
    connection.produce("counts", 0, &batch(&["x"])).await;
    node
}

async fn instructions_and_allocations(counts: &mut Counts) {
    let cluster = TestCluster::prepare(1, &[]);
    let out = cluster.node(1).directory().join("callgrind.out");
    let mut command = tool("valgrind");
    command.args(["--tool=callgrind", "--instr-atstart=no"]);
    command.arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(binary::release());
    let node = serve(&cluster, command).await;
    let control = |arguments: &[&str]| {
        let status = tool("callgrind_control")
            .args(arguments)
            .arg(node.pid().to_string())
            .output();
        let status = status.expect("callgrind_control runs");
        assert!(
            status.status.success(),
            "callgrind_control {arguments:?}: {status:?}"
        );
    };
    for (dumps, load) in loads().iter().enumerate() {
        let mut connection = RawConnection::open(&node.address()).await;
        send(&mut connection, load, 0, REQUESTS).await;
        control(&["--instr=on"]);
        send(&mut connection, load, REQUESTS, REQUESTS).await;
        control(&["--dump"]);
        control(&["--instr=off"]);
        let dump = format!("{}.{}", out.display(), dumps + 1);
        let profile = eventually("the profile is written", LIMIT, async || {
            let text = fs::read_to_string(&dump).map_err(|error| error.to_string())?;
            if text.contains("totals:") {
                Ok(text)
            } else {
                Err("it is not whole".to_owned())
            }
        })
        .await;
        let (instructions, allocations) = read_profile(&profile);
        let each = |count: u64| count as f64 / REQUESTS as f64;
        counts.push((
            load.name,
            HashMap::from([
                ("instructions", each(instructions)),
                ("allocations", each(allocations)),
            ]),
        ));
    }
}

/// How callers begin that keep up the exporter's tables, every few seconds: they fall into one load or another.
const UPKEEP: &str = "left_right::";

/// Instructions in all, and calls of the allocator by others than itself and upkeep.
fn read_profile(profile: &str) -> (u64, u64) {
    let mut names: HashMap<String, String> = HashMap::new();
    // A name is written once, with a number in front that stands for it from then on.
    let mut name = |text: &str| {
        let (id, name) = text.split_once(' ').unwrap_or((text, ""));
        if !name.is_empty() {
            names.insert(id.to_owned(), name.to_owned());
        }
        names.get(id).cloned().unwrap_or_default()
    };
    let is_allocator = |function: &str| {
        ["mi_malloc", "mi_zalloc", "mi_calloc", "mi_realloc"]
            .iter()
            .any(|it| function.starts_with(it))
    };
    let (mut instructions, mut allocations) = (0, 0);
    let (mut caller, mut callee) = (String::new(), String::new());
    for line in profile.lines() {
        if let Some(text) = line.strip_prefix("fn=") {
            caller = name(text);
        } else if let Some(text) = line.strip_prefix("cfn=") {
            callee = name(text);
        } else if let Some(text) = line.strip_prefix("calls=")
            && is_allocator(&callee)
            && !caller.contains("mi_")
            && !caller.starts_with(UPKEEP)
        {
            let count = text.split(' ').next().unwrap_or_default();
            allocations += count.parse::<u64>().expect("calls= is followed by a number");
        } else if let Some(text) = line.strip_prefix("totals:") {
            instructions = text.trim().parse().expect("the total is a number");
        }
    }
    (instructions, allocations)
}

async fn system_calls(counts: &mut Counts) {
    let cluster = TestCluster::prepare(1, &[]);
    let node = serve(&cluster, Command::new(binary::release())).await;
    for (load, (_, counts)) in loads().iter().zip(counts) {
        let mut connection = RawConnection::open(&node.address()).await;
        send(&mut connection, load, 0, REQUESTS).await;
        let out = node.directory().join("strace");
        let mut strace = tool("strace");
        strace
            .args(["-f", "-c", "-p", &node.pid().to_string(), "-o"])
            .arg(&out);
        let log = fs::File::create(node.directory().join("strace.log"));
        strace.stderr(log.expect("the node's directory can be written to"));
        let mut strace = process::spawn(strace).expect("strace can be started");
        eventually("strace watches", LIMIT, async || is_traced(node.pid())).await;
        send(&mut connection, load, REQUESTS, REQUESTS).await;
        let pid = rustix::process::Pid::from_child(&strace);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("strace runs");
        strace.wait().expect("strace ends when it is told to");
        let total = read_strace(&out);
        counts.insert("system calls", total as f64 / REQUESTS as f64);
    }
}

/// Whether every thread of the process is traced.
fn is_traced(pid: u32) -> Result<(), String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| error.to_string())?;
    for task in tasks {
        let status = task.map_err(|error| error.to_string())?.path().join("status");
        let status = fs::read_to_string(status).unwrap_or_default();
        if status.contains("TracerPid:\t0\n") {
            return Err("a thread is not traced yet".to_owned());
        }
    }
    Ok(())
}

/// The calls of connections and files; waiting is not among them, because how often a thread sleeps is the machine's affair.
fn read_strace(path: &Path) -> u64 {
    const COUNTED: [&str; 12] = [
        "recvfrom", "read", "readv", "writev", "write", "sendto", "sendmsg", "pwrite64", "pwritev",
        "pwritev2", "pread64", "sendfile",
    ];
    let table = fs::read_to_string(path).expect("strace writes its table");
    let calls = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let counted = COUNTED.contains(words.last()?);
        counted.then(|| {
            words[3]
                .parse::<u64>()
                .expect("the fourth column is the number of calls")
        })
    });
    calls.sum()
}

fn records() -> HashMap<(String, String), f64> {
    let text = include_str!("../counts.txt");
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(" | ").map(str::trim).collect();
            let [load, count, value] = fields[..] else {
                panic!("counts.txt: {line:?} is not `load | count | value`");
            };
            let value = value.parse().expect("counts.txt: the value is a number");
            ((load.to_owned(), count.to_owned()), value)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_costs_what_is_on_record() {
    let mut counts = Counts::new();
    instructions_and_allocations(&mut counts).await;
    system_calls(&mut counts).await;
    let records = records();
    let (mut report, mut failed) = (String::new(), false);
    for (load, counts) in &counts {
        for count in ["instructions", "allocations", "system calls"] {
            let now = counts[count];
            let record = records.get(&((*load).to_owned(), count.to_owned())).copied();
            let fits =
                record.is_some_and(|record| (now - record).abs() <= record * MARGIN_PERCENT / 100.0 + SLACK);
            failed |= !fits;
            let verdict = if fits { "" } else { "   <- not within the margin" };
            let recorded = record.map_or("none".to_owned(), |record| record.to_string());
            report.push_str(&format!(
                "{load} | {count} | {now:.2}   (on record: {recorded}){verdict}\n"
            ));
        }
    }
    println!("{report}");
    assert!(
        !failed,
        "a request costs more or less than counts.txt says, by more than {MARGIN_PERCENT} %. If that is meant, record it:\n{report}"
    );
}
