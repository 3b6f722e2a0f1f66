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
        }
    }
}
