//! What the core is told: ids, units, nodes, jobs and queues, as plain data.

mod job;
mod node;
mod queue;
mod units;

pub use job::{BoundJob, Estimate, Exclusive, GpuRequest, Job, Requirements, Terms, Toleration};
pub use node::{Attributed, Capability, DesiredState, Gpu, Node, Taint, TaintEffect};
pub use queue::{QueueState, Quota};
pub use units::{Bytes, GpuUuid, JobUid, MilliCpu, Millis, NodeName, QueueName, Span};
