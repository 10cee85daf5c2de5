//! The `rdkafka` crate against a cluster: `odradek-interop-rdkafka BOOTSTRAP TOPIC GROUP COUNT`.
//! Prints one JSON line and exits with 1 when something was lost, doubled, out of order or refused.

mod ledger;

use ledger::{Ledger, PARTITIONS, REPLICATION};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::util::{Timeout, get_rdkafka_version};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;
const CALL: Duration = Duration::from_secs(20);

struct Run {
    bootstrap: String,
    topic: String,
    group: String,
    count: usize,
}

impl Run {
    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    fn consumer(&self) -> Outcome<BaseConsumer> {
        let mut config = self.config();
        config
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest");
        Ok(config.create()?)
    }

    async fn create(&self) -> Outcome<()> {
        let admin: AdminClient<DefaultClientContext> = self.config().create()?;
        let topic = NewTopic::new(&self.topic, PARTITIONS, TopicReplication::Fixed(REPLICATION));
        let options = AdminOptions::new()
            .operation_timeout(Some(CALL))
            .request_timeout(Some(CALL));
        for answer in admin.create_topics([&topic], &options).await? {
            answer.map_err(|(name, code)| format!("{name}: {code}"))?;
        }
        Ok(())
    }

    fn list(&self) -> Outcome<()> {
        let consumer = self.consumer()?;
        wait_for("topic in the list", CALL, || {
            let all = consumer.fetch_metadata(None, CALL)?;
            Ok(all.topics().iter().any(|t| t.name() == self.topic))
        })
    }

    fn describe(&self) -> Outcome<()> {
        let consumer = self.consumer()?;
        wait_for("three partitions, each with three replicas in sync", CALL, || {
            let found = consumer.fetch_metadata(Some(&self.topic), CALL)?;
            let partitions = found.topics()[0].partitions();
            let replicas = REPLICATION as usize;
            Ok(partitions.len() == PARTITIONS as usize
                && partitions
                    .iter()
                    .all(|p| p.replicas().len() == replicas && p.isr().len() == replicas))
        })
    }

    async fn produce(&self) -> Outcome<HashMap<usize, (i32, i64)>> {
        let mut config = self.config();
        config.set("enable.idempotence", "true").set("linger.ms", "5");
        let producer: FutureProducer = config.create()?;
        let mut sent = Vec::with_capacity(self.count);
        for i in 0..self.count {
            let (key, value) = (ledger::key(i), ledger::value(i));
            let record = FutureRecord::to(&self.topic).key(&key).payload(&value);
            sent.push(
                producer
                    .send_result(record)
                    .map_err(|(error, _)| format!("record {i}: {error}"))?,
            );
        }
        producer.flush(Timeout::After(Duration::from_secs(90)))?;
        let mut acked = HashMap::new();
        for (i, delivery) in sent.into_iter().enumerate() {
            let delivery = delivery
                .await?
                .map_err(|(error, _)| format!("record {i}: {error}"))?;
            acked.insert(i, (delivery.partition, delivery.offset));
        }
        Ok(acked)
    }

    fn committed(&self) -> Outcome<()> {
        let consumer = self.consumer()?;
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_range(&self.topic, 0, PARTITIONS - 1);
        for p in consumer.committed_offsets(partitions, CALL)?.elements() {
            let (_, end) = consumer.fetch_watermarks(&self.topic, p.partition(), CALL)?;
            if p.offset() != Offset::Offset(end) {
                return Err(format!(
                    "partition {}: committed {:?}, end {end}",
                    p.partition(),
                    p.offset()
                )
                .into());
            }
        }
        Ok(())
    }
}

fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> Outcome<bool>) -> Outcome<()> {
    let end = Instant::now() + limit;
    while !condition()? {
        if Instant::now() > end {
            return Err(format!("{what}: not within {limit:?}").into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Two consumers of one group, each on its own thread, until `end`.
struct Members {
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Outcome<()>>>,
}

impl Members {
    fn start(run: &Run, ledger: &Arc<Mutex<Ledger>>) -> Outcome<Self> {
        let ending = Arc::new(AtomicBool::new(false));
        let sizes = Arc::new(Mutex::new([0usize; 2]));
        let mut threads = Vec::new();
        for member in 0..2 {
            let consumer = run.consumer()?;
            consumer.subscribe(&[&run.topic])?;
            let (ending, sizes, ledger) = (ending.clone(), sizes.clone(), ledger.clone());
            threads.push(std::thread::spawn(move || {
                poll_until(&consumer, member, &ending, &sizes, &ledger)
            }));
        }
        wait_for("both members have partitions", Duration::from_secs(60), || {
            let sizes = sizes.lock().expect("no member panicked");
            Ok(sizes.iter().all(|s| *s > 0) && sizes.iter().sum::<usize>() == PARTITIONS as usize)
        })?;
        Ok(Self { ending, threads })
    }

    fn end(self) -> Outcome<()> {
        self.ending.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().map_err(|_| "a member panicked")??;
        }
        Ok(())
    }
}

fn poll_until(
    consumer: &BaseConsumer,
    member: usize,
    ending: &AtomicBool,
    sizes: &Mutex<[usize; 2]>,
    ledger: &Mutex<Ledger>,
) -> Outcome<()> {
    while !ending.load(Ordering::SeqCst) {
        let message = consumer.poll(Duration::from_millis(100));
        sizes.lock().expect("no member panicked")[member] = consumer.assignment()?.count();
        if let Some(message) = message {
            let m = message?;
            let row = (
                m.offset(),
                m.key().unwrap_or_default().to_vec(),
                m.payload().unwrap_or_default().to_vec(),
            );
            ledger
                .lock()
                .expect("no member panicked")
                .add(member, m.partition(), row);
        }
    }
    consumer.commit_consumer_state(CommitMode::Sync)?;
    Ok(())
}

async fn columns(run: &Run, row: &mut BTreeMap<&'static str, String>) -> Outcome<()> {
    let mut done = |column| row.insert(column, "ok".to_owned());
    run.create().await.map_err(|e| format!("create: {e}"))?;
    done("create");
    run.list().map_err(|e| format!("list: {e}"))?;
    done("list");
    run.describe().map_err(|e| format!("describe: {e}"))?;
    done("describe");
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let members = Members::start(run, &ledger).map_err(|e| format!("consume: {e}"))?;
    let acked = run.produce().await.map_err(|e| format!("produce: {e}"))?;
    done("produce");
    let consumed = wait_for("all records", Duration::from_secs(90), || {
        Ok(ledger.lock().expect("no member panicked").count() >= run.count)
    });
    consumed
        .and_then(|()| members.end())
        .map_err(|e| format!("consume: {e}"))?;
    ledger
        .lock()
        .expect("no member panicked")
        .verify(run.count, &acked)
        .map_err(|e| format!("consume: {e}"))?;
    run.committed().map_err(|e| format!("consume: {e}"))?;
    done("consume");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, topic, group, count] = args.try_into().expect("BOOTSTRAP TOPIC GROUP COUNT");
    let run = Run {
        bootstrap,
        topic,
        group,
        count: count.parse().expect("COUNT is a number"),
    };
    let mut row: BTreeMap<&'static str, String> = ["create", "list", "describe", "produce", "consume"]
        .into_iter()
        .map(|c| (c, "-".to_owned()))
        .collect();
    let outcome = columns(&run, &mut row).await;
    row.insert("client", "rdkafka".to_owned());
    row.insert("version", format!("0.39/{}", get_rdkafka_version().1));
    row.insert(
        "detail",
        outcome
            .as_ref()
            .err()
            .map(ToString::to_string)
            .unwrap_or_default(),
    );
    if let Err(error) = &outcome {
        let message = error.to_string();
        for column in ["create", "list", "describe", "produce", "consume"] {
            if message.starts_with(column) {
                row.insert(column, "FAILED".to_owned());
            }
        }
    }
    println!("{}", serde_json::to_string(&row).expect("strings make JSON"));
    std::process::exit(i32::from(outcome.is_err()));
}
