//! How bounds are written in the table.

use crate::metric::Metric;
use crate::workloads::{Bound, Level, Limit};

/// At most this.
pub const fn must(metric: Metric, at_most: f64) -> Bound {
    Bound {
        metric,
        level: Level::Must,
        limit: Limit::AtMost(at_most),
    }
}

/// At most this, if it can be.
pub const fn goal(metric: Metric, at_most: f64) -> Bound {
    Bound {
        metric,
        level: Level::Goal,
        limit: Limit::AtMost(at_most),
    }
}

/// At most `times` the floor server's figure: what a bound on CPU comes to whatever the machine. They are those of the machine that the
/// absolute bounds were set on, divided by its floor.
pub const fn of_floor(level: Level, metric: Metric, times: f64) -> Bound {
    Bound {
        metric,
        level,
        limit: Limit::OfFloorAtMost(times),
    }
}

/// At most Kafka's figure divided by `times`.
pub const fn must_be_less(metric: Metric, times: f64) -> Bound {
    Bound {
        metric,
        level: Level::Must,
        limit: Limit::OfKafkaAtMost(1.0 / times),
    }
}

/// At least `times` Kafka's figure.
pub const fn must_be_more(metric: Metric, times: f64) -> Bound {
    Bound {
        metric,
        level: Level::Must,
        limit: Limit::OfKafkaAtLeast(times),
    }
}

/// At least this.
pub const fn at_least(metric: Metric, least: f64) -> Bound {
    Bound {
        metric,
        level: Level::Must,
        limit: Limit::AtLeast(least),
    }
}
