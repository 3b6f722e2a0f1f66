//! A member of a gang between its claim and its start. Nothing of it exists here: no process, no directory, no entry in the
//! ledger on disk; the claim, and what the agent charges for it in memory, is all there is.
//!
//! ```text
//! bound -> claimed, with an endpoint -> (all are claimed: go) -> begins, with its startTime -> started
//! ```
//!
//! Both writes of the agent are conditioned on the version that was seen, so neither needs a fresh look, and whoever
//! withdraws the binding before the second one wins over it. What was begun is started as any other job is, and a crash
//! between the two leaves what was never begun or what may be started once.

use crds::Job;
use crds::job_status::{Claim, JobStatus};
use crds::phase;
use jiff::SignedDuration;

use super::{Action, Observed, Plan, Write, end, is_ending, micro, unstarted};

/// How long a member waits for news of its gang before it is read again by name: a watch that says nothing must not keep
/// the others waiting.
pub(super) const READ_AGAIN: SignedDuration = SignedDuration::from_secs(20);

/// What to do about a member that is claimed for this node and has not begun.
pub(super) fn attend(
    observed: &Observed<'_>,
    job: &Job,
    status: &JobStatus,
    claim: &Claim,
    plan: &mut Plan,
) {
    let write = |write, next| Action::Write(write, Box::new(next));
    if phase::current_stop(status).is_some() || observed.stop_all {
        let next = end(observed, job, status, &unstarted(observed.now), None);
        plan.actions.push(write(Write::End, next));
    } else if claim.boot_id != observed.boot_id {
        let why = format!(
            "node {} was started anew before the gang could start",
            observed.node_name
        );
        plan.actions
            .push(write(Write::Again, phase::requeue(status, &why)));
    } else if observed.closing {
        // The next agent goes on waiting.
    } else if is_ending(job) || !phase::may_go(status) {
        plan.look_again = Some(observed.now + READ_AGAIN);
    } else {
        let mut next = status.clone();
        next.start_time = Some(micro(observed.now));
        next.phase = Some(phase::derive(&next));
        plan.actions.push(write(Write::Begin, next));
    }
}
