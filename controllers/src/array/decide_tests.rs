//! Arrays run against a model of the API server: members are made, end, vanish, and are counted.

use std::collections::BTreeMap;

use crds::JobSpec;
use crds::job::ArraySpec;
use crds::job_status::Effective;
use proptest::prelude::*;

use super::*;
use crate::shell::testing::{at, job, member_of};
use crate::shell::uid;

/// The parent and all jobs of its members' names.
struct Model {
    parent: Arc<Job>,
    jobs: BTreeMap<u32, Arc<Job>>,
    /// How often a member of each index was made.
    made: BTreeMap<u32, u32>,
}

fn array(spec: ArraySpec) -> Model {
    let spec = JobSpec {
        command: vec!["run".to_owned(), "{i}".to_owned()],
        array: Some(spec),
        ..JobSpec::default()
    };
    let admitted = |status: &mut JobStatus| status.effective = Some(Effective::default());
    Model {
        parent: job("p").spec(spec).status(admitted).build(),
        jobs: BTreeMap::new(),
        made: BTreeMap::new(),
    }
}

fn of(count: u32, parallelism: u32) -> ArraySpec {
    ArraySpec {
        count: Some(count),
        parallelism: Some(parallelism),
        ..ArraySpec::default()
    }
}

impl Model {
    fn status(&self) -> &JobStatus {
        self.parent.status.as_ref().unwrap()
    }

    fn tallies(&self) -> ArrayStatus {
        self.status().array.clone().unwrap_or_default()
    }

    fn is_ours(&self, job: &Job) -> bool {
        crate::shell::owner(job).is_some_and(|owner| owner.uid == uid(&self.parent))
    }

    fn look(&self) -> Plan {
        let members: Vec<Member<'_>> = self
            .jobs
            .iter()
            .filter(|(_, job)| self.is_ours(job) && has_finalizer(job, TALLY_FINALIZER))
            .map(|(index, job)| Member { index: *index, job })
            .collect();
        let is_taken = |index| self.jobs.get(&index).is_some_and(|job| !self.is_ours(job));
        decide(&Observed {
            parent: &self.parent,
            members: &members,
            is_taken: &is_taken,
            now: at(100),
        })
    }

    /// Executes a plan; creations of taken names fail.
    fn execute(&mut self, plan: Plan) {
        for op in plan.ops {
            match op {
                Op::CreateJob(job) => {
                    let index = crate::shell::member_index(&job).unwrap();
                    self.jobs.entry(index).or_insert_with(|| {
                        *self.made.entry(index).or_insert(0) += 1;
                        let mut job = *job;
                        job.metadata.uid = Some(format!("member-{index}"));
                        Arc::new(job)
                    });
                }
                Op::JobStatus { next, .. } => {
                    let before = self.status().phase.unwrap();
                    let after = next.phase.unwrap();
                    assert!(crds::phase::may_move(before, after), "{before} to {after}");
                    let mut parent = Job::clone(&self.parent);
                    parent.status = Some(*next);
                    self.parent = Arc::new(parent);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Looks and executes until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..100 {
            let plan = self.look();
            if plan.ops.is_empty() {
                return;
            }
            self.execute(plan);
        }
        panic!("the decision does not settle");
    }

    fn end(&mut self, index: u32, outcome: Outcome) {
        let mut job = Job::clone(&self.jobs[&index]);
        job.status = Some(JobStatus {
            outcome: Some(outcome),
            ..JobStatus::default()
        });
        self.jobs.insert(index, Arc::new(job));
    }

    /// Lets go of the members that are counted, and forgets them.
    fn collect(&mut self) {
        let parent = self.parent.clone();
        self.jobs.retain(|index, job| {
            let plan = decide_member(job, Some(&parent), *index);
            plan.ops.is_empty()
        });
    }

    fn change_spec(&mut self, change: impl FnOnce(&mut JobSpec)) {
        let mut parent = Job::clone(&self.parent);
        change(&mut parent.spec);
        self.parent = Arc::new(parent);
    }

    fn indices(&self) -> Vec<u32> {
        self.jobs.keys().copied().collect()
    }
}

#[test]
fn no_more_members_are_made_than_may_run() {
    let mut model = array(of(10, 3));
    model.settle();
    assert_eq!(model.indices(), [0, 1, 2]);
    assert_eq!(model.status().phase, Some(Phase::Running));
    let tallies = model.tallies();
    assert_eq!((tallies.next_index, tallies.active), (3, 3));
    model.end(1, Outcome::Succeeded);
    model.settle();
    assert_eq!(model.indices(), [0, 1, 2, 3]);
    assert_eq!(model.tallies().finished, "1");
}

#[test]
fn an_array_whose_members_all_succeed_succeeds() {
    let mut model = array(of(3, 9));
    model.settle();
    for index in 0..3 {
        model.end(index, Outcome::Succeeded);
    }
    model.settle();
    let tallies = model.tallies();
    assert_eq!(model.status().phase, Some(Phase::Succeeded));
    assert_eq!(
        (tallies.succeeded, tallies.failed, tallies.active),
        (3, 0, 0)
    );
    assert_eq!(tallies.finished, "0-2");
}

#[test]
fn an_array_with_a_failed_member_fails_at_its_end() {
    let mut model = array(of(2, 9));
    model.settle();
    model.end(0, Outcome::TimedOut);
    model.settle();
    assert_eq!(model.status().phase, Some(Phase::Running));
    model.end(1, Outcome::Succeeded);
    model.settle();
    assert_eq!(model.status().phase, Some(Phase::Failed));
    assert_eq!(model.tallies().failed_indices, "0");
}

#[test]
fn members_that_end_before_the_first_count_still_pass_through_running() {
    let mut model = array(of(1, 1));
    let plan = model.look();
    let creates = plan
        .ops
        .into_iter()
        .filter(|op| matches!(op, Op::CreateJob(_)));
    let creates = Plan {
        ops: creates.collect(),
        look_again: None,
    };
    model.execute(creates);
    model.end(0, Outcome::Succeeded);
    model.settle();
    assert_eq!(model.status().phase, Some(Phase::Succeeded));
}

#[test]
fn enough_failures_end_the_making_of_members() {
    let mut spec = of(10, 2);
    spec.max_failures = Some(1);
    let mut model = array(spec);
    model.settle();
    model.end(0, Outcome::Failed);
    model.settle();
    assert_eq!(model.indices(), [0, 1]);
    model.end(1, Outcome::Succeeded);
    model.settle();
    assert_eq!(model.status().phase, Some(Phase::Failed));
    let message = model.status().message.clone().unwrap();
    assert_eq!(
        message,
        "1 of 10 members succeeded, 1 did not, 8 were not run"
    );
}

#[test]
fn a_cancelled_array_ends_when_its_members_have() {
    let mut model = array(of(10, 2));
    model.settle();
    model.change_spec(|spec| spec.cancel = Some(true));
    model.settle();
    assert_eq!(model.status().phase, Some(Phase::Running));
    model.end(0, Outcome::Cancelled);
    model.end(1, Outcome::Succeeded);
    model.settle();
    assert_eq!(model.status().phase, Some(Phase::Cancelled));
    assert_eq!(model.indices(), [0, 1]);
}

#[test]
fn an_array_that_is_cancelled_before_it_began_ends_at_once() {
    let mut model = array(of(10, 2));
    model.change_spec(|spec| spec.cancel = Some(true));
    model.settle();
    assert_eq!(model.status().phase, Some(Phase::Cancelled));
    assert!(model.jobs.is_empty());
}

#[test]
fn a_suspended_array_makes_no_members_and_says_so() {
    let mut model = array(of(10, 2));
    model.change_spec(|spec| spec.suspend = Some(true));
    model.settle();
    assert!(model.jobs.is_empty());
    assert_eq!(model.status().waiting.as_ref().unwrap().reason, "Suspended");
    model.change_spec(|spec| spec.suspend = None);
    model.settle();
    assert_eq!(model.indices(), [0, 1]);
    assert_eq!(model.status().waiting, None);
}

#[test]
fn a_name_that_belongs_to_someone_else_is_never_adopted() {
    let mut model = array(of(3, 3));
    model.jobs.insert(1, job(&child_name("p", 1)).build());
    model.settle();
    assert_eq!(model.indices(), [0, 1]);
    let waiting = model.status().waiting.clone().unwrap();
    assert_eq!(waiting.reason, "NameConflict");
    assert!(waiting.message.unwrap().contains("p-1"));
    model.jobs.remove(&1);
    model.settle();
    assert_eq!(model.indices(), [0, 1, 2]);
    assert_eq!(model.status().waiting, None);
}

#[test]
fn an_array_that_was_not_admitted_waits() {
    let mut model = array(of(3, 3));
    let mut parent = Job::clone(&model.parent);
    parent.status = None;
    model.parent = Arc::new(parent);
    assert_eq!(model.look(), Plan::nothing());
}

#[test]
fn a_member_that_was_removed_by_force_is_not_run_again() {
    let mut model = array(of(3, 3));
    model.settle();
    model.jobs.remove(&1);
    model.settle();
    assert_eq!(model.tallies().failed_indices, "1");
    assert_eq!(model.made[&1], 1);
}

#[test]
fn a_member_keeps_its_finalizer_until_it_is_counted() {
    let mut model = array(of(1, 1));
    model.settle();
    model.end(0, Outcome::Succeeded);
    let kept = decide_member(&model.jobs[&0], Some(&model.parent), 0);
    assert_eq!(kept, Plan::nothing());
    model.settle();
    model.collect();
    assert!(model.jobs.is_empty());
}

#[test]
fn the_member_of_an_array_that_is_gone_is_let_go() {
    let parent = job("p").build();
    let member = member_of(&parent, 0).build();
    assert_eq!(decide_member(&member, None, 0).ops.len(), 1);
    let waiting = decide_member(&member, Some(&parent), 0);
    assert_eq!(waiting, Plan::nothing());
}

proptest! {
    /// Whatever the order in which members end, are collected and vanish, each index is made once, and all are counted.
    #[test]
    fn every_index_is_made_once_and_counted(
        count in 1..40_u32,
        parallelism in 1..8_u32,
        steps in prop::collection::vec((any::<u8>(), 0..6_u8), 0..200),
    ) {
        let mut model = array(of(count, parallelism));
        model.settle();
        for (pick, what) in steps {
            let indices = model.indices();
            if !indices.is_empty() {
                let index = indices[usize::from(pick) % indices.len()];
                match what {
                    0 => model.end(index, Outcome::Failed),
                    1 => model.collect(),
                    2 => { model.jobs.remove(&index); }
                    _ => model.end(index, Outcome::Succeeded),
                }
            }
            model.settle();
            prop_assert!(model.tallies().active <= parallelism);
        }
        for _ in 0..count {
            for index in model.indices() {
                model.end(index, Outcome::Succeeded);
            }
            model.settle();
        }
        let tallies = model.tallies();
        prop_assert!(model.status().phase.unwrap().is_terminal());
        prop_assert_eq!(tallies.succeeded + tallies.failed, count);
        prop_assert!(model.made.values().all(|times| *times == 1));
        prop_assert_eq!(model.made.len(), count as usize);
    }
}
