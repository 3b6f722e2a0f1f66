//! Preemptible jobs for a full fleet, without limits: a fixed mix without a random generator, in which sizes go round with
//! different periods.

use scheduler::{Bytes, GpuRequest, Job, JobUid, MilliCpu, Requirements, Span, Terms};

pub(crate) fn job(at: u32, prefix: &str, priority: i32) -> Job {
    let bytes = Bytes::gib(u64::from(6 + at % 11 * 7));
    let gpus = match at % 10 {
        0 => GpuRequest::Whole(1 + at / 10 % 4),
        1 => GpuRequest::None,
        2 => GpuRequest::Vram { count: 2, bytes },
        _ => GpuRequest::Vram { count: 1, bytes },
    };
    Job {
        uid: JobUid::from(format!("{prefix}-{at:06}")),
        queue: "default".into(),
        priority,
        enqueued_micros: i64::from(at),
        requirements: Requirements {
            cpu: MilliCpu(1000 + u64::from(at % 3) * 1000),
            memory: Bytes::gib(2),
            gpus,
            ..Requirements::default()
        },
        terms: Terms {
            preemptible: true,
            grace: Span::seconds(30),
            ..Terms::default()
        },
        ..Job::default()
    }
}
