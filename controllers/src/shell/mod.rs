//! The shell that every controller shares: watch, decide, write, back off, wake at a time.
//!
//! ```text
//! watcher a kind ──▶ World (ordered stores) ──▶ Controller::on_change ──▶ WorkQueue a controller
//!                        ▲                                                     │
//!                        │ reply of a write, when newer                        ▼
//!                        └────────── writes (bounded in flight) ◀── Controller::reconcile ──▶ Plan
//! ```
//!
//! **Guarantees.**
//! - One watch a kind and process; every controller reads the same [`World`].
//! - One task owns the world and all queues, so nothing is locked and the order of decisions follows from the order of
//!   events alone. With a single-threaded runtime and a given seed, the same events give the same writes.
//! - A subject is reconciled by one controller at most once at a time: the next look waits until the writes of the last
//!   plan are answered. An object has at most one write of this process in flight.
//! - Every write that rests on a decision carries the resourceVersion it was made on. A conflict is no error: the subject
//!   is looked at again.
//!
//! **Absent on purpose.** No Event objects on the normal path, no reads beside the watches, no unbounded buffer: queues
//! hold each subject once, and channels and writes in flight have limits.

mod child;
mod driver;
mod facts;
mod patch;
mod plan;
mod queue;
mod store;
mod watch;
mod world;
mod write;

#[cfg(test)]
mod fake;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use facts::stop_deadline;

pub(crate) use child::{child, child_name, child_spec, name_problem};
pub(crate) use driver::Driver;
pub(crate) use facts::{
    Displaceable, bound_attempt_ended, by, cancel_wanted, gang_size, has_finalizer, is_deleting,
    is_ended, is_parent, later, member_index, owner, raised, rank, room_wanted, room_wanted_for,
    suspend_wanted, uid, with_finalizer, without_finalizer,
};
pub(crate) use plan::{Op, Plan};
pub(crate) use store::{Delta, Key, Store};
pub(crate) use watch::{Kind, chain};
pub(crate) use world::{Change, World};
pub(crate) use write::{FIELD_MANAGER, Failure};

use jiff::Timestamp;

use crate::ControllerName;

/// What a controller is asked to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// One job.
    Job(Key),
    /// One node.
    Node(Key),
    /// All jobs and nodes together, for placement. Its writes do not hold it: it keeps account of them itself.
    Fleet,
}

/// Collects the subjects that a change asks a controller to look at.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// In the order in which they were asked for.
    pub(crate) subjects: Vec<Subject>,
}

impl Wanted {
    pub(crate) fn job(&mut self, key: &Key) {
        self.subjects.push(Subject::Job(key.clone()));
    }

    pub(crate) fn node(&mut self, key: &Key) {
        self.subjects.push(Subject::Node(key.clone()));
    }

    pub(crate) fn fleet(&mut self) {
        self.subjects.push(Subject::Fleet);
    }
}

/// One controller: what it wants to look at, and what it wants done. Both are synchronous; the driver does the rest.
pub(crate) trait Controller: Send {
    /// Its name.
    fn name(&self) -> ControllerName;

    /// Says what to look at because of a change. The world has the change already.
    fn on_change(&mut self, change: &Change, world: &World, now: Timestamp, wanted: &mut Wanted);

    /// Looks at one subject and says what to do.
    fn reconcile(&mut self, subject: &Subject, world: &World, now: Timestamp) -> Plan;

    /// A write of this controller was answered. A reply was put into the world before.
    fn on_answer(&mut self, _op: &Op, _failure: Option<&Failure>, _wanted: &mut Wanted) {}

    /// The watch of a kind was interrupted and is tried again at `until`: what is not seen before then proves nothing.
    fn on_interruption(&mut self, _kind: Kind, _until: Timestamp) {}
}
