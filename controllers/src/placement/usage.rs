//! What queues have used, kept in their status so that the fair share survives a restart. Pure.
//!
//! Use decays by itself, so a status that was true once says for ever what is left of it; it is written again only when more
//! was used since, at most once a minute, and not for less than [`LEAST`] or a thirty-second part of the whole.

use std::sync::Arc;

use crds::queue::QueueUsage;
use crds::{Queue, QueueStatus};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use scheduler::{Cluster, GpuTime, Millis, QueueName, Settings};

use crate::shell::Op;

/// Between two looks at what queues have used.
pub(super) const PAUSE: SignedDuration = SignedDuration::from_mins(1);
/// Least use that is worth a write, in GPU-seconds.
const LEAST: u64 = 60;
/// Part of the whole that is worth a write.
const PART: u64 = 32;

/// Tells the core what a queue had used, as its status says.
pub(super) fn restore(cluster: &mut Cluster, name: &QueueName, queue: &Queue) {
    let status = queue.status.as_ref();
    if let Some(usage) = status.and_then(|status| status.usage.as_ref()) {
        let used = GpuTime::gpu_seconds(usage.gpu_seconds);
        cluster.set_usage(name, used, Millis(usage.time.0.as_millisecond()));
    }
}

/// The write of what a queue has used, when that is more than its status says by now.
pub(super) fn record(
    queue: &Arc<Queue>,
    used: GpuTime,
    settings: Settings,
    now: Timestamp,
) -> Option<Op> {
    let name = QueueName::from("one");
    let mut told = Cluster::new(settings);
    restore(&mut told, &name, queue);
    let left = told.usage(&name, Millis(now.as_millisecond()));
    let (used, left) = (used.as_gpu_seconds(), left.as_gpu_seconds());
    if used.abs_diff(left) < LEAST.max(left / PART) {
        return None;
    }
    Some(Op::QueueStatus {
        base: queue.clone(),
        next: Box::new(QueueStatus {
            usage: Some(QueueUsage {
                gpu_seconds: used,
                // The API says whole seconds.
                time: Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
            }),
            ..queue.status.clone().unwrap_or_default()
        }),
    })
}

#[cfg(test)]
mod tests {
    use crds::QueueSpec;

    use super::*;
    use crate::shell::testing::at;

    const DAY: i64 = 86_400;

    fn queue(usage: Option<(u64, i64)>) -> Arc<Queue> {
        let mut queue = Queue::new("q", QueueSpec::default());
        queue.status = Some(QueueStatus {
            usage: usage.map(|(gpu_seconds, time)| QueueUsage {
                gpu_seconds,
                time: Time(at(time)),
            }),
            ..QueueStatus::default()
        });
        Arc::new(queue)
    }

    fn written(queue: &Arc<Queue>, used: u64, now: i64) -> Option<u64> {
        let used = GpuTime::gpu_seconds(used);
        match record(queue, used, Settings::default(), at(now))? {
            Op::QueueStatus { next, .. } => Some(next.usage?.gpu_seconds),
            other => panic!("not a queue's status: {other:?}"),
        }
    }

    #[test]
    fn only_what_is_worth_it_is_written() {
        assert_eq!(written(&queue(None), 59, 100), None);
        assert_eq!(written(&queue(None), 60, 100), Some(60));
        let known = queue(Some((64_000, 100)));
        assert_eq!(
            written(&known, 65_900, 100),
            None,
            "a small part of the whole"
        );
        assert_eq!(written(&known, 66_000, 100), Some(66_000));
    }

    #[test]
    fn what_only_decays_is_not_written_again() {
        let known = queue(Some((64_000, 0)));
        assert_eq!(written(&known, 32_000, 7 * DAY), None);
        assert_eq!(written(&known, 64_000, 7 * DAY), Some(64_000));
    }

    #[test]
    fn a_restart_goes_on_from_the_status() {
        let mut cluster = Cluster::new(Settings::default());
        let name = QueueName::from("q");
        restore(&mut cluster, &name, &queue(Some((64_000, 0))));
        let used = cluster.usage(&name, Millis(7 * DAY * 1000));
        assert!(used.as_gpu_seconds().abs_diff(32_000) < 100, "{used:?}");
    }
}
