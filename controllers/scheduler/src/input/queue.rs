//! Queues: what they allow.

use super::units::{Bytes, MilliCpu, Span};

/// Most that a queue's bound jobs may hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// GPUs.
    pub gpus: Option<u64>,
    /// Declared GPU memory over all GPUs.
    pub vram: Option<Bytes>,
    /// CPU.
    pub cpu: Option<MilliCpu>,
    /// Jobs.
    pub jobs: Option<u64>,
}

/// What a queue allows now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// True keeps its jobs from being placed.
    pub paused: bool,
    /// Its quota.
    pub quota: Quota,
    /// How long its jobs run at least before they may be displaced.
    pub min_runtime: Span,
    /// Its share of the fleet relative to other queues; 0 counts as 1.
    pub weight: u32,
}

impl Default for QueueState {
    fn default() -> Self {
        Self {
            paused: false,
            quota: Quota::default(),
            min_runtime: Span::default(),
            weight: 1,
        }
    }
}
