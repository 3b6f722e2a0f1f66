//! What the core is told: ids, units, nodes, jobs and queues, as plain data.

mod job;
mod node;
mod queue;
mod units;

pub use job::{
    BoundJob, Estimate, Exclusive, Gang, GpuRequest, Job, Packing, Preference, Requirements,
    Slices, Terms, Toleration, Wish,
};
pub(crate) use node::covers;
pub use node::{Attributed, Capability, DesiredState, Gpu, Link, Node, Slice, Taint, TaintEffect};
pub use queue::{QueueState, Quota};
pub use units::{Bytes, GpuUuid, JobUid, MilliCpu, Millis, NodeName, QueueName, Span};
