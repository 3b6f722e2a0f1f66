//! What does not change while a cluster lives.

use crate::input::{Millis, Span};

/// What does not change while a cluster lives. `Settings::default()` is what a fleet gets that says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Before this time no job is called infeasible, because nodes may still be about to register.
    pub settled_at: Millis,
    /// A job that waits this long counts as one priority higher, and again for every further such span; `None` or
    /// nothing is off. Default: off.
    pub aging: Option<Span>,
    /// Most priorities that waiting may add. Default: 1000.
    pub aging_cap: i32,
    /// Time after which use of the past counts half when queues are compared; `None` or nothing leaves use, past and
    /// present, out of the order. Default: 7 days.
    pub half_life: Option<Span>,
    /// What a queue holds counts at once as if it had been held for this long, so that queues take turns within one pass
    /// instead of one taking everything. Default: 1 hour.
    pub charge_ahead: Span,
    /// Thousandths of a GPU that a CPU core counts as when queues are compared. Default: 20, so that 50 cores are a GPU.
    pub core_share: u32,
    /// A job that nodes have kept waiting for this long is entitled to a reservation. Default: 1 minute.
    pub reserve_after: Span,
    /// Most jobs that have a reservation at a time; 0 turns them off. Default: 4.
    pub reservations: u32,
    /// How long after its binding a job may take to start when promises are made. Default: 30 seconds.
    pub start_allowance: Span,
    /// May room be made by displacing others? Whoever says so carries out what is nominated. Default: yes.
    pub preemption: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            settled_at: Millis(0),
            aging: None,
            aging_cap: 1000,
            half_life: Some(Span::seconds(7 * 24 * 3600)),
            charge_ahead: Span::seconds(3600),
            core_share: 20,
            reserve_after: Span::seconds(60),
            reservations: 4,
            start_allowance: Span::seconds(30),
            preemption: true,
        }
    }
}
