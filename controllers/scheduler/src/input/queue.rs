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
    /// What it owns: its jobs may hold so much, and more only as far as `borrow` says.
    pub quota: Quota,
    /// How much more its jobs may hold of what other queues own and leave idle, where `None` inside is no limit; `None` is
    /// nothing.
    pub borrow: Option<Quota>,
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
            borrow: None,
            min_runtime: Span::default(),
            weight: 1,
        }
    }
}
