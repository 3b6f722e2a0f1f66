//! Numbers for metrics: what the cache holds and what the committer did.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::hub::Published;

/// Upper bounds of the commit latency buckets, in seconds. The last bucket has no bound.
pub const LATENCY_BOUNDS: [f64; 12] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.064, 0.25, 1.0, 4.0,
];

/// Upper bounds of the batch size buckets, in changes. The last bucket has no bound.
pub const BATCH_BOUNDS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// A histogram with fixed bounds.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    bounds: [f64; N],
    counts: [AtomicU64; N],
    beyond: AtomicU64,
    /// In millionths.
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: [f64; N]) -> Self {
        let counts = std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            bounds,
            counts,
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    fn observe(&self, value: f64, millionths: u64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound);
        bucket
            .map_or(&self.beyond, |bucket| &self.counts[bucket])
            .fetch_add(1, Relaxed);
        self.sum.fetch_add(millionths, Relaxed);
    }

    fn snapshot(&self) -> HistogramStats {
        let mut count = 0;
        let counts = self.counts.iter().chain([&self.beyond]);
        let cumulative = counts
            .map(|n| {
                count += n.load(Relaxed);
                count
            })
            .collect();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a metric; 2^53 millionths are centuries"
        )]
        let sum = self.sum.load(Relaxed) as f64 / 1e6;
        HistogramStats {
            bounds: self.bounds.to_vec(),
            cumulative,
            count,
            sum,
        }
    }
}

/// A histogram as Prometheus counts: cumulative, the last one without a bound.
#[derive(Clone, Debug, Default)]
pub struct HistogramStats {
    /// Upper bounds.
    pub bounds: Vec<f64>,
    /// Observations up to each bound, then all.
    pub cumulative: Vec<u64>,
    /// All observations.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

impl HistogramStats {
    /// The mean observation; 0 when there is none.
    pub fn mean(&self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a mean of at most 2^53 observations"
        )]
        let count = self.count.max(1) as f64;
        self.sum / count
    }
}

#[derive(Debug)]
pub(super) struct Counters {
    batch_sizes: Histogram<9>,
    commit_seconds: Histogram<12>,
    sync_seconds: Histogram<12>,
    events: AtomicU64,
    lagged: AtomicU64,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            batch_sizes: Histogram::new(BATCH_BOUNDS),
            commit_seconds: Histogram::new(LATENCY_BOUNDS),
            sync_seconds: Histogram::new(LATENCY_BOUNDS),
            events: AtomicU64::new(0),
            lagged: AtomicU64::new(0),
        }
    }

    pub(super) fn committed(&self, changes: usize, took: Duration) {
        let size = u32::try_from(changes).unwrap_or(u32::MAX);
        self.batch_sizes
            .observe(size.into(), u64::from(size) * 1_000_000);
        self.commit_seconds
            .observe(took.as_secs_f64(), micros(took));
    }

    pub(super) fn synced(&self, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64(), micros(took));
    }

    pub(super) fn published(&self, published: &Published) {
        self.events.fetch_add(published.events as u64, Relaxed);
        self.lagged.fetch_add(published.lagged, Relaxed);
    }

    pub(super) fn fill(&self, stats: &mut CacheStats) {
        stats.batch_sizes = self.batch_sizes.snapshot();
        stats.commit_seconds = self.commit_seconds.snapshot();
        stats.sync_seconds = self.sync_seconds.snapshot();
        stats.events_delivered = self.events.load(Relaxed);
        stats.watchers_lagged = self.lagged.load(Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// One resource in numbers.
#[derive(Clone, Debug, Default)]
pub struct ResourceStats {
    /// `jobs.gctl.dev`
    pub resource: String,
    /// Current objects.
    pub objects: usize,
    /// Bytes of their JSON.
    pub bytes: usize,
    /// Changes in the history window.
    pub history: usize,
    /// Bytes that the window keeps beyond the current objects.
    pub history_bytes: usize,
    /// Watches from below this revision are refused.
    pub oldest_revision: u64,
    /// Open watches.
    pub watchers: usize,
}

/// The cache in numbers.
#[derive(Clone, Debug, Default)]
pub struct CacheStats {
    /// The last published revision.
    pub revision: u64,
    /// By resource, in order of name.
    pub resources: Vec<ResourceStats>,
    /// Bytes that the store takes on disk.
    pub bytes_on_disk: u64,
    /// Requests that wait for the committer.
    pub queued: usize,
    /// Changes a batch.
    pub batch_sizes: HistogramStats,
    /// Seconds from taking a batch to having answered it.
    pub commit_seconds: HistogramStats,
    /// Seconds in the store, until the batch was durable.
    pub sync_seconds: HistogramStats,
    /// Events handed to watchers, each counted once a watcher.
    pub events_delivered: u64,
    /// Watches that ended because their reader did not keep up.
    pub watchers_lagged: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_and_including_its_bounds() {
        let histogram = Histogram::new([1.0, 2.0]);
        assert!(histogram.snapshot().mean().abs() < f64::EPSILON);
        for value in [1_u32, 2, 2, 3] {
            histogram.observe(value.into(), u64::from(value) * 1_000_000);
        }
        let stats = histogram.snapshot();
        assert_eq!(stats.cumulative, [1, 3, 4]);
        assert_eq!(stats.count, 4);
        assert!((stats.mean() - 2.0).abs() < 1e-9);
    }
}
