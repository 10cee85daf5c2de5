//! The table of workloads.

use odradek_common::records::compression::Compression;

use crate::batches::{BatchShape, Values};
use crate::load::{ConsumeLoad, ProduceLoad};
use crate::metric::Metric::{self, *};
use crate::protocol::fetch::FetchSettings;
use crate::workloads::bounds::{at_least, goal, must, must_be_less, must_be_more, of_floor};
use crate::workloads::connections::Opening;
use crate::workloads::topics::{self, Topic};
use crate::workloads::transactions::TransactionLoad;
use crate::workloads::{Bound, Group, Level, Limit, Plan, Sharing, Workload};

/// 1 KB records in batches of about 64 KiB.
const BATCHED_1K: BatchShape = BatchShape::plain(64, 1000);
/// 100 B records in batches of about 16 KiB.
const BATCHED_100B: BatchShape = BatchShape::plain(150, 100);
/// 10 KB records in batches of about 512 KiB.
const BATCHED_10K: BatchShape = BatchShape::plain(52, 10_000);
/// One record of 100 B.
const UNBATCHED: BatchShape = BatchShape::plain(1, 100);
/// One record of 1 KB.
const UNBATCHED_1K: BatchShape = BatchShape::plain(1, 1000);
/// 1 KB records in batches of a producer's default size, 16 KiB.
const DEFAULT_1K: BatchShape = BatchShape::plain(16, 1000);

/// What a cluster writes before anything is measured.
pub const RECYCLING: BatchShape = BATCHED_1K;

/// A consumer that wants records as soon as there are any.
const AT_ONCE: FetchSettings = FetchSettings {
    min_bytes: 1,
    max_wait_ms: 500,
    partition_max_bytes: 1 << 20,
    read_committed: false,
};

const fn load(shape: BatchShape, connections: usize, in_flight_max: usize) -> ProduceLoad {
    ProduceLoad {
        shape,
        connections,
        in_flight_max,
        records_per_second: None,
        acks: 1,
        idempotent: false,
    }
}

const fn at(records_per_second: f64, load: ProduceLoad) -> ProduceLoad {
    ProduceLoad {
        records_per_second: Some(records_per_second),
        ..load
    }
}

const fn all(load: ProduceLoad) -> ProduceLoad {
    ProduceLoad { acks: -1, ..load }
}

const fn readers(readers: usize, connections: usize) -> ConsumeLoad {
    ConsumeLoad {
        readers,
        connections,
        fetch: AT_ONCE,
    }
}

const BATCHED: &[Metric] = &[
    CpuPerGb,
    CpuWithKernelPerGb,
    Throughput,
    P50,
    P99,
    P999,
    RssPeak,
    ClientCpuShare,
];
const SINGLE: &[Metric] = &[CpuPerRequest, Requests, P50, P99, P999, RssPeak, ClientCpuShare];

/// One that lasts shows what comes now and then as well.
const LASTING: &[Metric] = &[
    CpuPerGb,
    CpuWithKernelPerGb,
    Throughput,
    P50,
    P99,
    P999,
    Max,
    RssPeak,
];

/// Every group of workloads, in the order in which they run.
pub static GROUPS: &[Group] = &[
    Group {
        name: "produce",
        title: "Produce, one node",
        nodes: 1,
        sharing: Sharing::OneForAll,
        broker_lines: topics::BROKER_LINES,
        workloads: PRODUCE,
    },
    Group {
        name: "lasting",
        title: "Produce for two minutes, one node",
        nodes: 1,
        sharing: Sharing::OneForEach,
        broker_lines: topics::BROKER_LINES,
        workloads: PRODUCE_LONG,
    },
    Group {
        name: "replicated",
        title: "Produce, three nodes, acks=all",
        nodes: 3,
        sharing: Sharing::OneForAll,
        broker_lines: topics::BROKER_LINES,
        workloads: REPLICATED,
    },
    Group {
        name: "lasting-replicated",
        title: "Produce for two minutes, three nodes",
        nodes: 3,
        sharing: Sharing::OneForEach,
        broker_lines: topics::BROKER_LINES,
        workloads: REPLICATED_LONG,
    },
    Group {
        name: "end-to-end",
        title: "End to end, one node",
        nodes: 1,
        sharing: Sharing::OneForAll,
        broker_lines: topics::BROKER_LINES,
        workloads: END_TO_END,
    },
    Group {
        name: "end-to-end-replicated",
        title: "End to end, three nodes, acks=all",
        nodes: 3,
        sharing: Sharing::OneForAll,
        broker_lines: topics::BROKER_LINES,
        workloads: END_TO_END_REPLICATED,
    },
    Group {
        name: "read",
        title: "Read, one node",
        nodes: 1,
        sharing: Sharing::OneForAll,
        broker_lines: topics::BROKER_LINES,
        workloads: READ,
    },
    Group {
        name: "compressed",
        title: "Compressed produce, one node",
        nodes: 1,
        sharing: Sharing::OneForAll,
        broker_lines: topics::BROKER_LINES,
        workloads: COMPRESSED,
    },
    Group {
        name: "transactions",
        title: "Transactions, one node",
        nodes: 1,
        sharing: Sharing::OneForAll,
        broker_lines: topics::BROKER_LINES,
        workloads: TRANSACTIONS,
    },
    Group {
        name: "transactions-replicated",
        title: "Transactions, three nodes",
        nodes: 3,
        sharing: Sharing::OneForAll,
        broker_lines: topics::BROKER_LINES,
        workloads: TRANSACTIONS_REPLICATED,
    },
    Group {
        name: "guarantees",
        title: "What guarantees cost, one node",
        nodes: 1,
        sharing: Sharing::OneForAll,
        broker_lines: topics::BROKER_LINES,
        workloads: GUARANTEES,
    },
    Group {
        name: "many",
        title: "Many topics, partitions, connections",
        nodes: 1,
        sharing: Sharing::OneForEach,
        broker_lines: &[],
        workloads: MANY,
    },
    Group {
        name: "start",
        title: "Start, rest and recovery",
        nodes: 1,
        sharing: Sharing::OneForEach,
        broker_lines: topics::BROKER_LINES,
        workloads: START,
    },
    Group {
        name: "compaction",
        title: "Compaction",
        nodes: 1,
        sharing: Sharing::OneForEach,
        broker_lines: topics::BROKER_LINES,
        workloads: COMPACTION,
    },
];

const PRODUCE: &[Workload] = &[
    Workload {
        row: "1",
        title: "1 KB records, 64 KiB batches, 100,000 records/s",
        plan: Plan::Produce(Topic::single(6), at(100_000.0, load(BATCHED_1K, 4, 5))),
        shown: BATCHED,
        bounds: &[
            must(CpuPerGb, 1.1),
            must_be_less(CpuPerGb, 2.5),
            of_floor(Level::Must, CpuPerGb, 2.0),
            goal(CpuPerGb, 0.8),
            of_floor(Level::Goal, CpuPerGb, 1.5),
        ],
    },
    Workload {
        row: "2",
        title: "1 KB records, 64 KiB batches, 4 connections x 5 in flight, saturated",
        plan: Plan::Produce(Topic::single(6), load(BATCHED_1K, 4, 5)),
        shown: BATCHED,
        bounds: &[
            must_be_more(Throughput, 1.5),
            Bound {
                metric: Throughput,
                level: Level::Goal,
                limit: Limit::OfKafkaAtLeast(2.0),
            },
        ],
    },
    Workload {
        row: "3",
        title: "100 B records, 16 KiB batches, 500,000 records/s",
        plan: Plan::Produce(Topic::single(6), at(500_000.0, load(BATCHED_100B, 4, 5))),
        shown: BATCHED,
        bounds: &[
            must(CpuPerGb, 1.9),
            must_be_less(CpuPerGb, 4.0),
            of_floor(Level::Must, CpuPerGb, 2.2),
            goal(CpuPerGb, 1.3),
            of_floor(Level::Goal, CpuPerGb, 1.5),
        ],
    },
    Workload {
        row: "4",
        title: "10 KB records, 512 KiB batches, 100 MB/s",
        plan: Plan::Produce(Topic::single(6), at(10_000.0, load(BATCHED_10K, 4, 5))),
        shown: BATCHED,
        bounds: &[
            must(CpuPerGb, 1.2),
            of_floor(Level::Must, CpuPerGb, 2.0),
            goal(CpuPerGb, 0.9),
            of_floor(Level::Goal, CpuPerGb, 1.5),
        ],
    },
    Workload {
        row: "5",
        title: "unbatched 100 B, 1 connection, 1 in flight",
        plan: Plan::Produce(Topic::single(6), load(UNBATCHED, 1, 1)),
        shown: SINGLE,
        bounds: &[
            must(CpuPerRequest, 20.0),
            must(P50, 0.13),
            of_floor(Level::Must, CpuPerRequest, 2.0),
            goal(CpuPerRequest, 15.0),
            of_floor(Level::Goal, CpuPerRequest, 1.5),
        ],
    },
    Workload {
        row: "6",
        title: "unbatched 100 B, 1 connection, 5 in flight",
        plan: Plan::Produce(Topic::single(6), load(UNBATCHED, 1, 5)),
        shown: SINGLE,
        bounds: &[
            must(CpuPerRequest, 11.0),
            must_be_less(CpuPerRequest, 5.0),
            of_floor(Level::Must, CpuPerRequest, 2.7),
            goal(CpuPerRequest, 7.0),
            of_floor(Level::Goal, CpuPerRequest, 1.7),
        ],
    },
    Workload {
        row: "7",
        title: "unbatched 100 B, 64 connections x 5 in flight, saturated",
        plan: Plan::Produce(Topic::single(6), load(UNBATCHED, 64, 5)),
        shown: SINGLE,
        bounds: &[
            must(CpuPerRequest, 5.9),
            must_be_less(CpuPerRequest, 3.0),
            of_floor(Level::Must, CpuPerRequest, 2.3),
            goal(CpuPerRequest, 4.4),
            of_floor(Level::Goal, CpuPerRequest, 1.7),
        ],
    },
    Workload {
        row: "7b",
        title: "unbatched 100 B, 64 connections, 20,000/s",
        plan: Plan::Produce(Topic::single(6), at(20_000.0, load(UNBATCHED, 64, 5))),
        shown: SINGLE,
        bounds: &[],
    },
];

const REPLICATED: &[Workload] = &[
    Workload {
        row: "8",
        title: "1 KB records, 64 KiB batches, 3 connections x 5 in flight, saturated",
        plan: Plan::Produce(Topic::replicated(6), all(load(BATCHED_1K, 3, 5))),
        shown: BATCHED,
        bounds: &[
            must(CpuPerGb, 4.5),
            must_be_less(CpuPerGb, 3.5),
            goal(CpuPerGb, 3.3),
        ],
    },
    Workload {
        row: "8b",
        title: "1 KB records, 64 KiB batches, 3 connections, 30,000 records/s",
        plan: Plan::Produce(Topic::replicated(6), at(30_000.0, all(load(BATCHED_1K, 3, 5)))),
        shown: BATCHED,
        bounds: &[must_be_less(P99, 3.0)],
    },
    Workload {
        row: "9",
        title: "unbatched 100 B, 16 connections x 5 in flight, saturated",
        plan: Plan::Produce(Topic::replicated(6), all(load(UNBATCHED, 16, 5))),
        shown: SINGLE,
        bounds: &[
            must(CpuPerRequest, 57.0),
            must_be_less(CpuPerRequest, 5.0),
            goal(CpuPerRequest, 35.0),
        ],
    },
    Workload {
        row: "9b",
        title: "unbatched 100 B, 16 connections, 3,000/s",
        plan: Plan::Produce(Topic::replicated(6), at(3_000.0, all(load(UNBATCHED, 16, 5)))),
        shown: SINGLE,
        bounds: &[must_be_less(P99, 3.0)],
    },
];

const TAIL: &[Metric] = &[P50, P99, P999, Max, CpuPerRequest, RssPeak, ClientCpuShare];

const END_TO_END: &[Workload] = &[
    Workload {
        row: "10",
        title: "1 KB, one record a request, 2,000/s",
        plan: Plan::ProduceAndConsume(
            Topic::single(6),
            at(2_000.0, load(UNBATCHED_1K, 2, 5)),
            readers(1, 2),
        ),
        shown: TAIL,
        bounds: &[
            must(P50, 0.3),
            must_be_less(P99, 3.0),
            must_be_less(P999, 3.0),
            goal(P50, 0.2),
        ],
    },
    Workload {
        row: "11",
        title: "1 KB, one record a request, 10,000/s",
        plan: Plan::ProduceAndConsume(
            Topic::single(6),
            at(10_000.0, load(UNBATCHED_1K, 2, 5)),
            readers(1, 2),
        ),
        shown: TAIL,
        bounds: &[
            must(P50, 0.3),
            must_be_less(P99, 3.0),
            must_be_less(P999, 3.0),
            goal(P99, 1.0),
        ],
    },
];

const END_TO_END_REPLICATED: &[Workload] = &[
    Workload {
        row: "12",
        title: "1 KB, one record a request, 500/s",
        plan: Plan::ProduceAndConsume(
            Topic::replicated(6),
            at(500.0, all(load(UNBATCHED_1K, 3, 5))),
            readers(1, 3),
        ),
        shown: TAIL,
        bounds: &[
            must(P50, 0.7),
            must_be_less(P99, 3.0),
            must_be_less(P999, 3.0),
            goal(P50, 0.4),
        ],
    },
    Workload {
        row: "12b",
        title: "1 KB, one record a request, 1,000/s",
        plan: Plan::ProduceAndConsume(
            Topic::replicated(6),
            at(1_000.0, all(load(UNBATCHED_1K, 3, 5))),
            readers(1, 3),
        ),
        shown: TAIL,
        bounds: &[
            must(P50, 0.7),
            must_be_less(P99, 3.0),
            must_be_less(P999, 3.0),
            goal(P50, 0.4),
        ],
    },
];

const DELIVERED: &[Metric] = &[CpuPerGb, Throughput, P50, P99, RssPeak, ClientCpuShare];

const READ: &[Workload] = &[
    Workload {
        row: "13",
        title: "fan-out to 10 consumers, 100,000 delivered records/s of 1 KB",
        plan: Plan::ProduceAndConsume(
            Topic::single(6),
            at(10_000.0, load(DEFAULT_1K, 2, 5)),
            readers(10, 1),
        ),
        shown: DELIVERED,
        bounds: &[
            must(CpuPerGb, 0.7),
            must_be_less(CpuPerGb, 2.0),
            goal(CpuPerGb, 0.45),
        ],
    },
    Workload {
        row: "13b",
        title: "fan-out to 50 consumers, 100,000 delivered records/s of 1 KB",
        plan: Plan::ProduceAndConsume(
            Topic::single(6),
            at(2_000.0, load(DEFAULT_1K, 2, 5)),
            readers(50, 1),
        ),
        shown: DELIVERED,
        bounds: &[
            must(CpuPerGb, 0.5),
            must_be_less(CpuPerGb, 2.0),
            goal(CpuPerGb, 0.45),
        ],
    },
    Workload {
        row: "14",
        title: "catch-up of one partition from memory",
        plan: Plan::CatchUp(2 << 30),
        shown: &[CpuPerGb, Throughput, RssPeak],
        bounds: &[must_be_less(CpuPerGb, 1.0), must_be_more(Throughput, 1.0)],
    },
    Workload {
        row: "14c",
        title: "producing 20,000 records/s of 1 KB while a consumer reads 4 GiB from the disk as fast as it can (throughput: the reader's)",
        plan: Plan::ColdCatchUp(4 << 30, None, at(20_000.0, load(DEFAULT_1K, 2, 5))),
        shown: &[P99, P50, P999, Max, Throughput, CpuShare, RssPeak],
        bounds: &[must_be_less(P99, 5.0)],
    },
    Workload {
        row: "14d",
        title: "the same, the reader held to 400 MB/s",
        plan: Plan::ColdCatchUp(4 << 30, Some(400e6), at(20_000.0, load(DEFAULT_1K, 2, 5))),
        shown: &[P99, P50, P999, Max, Throughput, CpuShare, RssPeak],
        bounds: &[must_be_less(P99, 5.0)],
    },
];

/// 1 KB records like JSON, 100 to a batch.
const fn json(compression: Compression) -> Plan {
    let shape = BatchShape {
        records: 100,
        value_bytes: 1000,
        values: Values::Json,
        compression,
    };
    Plan::Produce(Topic::single(6), at(50_000.0, load(shape, 4, 5)))
}

const COMPRESSED: &[Workload] = &[
    Workload {
        row: "lz4",
        title: "lz4, 50,000 records/s of 1 KB, per GB before compression",
        plan: json(Compression::Lz4),
        shown: BATCHED,
        bounds: &[must_be_less(CpuPerGb, 3.0)],
    },
    Workload {
        row: "zstd",
        title: "zstd, the same",
        plan: json(Compression::Zstd),
        shown: BATCHED,
        bounds: &[must_be_less(CpuPerGb, 2.0)],
    },
    Workload {
        row: "snappy",
        title: "snappy, the same",
        plan: json(Compression::Snappy),
        shown: BATCHED,
        bounds: &[must_be_less(CpuPerGb, 2.0)],
    },
    Workload {
        row: "gzip",
        title: "gzip, the same",
        plan: json(Compression::Gzip),
        shown: BATCHED,
        bounds: &[must_be_less(CpuPerGb, 2.0)],
    },
];

const COMMITTED: &[Metric] = &[
    CpuPerTransaction,
    Transactions,
    P50,
    P99,
    P999,
    RssPeak,
    ClientCpuShare,
];
/// Of the second and the third, one is enough.
const COMMITTED_BOUNDS: &[Bound] = &[
    must_be_less(CpuPerTransaction, 3.0),
    must_be_more(Transactions, 3.0),
    must_be_less(P99, 3.0),
];

const fn transactions_of(batches: u32, records: u32) -> TransactionLoad {
    TransactionLoad {
        batches,
        shape: BatchShape::plain(records, 100),
    }
}

const fn committed(row: &'static str, topic: Topic, title: &'static str, load: TransactionLoad) -> Workload {
    Workload {
        row,
        title,
        plan: Plan::Transactions(topic, load),
        shown: COMMITTED,
        bounds: COMMITTED_BOUNDS,
    }
}

/// Small, usual and large ones, on a topic.
const fn transactions_on(topic: Topic, rows: [&'static str; 3]) -> [Workload; 3] {
    let [small, usual, large] = rows;
    [
        committed(
            small,
            topic,
            "transactions of 1 record of 100 B, latency of the commit",
            transactions_of(1, 1),
        ),
        committed(
            usual,
            topic,
            "transactions of 100 records in 4 batches",
            transactions_of(4, 25),
        ),
        committed(
            large,
            topic,
            "transactions of 10,000 records in 80 batches",
            transactions_of(80, 125),
        ),
    ]
}

const TRANSACTIONS: &[Workload] = &transactions_on(Topic::single(6), ["txn-1", "txn-100", "txn-10000"]);

const TRANSACTIONS_REPLICATED: &[Workload] = &transactions_on(
    Topic::replicated(6),
    ["txn-1-replicated", "txn-100-replicated", "txn-10000-replicated"],
);

const GUARANTEES: &[Workload] = &[
    Workload {
        row: "idempotent",
        title: "idempotent producers, 1 KB records, 16 KiB batches, 50,000 records/s",
        plan: Plan::Idempotent(Topic::single(6), at(50_000.0, all(load(DEFAULT_1K, 4, 5)))),
        shown: &[CpuOfPlain, CpuPerGb, P50, P99],
        bounds: &[must(CpuOfPlain, 102.0)],
    },
    Workload {
        row: "read-committed",
        title: "catch-up under read_committed, a tenth of the transactions aborted",
        plan: Plan::ReadCommitted(512 << 20),
        shown: &[CpuOfPlain, CpuPerGb, Throughput],
        bounds: &[must(CpuOfPlain, 105.0)],
    },
];

const MANY: &[Workload] = &[
    Workload {
        row: "15",
        title: "100 topics of one partition, one after another",
        plan: Plan::TopicsInTurn(100),
        shown: &[P50, P99, Max],
        bounds: &[must(P50, 8.0), goal(P50, 6.0)],
    },
    Workload {
        row: "16",
        title: "9,800 partitions in one topic: created, one record in each, restarted",
        plan: Plan::Partitions(9_800),
        shown: &[Usable, Begun, FirstAck, Rss],
        bounds: &[
            must(Usable, 1_500.0),
            must(FirstAck, 2_000.0),
            must(Rss, 256.0),
            goal(Usable, 1_000.0),
            goal(FirstAck, 1_000.0),
            goal(Rss, 150.0),
        ],
    },
    Workload {
        row: "16b",
        title: "1 KB records, 16 KiB batches, saturated, over 9,800 partitions, as a share of that over 100",
        plan: Plan::ThroughputOver(100, 9_800, load(DEFAULT_1K, 4, 5)),
        shown: &[Share, Throughput, CpuPerGb, P99, RssPeak],
        bounds: &[at_least(Share, 75.0)],
    },
    Workload {
        row: "20",
        title: "1,000 connections opened all at once, each asked for its API versions",
        plan: Plan::Connections(Opening::AtOnce, 1_000),
        shown: &[Connections],
        bounds: &[must_be_more(Connections, 2.0)],
    },
    Workload {
        row: "20c",
        title: "1,000 connections opened by 32 threads in turn, each asked for its API versions",
        plan: Plan::Connections(Opening::InTurn, 1_000),
        shown: &[Connections],
        bounds: &[must_be_more(Connections, 2.0)],
    },
    Workload {
        row: "20b",
        title: "10,000 idle connections",
        plan: Plan::IdleConnections(10_000),
        shown: &[Rss, CpuShare],
        bounds: &[],
    },
    Workload {
        row: "21",
        title: "`topics --list` of 10 topics",
        plan: Plan::ListTopics(5),
        shown: &[Wall, CpuTime, RssPeak],
        bounds: &[must(Wall, 20.0), goal(Wall, 10.0)],
    },
];

const START: &[Workload] = &[
    Workload {
        row: "17",
        title: "start of a formatted node to the first acknowledged record",
        plan: Plan::EmptyStart,
        shown: &[FirstAck],
        bounds: &[must(FirstAck, 300.0), goal(FirstAck, 100.0)],
    },
    Workload {
        row: "18",
        title: "idle, then 100,000 records/s of 1 KB (RSS peak)",
        plan: Plan::Idle(at(100_000.0, load(BATCHED_1K, 4, 5))),
        shown: &[Rss, CpuShare, RssPeak],
        bounds: &[
            must(Rss, 60.0),
            must(RssPeak, 100.0),
            must(CpuShare, 1.0),
            goal(Rss, 25.0),
            goal(RssPeak, 60.0),
            goal(CpuShare, 0.3),
        ],
    },
    Workload {
        row: "clean-start",
        title: "start after a clean stop with 10 GB in 1,000 partitions",
        plan: Plan::StartAfterStop(10_000_000_000, 1_000),
        shown: &[FirstAck],
        bounds: &[must(FirstAck, 1_000.0)],
    },
    Workload {
        row: "recovery",
        title: "start after kill -9 with 2 GB unflushed and not in memory, until every partition takes a record",
        plan: Plan::StartAfterKill(2_000_000_000),
        shown: &[FirstAck, Throughput, DiskShare],
        bounds: &[at_least(DiskShare, 70.0)],
    },
];

const PRODUCE_LONG: &[Workload] = &[Workload {
    row: "1c",
    title: "1 KB records, 64 KiB batches, 100,000 records/s, through rolls, checkpoints and writing back",
    plan: Plan::ProduceLong(Topic::single(6), at(100_000.0, load(BATCHED_1K, 4, 5))),
    shown: LASTING,
    bounds: &[must_be_less(CpuPerGb, 2.5)],
}];

const REPLICATED_LONG: &[Workload] = &[Workload {
    row: "8c",
    title: "1 KB records, 64 KiB batches, 3 connections, 30,000 records/s, through rolls, checkpoints and writing back",
    plan: Plan::ProduceLong(Topic::replicated(6), at(30_000.0, all(load(BATCHED_1K, 3, 5)))),
    shown: LASTING,
    bounds: &[must_be_less(CpuPerGb, 3.5), must_be_less(P99, 3.0)],
}];

const COMPACTION: &[Workload] = &[Workload {
    row: "compaction",
    title: "a million keys updated ten times, until a million records are left, checked by a reader",
    plan: Plan::Compaction(1_000_000, 10),
    shown: &[Wall, Settling, CpuTime],
    bounds: &[must_be_less(Wall, 1.0), must_be_less(Settling, 1.0)],
}];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_row_is_there_once() {
        let rows: Vec<_> = GROUPS
            .iter()
            .flat_map(|group| group.workloads)
            .map(|workload| workload.row)
            .collect();
        let unique: BTreeSet<&str> = rows.iter().copied().collect();
        assert_eq!(unique.len(), rows.len(), "{rows:?}");
        for row in (1..=18).chain(20..=21) {
            let row = row.to_string();
            assert!(unique.contains(row.as_str()), "row {row} is missing");
        }
    }

    #[test]
    fn what_is_bounded_is_shown() {
        for workload in GROUPS.iter().flat_map(|group| group.workloads) {
            for bound in workload.bounds {
                assert!(
                    workload.shown.contains(&bound.metric),
                    "row {}: {:?}",
                    workload.row,
                    bound.metric
                );
            }
        }
    }
}
