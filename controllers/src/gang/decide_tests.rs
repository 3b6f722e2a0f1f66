//! Gangs run against a model of the API server, of placement and of agents: generations start whole, are stopped whole, and
//! come back or end.

use std::collections::BTreeMap;

use crds::job::{OnNodeLost, OnPreemption};
use crds::job_status::{Binding, Claim, Effective, Endpoint, Release, StopReason};
use crds::{JobSpec, Phase};

use super::*;
use crate::shell::testing::{at, job};
use crate::shell::{raised, rank};

const SIZE: u32 = 3;

/// The parent and all jobs of its members' names.
struct Model {
    parent: Arc<Job>,
    jobs: BTreeMap<u32, Arc<Job>>,
    /// How many objects were made.
    made: u32,
    now: i64,
    /// When their nodes were heard of last; the others are all the time.
    heard: BTreeMap<u32, i64>,
    /// Members with a process, and the generation it is of.
    running: BTreeMap<u32, u32>,
    effective: Effective,
}

fn gang_of(effective: Effective) -> Model {
    let spec = JobSpec {
        command: vec!["train".to_owned()],
        replicas: Some(SIZE),
        ..JobSpec::default()
    };
    let admitted = |status: &mut JobStatus| {
        status.effective = Some(effective.clone());
        status.observed_generation = Some(1);
    };
    Model {
        parent: job("g").spec(spec).status(admitted).build(),
        jobs: BTreeMap::new(),
        made: 0,
        now: 100,
        heard: BTreeMap::new(),
        running: BTreeMap::new(),
        effective,
    }
}

fn gang() -> Model {
    gang_of(Effective::default())
}

/// A gang all of whose members run.
fn started(effective: Effective) -> Model {
    let mut model = gang_of(effective);
    model.settle();
    model.bind_all();
    model.claim_all();
    assert_eq!(model.phase(), Phase::Running);
    assert_eq!(model.running.len(), SIZE as usize);
    model
}

impl Model {
    fn status(&self) -> &JobStatus {
        self.parent.status.as_ref().unwrap()
    }

    fn phase(&self) -> Phase {
        self.status().phase.unwrap()
    }

    fn generation(&self) -> u32 {
        self.status()
            .gang
            .as_ref()
            .map_or(0, |gang| gang.generation)
    }

    fn member(&self, rank: u32) -> &JobStatus {
        self.jobs[&rank].status.as_ref().unwrap()
    }

    fn phases(&self) -> Vec<Phase> {
        let phase = |job: &Arc<Job>| job.status.as_ref()?.phase;
        let phases = self.jobs.values().map(|job| phase(job).unwrap_or_default());
        phases.collect()
    }

    fn look(&self) -> Plan {
        let members: Vec<Member<'_>> = self
            .jobs
            .iter()
            .filter(|(rank_of, job)| rank(job) == Some(**rank_of))
            .map(|(rank, job)| Member {
                rank: *rank,
                job,
                heard: Some(at(self.heard.get(rank).copied().unwrap_or(self.now))),
            })
            .collect();
        decide(&Observed {
            parent: &self.parent,
            parents: &[],
            members: &members,
            named: &|rank| self.jobs.get(&rank),
            not_ready_seconds: 40,
            now: at(self.now),
        })
    }

    fn execute(&mut self, op: Op) {
        match op {
            Op::CreateJob(job) => {
                let rank = rank(&job).unwrap();
                assert!(!self.jobs.contains_key(&rank), "the name is free");
                self.made += 1;
                let mut job = *job;
                job.metadata.uid = Some(format!("member-{}", self.made));
                job.metadata.generation = Some(1);
                job.status = Some(JobStatus {
                    effective: Some(self.effective.clone()),
                    observed_generation: Some(1),
                    phase: Some(Phase::Pending),
                    ..JobStatus::default()
                });
                self.jobs.insert(rank, Arc::new(job));
            }
            Op::JobStatus { base, next } => self.write(&base, *next),
            Op::DeleteJob { base } => {
                let rank = rank(&base).unwrap();
                let mut job = Job::clone(&base);
                job.metadata.deletion_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(9)));
                self.jobs.insert(rank, Arc::new(job));
            }
            Op::JobFinalizers { base, next } => {
                assert!(!next.contains(&TALLY_FINALIZER.to_owned()));
                self.jobs.remove(&rank(&base).unwrap());
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn write(&mut self, base: &Arc<Job>, mut next: JobStatus) {
        next.phase = Some(phase::derive(&next));
        let before = base.status.clone().unwrap_or_default();
        let (old, new) = (before.phase.unwrap_or_default(), next.phase.unwrap());
        assert!(phase::may_move(old, new), "{old} to {new}: {next:?}");
        let mut job = Job::clone(base);
        job.status = Some(next);
        let job = Arc::new(job);
        let Some(rank) = rank(&job) else {
            self.parent = job;
            return;
        };
        // Its node starts it by what it is told, and that only the parent may have said before.
        let status = job.status.as_ref().unwrap();
        let goes = phase::may_go(status) && status.gang.is_some();
        let runs = goes && status.phase == Some(Phase::Running);
        if runs {
            let generation = status.go.unwrap();
            assert_eq!(
                self.status().go,
                Some(generation),
                "the parent says so first"
            );
            let others = self.running.values();
            assert!(others.clone().all(|other| *other == generation));
            self.running.insert(rank, generation);
            let mut job = Job::clone(&job);
            let status = job.status.as_mut().unwrap();
            status.start_time.get_or_insert(MicroTime(at(self.now)));
            self.jobs.insert(rank, Arc::new(job));
            return;
        }
        self.jobs.insert(rank, job);
    }

    /// Looks and executes until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..100 {
            let plan = self.look();
            if plan.ops.is_empty() {
                return;
            }
            for op in plan.ops {
                self.execute(op);
            }
        }
        panic!("the decision does not settle");
    }

    fn change(&mut self, rank: u32, change: impl FnOnce(&mut JobStatus)) {
        let base = self.jobs[&rank].clone();
        let mut next = base.status.clone().unwrap();
        change(&mut next);
        self.write(&base, next);
    }

    fn bind(&mut self, rank: u32) {
        self.change(rank, |status| {
            assert!(
                status.gang.is_some(),
                "placement places only members of a generation"
            );
            status.attempt += 1;
            status.binding = Some(Binding {
                node_name: format!("n{rank}"),
                ..Binding::default()
            });
        });
    }

    fn claim(&mut self, rank: u32) {
        self.change(rank, |status| {
            status.claim = Some(Claim {
                attempt: status.attempt,
                endpoint: Some(Endpoint {
                    address: format!("10.0.0.{rank}"),
                    port: 29_500,
                }),
                ..Claim::default()
            });
        });
    }

    fn bind_all(&mut self) {
        (0..SIZE).for_each(|rank| self.bind(rank));
        self.settle();
    }

    fn claim_all(&mut self) {
        (0..SIZE).for_each(|rank| self.claim(rank));
        self.settle();
    }

    /// The attempt's process is gone, as its agent reports it.
    fn finish(&mut self, rank: u32, code: i32) {
        self.running.remove(&rank);
        let now = self.now;
        self.change(rank, |status| {
            status.finish_time = Some(MicroTime(at(now)));
            status.exit_code = Some(code);
            status.release = Some(Release {
                attempt: status.attempt,
                ..Release::default()
            });
            let by_itself = phase::current_stop(status).is_none();
            if by_itself && code == 0 {
                status.outcome = Some(Outcome::Succeeded);
            }
            status.message = Some(format!("exited with code {code}"));
        });
    }

    /// Every member that is asked to stop does.
    fn obey(&mut self) {
        for rank in 0..SIZE {
            let status = self.member(rank);
            let asked = phase::current_stop(status).is_some() && status.finish_time.is_none();
            if asked && phase::current_claim(status).is_some() {
                self.finish(rank, 143);
            }
        }
        self.settle();
    }

    fn stop(&mut self, rank: u32, reason: StopReason) {
        self.ask(rank, reason);
        self.settle();
    }

    fn ask(&mut self, rank: u32, reason: StopReason) {
        let now = at(self.now);
        self.change(rank, |status| {
            *status = raised(status, reason, "somebody", "the words of somebody", now).unwrap();
        });
    }

    fn message(&self) -> &str {
        self.status().message.as_deref().unwrap_or_default()
    }

    fn change_spec(&mut self, change: impl FnOnce(&mut JobSpec)) {
        let mut parent = Job::clone(&self.parent);
        change(&mut parent.spec);
        self.parent = Arc::new(parent);
    }
}

#[test]
fn all_members_are_made_and_told_of_the_first_generation() {
    let mut model = gang();
    model.settle();
    assert_eq!(model.made, SIZE);
    assert_eq!((model.generation(), model.status().attempt), (1, 1));
    for rank in 0..SIZE {
        let mine = model.member(rank).gang.clone().unwrap();
        assert_eq!(
            (mine.size, mine.generation, mine.rank),
            (SIZE, 1, Some(rank))
        );
    }
    assert_eq!(model.phase(), Phase::Pending);
}

#[test]
fn nothing_starts_before_every_node_has_claimed_its_member() {
    let mut model = gang();
    model.settle();
    model.bind_all();
    assert_eq!(model.phase(), Phase::Scheduled);
    model.claim(0);
    model.claim(2);
    model.settle();
    assert!(model.running.is_empty());
    assert_eq!(model.phases(), [Phase::Scheduled; 3]);
    model.claim(1);
    model.settle();
    assert_eq!(model.phase(), Phase::Running);
    assert_eq!(model.running.len(), 3);
    let told = model.member(2).gang.clone().unwrap();
    assert_eq!(told.hosts, ["10.0.0.0", "10.0.0.1", "10.0.0.2"]);
    assert_eq!(told.master.unwrap().address, "10.0.0.0");
}

#[test]
fn a_controller_that_stops_after_its_decision_is_carried_on_by_the_next() {
    let mut model = gang();
    model.settle();
    model.bind_all();
    (0..SIZE).for_each(|rank| model.claim(rank));
    // The parent says go; nobody is told.
    let plan = model.look();
    assert_eq!(plan.ops.len(), 1);
    plan.ops.into_iter().for_each(|op| model.execute(op));
    assert!(model.running.is_empty());
    model.settle();
    assert_eq!(model.running.len(), 3);
}

#[test]
fn a_generation_that_is_not_claimed_in_time_gives_its_nodes_back() {
    let mut model = gang();
    model.settle();
    model.bind_all();
    model.claim(0);
    model.settle();
    let due = model.look().look_again;
    assert_eq!(due, Some(at(100 + i64::try_from(CLAIM_SECS).unwrap())));
    model.now += i64::try_from(CLAIM_SECS).unwrap();
    model.settle();
    let status = model.member(0);
    assert_eq!(
        phase::current_stop(status).unwrap().reason,
        StopReason::Preempted
    );
    assert_eq!(
        model.member(1).binding,
        None,
        "what nobody claimed is withdrawn"
    );
    assert_eq!(model.generation(), 1);
    model.obey();
    assert_eq!(model.generation(), 2);
    assert_eq!(model.phases(), [Phase::Pending; 3]);
    assert!(
        model.status().attempts[0]
            .reason
            .as_ref()
            .unwrap()
            .contains("1 are claimed")
    );
    model.bind_all();
    model.claim_all();
    assert_eq!(model.running.len(), 3);
}

#[test]
fn all_members_have_to_succeed() {
    let mut model = started(Effective::default());
    model.finish(1, 0);
    model.finish(0, 0);
    model.settle();
    assert_eq!(model.phase(), Phase::Running);
    assert_eq!(model.status().gang.as_ref().unwrap().succeeded, 2);
    model.finish(2, 0);
    model.settle();
    assert_eq!(model.phase(), Phase::Succeeded);
}

#[test]
fn the_failure_of_one_ends_all_and_is_named() {
    let mut model = started(Effective::default());
    model.finish(1, 3);
    model.settle();
    assert_eq!(model.phase(), Phase::Stopping);
    model.now += 1;
    model.obey();
    assert_eq!(model.phase(), Phase::Failed);
    assert_eq!(
        model.message(),
        "generation 1 of the gang is stopped: rank 1 on node n1 failed: exited with code 3"
    );
    assert_eq!(
        model.phases(),
        [Phase::Cancelled, Phase::Failed, Phase::Cancelled]
    );
}

#[test]
fn a_member_that_cannot_be_started_ends_the_gang() {
    let mut model = started(Effective::default());
    model.finish(2, 127);
    model.change(2, |status| {
        (status.start_time, status.exit_code) = (None, None);
        status.message = Some("could not be started: no such file".to_owned());
    });
    model.settle();
    model.obey();
    assert_eq!(model.phase(), Phase::Failed);
    assert!(model.message().contains("no such file"));
}

#[test]
fn what_somebody_takes_away_comes_back_whole_in_the_next_generation() {
    for reason in [StopReason::Preempted, StopReason::Drained] {
        let mut model = started(Effective::default());
        model.stop(2, reason);
        let stop = phase::current_stop(model.member(0)).unwrap();
        assert_eq!(stop.reason, StopReason::Preempted);
        assert!(
            stop.message
                .as_ref()
                .unwrap()
                .contains("rank 2 on node n2 was")
        );
        model.finish(2, 143);
        model.settle();
        assert_eq!(model.generation(), 1, "some of it still runs");
        model.obey();
        assert_eq!((model.generation(), model.phase()), (2, Phase::Pending));
        assert_eq!(model.phases(), [Phase::Pending; 3]);
        model.bind_all();
        model.claim_all();
        assert_eq!(model.running.len(), 3);
        assert_eq!(model.status().attempts.len(), 1);
    }
}

#[test]
fn a_member_that_fails_because_the_others_are_taken_away_runs_again() {
    let mut model = started(Effective::default());
    model.ask(0, StopReason::Preempted);
    model.finish(0, 143);
    model.finish(1, 1);
    model.settle();
    model.obey();
    assert_eq!((model.generation(), model.phase()), (2, Phase::Pending));
}

#[test]
fn a_member_that_had_succeeded_is_made_anew_for_the_next_generation() {
    let mut model = started(Effective::default());
    model.finish(1, 0);
    model.stop(0, StopReason::Drained);
    model.obey();
    assert_eq!(model.generation(), 2);
    assert_eq!(model.made, SIZE + 1);
    assert_eq!(model.phases(), [Phase::Pending; 3]);
    model.bind_all();
    model.claim_all();
    assert_eq!(model.running.len(), 3);
}

#[test]
fn a_gang_that_is_not_to_come_back_from_a_preemption_ends_as_preempted() {
    let mut effective = Effective::default();
    effective.on_preemption.value = OnPreemption::Stop;
    let mut model = started(effective.clone());
    model.stop(2, StopReason::Preempted);
    model.obey();
    assert_eq!(model.phase(), Phase::Preempted);
    // Before it has started it loses nothing.
    let mut model = gang_of(effective);
    model.settle();
    model.bind_all();
    model.claim(2);
    model.stop(2, StopReason::Preempted);
    model.obey();
    assert_eq!((model.generation(), model.phase()), (2, Phase::Pending));
}

#[test]
fn a_lost_node_is_followed_by_what_the_gang_asks_for() {
    let mut model = started(Effective::default());
    model.running.remove(&1);
    model.change(1, |status| status.node_silent = true);
    model.settle();
    assert_eq!(model.phase(), Phase::Running, "it is waited for");
    model.change(1, |status| {
        status.outcome = Some(Outcome::Lost);
        status.message = Some("an operator says that node n1 is gone".to_owned());
    });
    model.settle();
    model.obey();
    assert_eq!(model.phase(), Phase::Failed);
    assert!(model.message().contains("n1 is gone"));

    let mut effective = Effective::default();
    effective.on_node_lost.value = OnNodeLost::Requeue;
    let mut model = started(effective);
    model.running.remove(&1);
    model.change(1, |status| {
        *status = phase::requeue(status, "node n1 was not seen");
    });
    model.settle();
    model.obey();
    assert_eq!((model.generation(), model.phase()), (2, Phase::Pending));
    assert!(
        model.status().attempts[0]
            .reason
            .as_ref()
            .unwrap()
            .contains("n1 was not seen")
    );
}

#[test]
fn a_node_that_is_lost_before_the_start_takes_the_generation_with_it() {
    let mut model = gang();
    model.settle();
    model.bind_all();
    model.claim(0);
    model.claim(1);
    model.change(1, |status| {
        *status = phase::requeue(status, "node n1 fell silent");
    });
    model.settle();
    assert_eq!(model.member(2).binding, None, "nobody has claimed it");
    model.obey();
    assert_eq!(model.generation(), 2);
    let known = |rank| model.member(rank).attempts.len();
    assert_eq!(
        [known(0), known(1), known(2)],
        [0, 1, 0],
        "who lost its node"
    );
}

#[test]
fn a_member_that_is_refused_takes_the_generation_with_it() {
    let mut model = gang();
    model.settle();
    model.bind_all();
    model.claim(0);
    model.change(1, |status| {
        *status = phase::requeue(status, "it does not fit");
    });
    model.settle();
    model.obey();
    assert_eq!(model.generation(), 2);
    let reason = model.status().attempts[0].reason.clone().unwrap();
    assert!(
        reason.contains("rank 1 on node n1 lost its place: it does not fit"),
        "{reason}"
    );
}

#[test]
fn a_cancelled_gang_ends_once_its_members_have() {
    let mut model = started(Effective::default());
    model.change_spec(|spec| spec.cancel = Some(true));
    (0..SIZE).for_each(|rank| model.ask(rank, StopReason::Cancelled));
    model.settle();
    assert_eq!(model.phase(), Phase::Stopping);
    model.obey();
    assert_eq!(model.phase(), Phase::Cancelled);
    assert_eq!(model.phases(), [Phase::Cancelled; 3]);
    let mut model = gang();
    model.change_spec(|spec| spec.cancel = Some(true));
    model.settle();
    assert_eq!((model.phase(), model.made), (Phase::Cancelled, 0));
}

#[test]
fn a_gang_that_is_cancelled_while_it_is_stopped_does_not_come_back() {
    let mut model = started(Effective::default());
    model.stop(0, StopReason::Preempted);
    model.change_spec(|spec| spec.cancel = Some(true));
    model.settle();
    model.obey();
    assert_eq!(model.phase(), Phase::Cancelled);
}

#[test]
fn a_member_that_no_node_could_run_ends_the_gang_that_way() {
    let mut model = gang();
    model.settle();
    model.change(0, |status| {
        status.outcome = Some(Outcome::Infeasible);
        status.message = Some("its gang needs 3 nodes and 2 could ever run a member".to_owned());
    });
    model.settle();
    assert_eq!(model.phase(), Phase::Infeasible);
    assert!(
        model.message().contains("2 could ever"),
        "{}",
        model.message()
    );
    assert_eq!(
        model.phases(),
        [Phase::Infeasible, Phase::Cancelled, Phase::Cancelled]
    );
}

#[test]
fn the_end_of_the_parent_ends_the_members_that_wait() {
    let mut model = gang();
    model.settle();
    let mut next = model.status().clone();
    next.outcome = Some(Outcome::TimedOut);
    let parent = model.parent.clone();
    model.write(&parent, next);
    model.settle();
    assert_eq!(model.phases(), [Phase::Cancelled; 3]);
}

#[test]
fn a_taken_name_is_told_and_never_adopted() {
    let mut model = gang();
    model.jobs.insert(1, job("g-1").build());
    model.settle();
    assert_eq!(model.made, 0);
    let waiting = model.status().waiting.clone().unwrap();
    assert_eq!(waiting.reason, NAME_CONFLICT);
    model.jobs.remove(&1);
    model.settle();
    assert_eq!(model.generation(), 1);
    assert_eq!(model.status().waiting, None);
}

#[test]
fn a_suspended_gang_begins_no_generation() {
    let mut model = started(Effective::default());
    model.change_spec(|spec| spec.suspend = Some(true));
    (0..SIZE).for_each(|rank| model.ask(rank, StopReason::Suspended));
    model.settle();
    model.obey();
    assert_eq!((model.generation(), model.phase()), (1, Phase::Pending));
    assert_eq!(model.status().waiting.as_ref().unwrap().reason, SUSPENDED);
    model.change_spec(|spec| spec.suspend = None);
    model.settle();
    assert_eq!(model.generation(), 2);
}

#[test]
fn a_person_displaces_the_generation_that_he_names() {
    let mut model = started(Effective::default());
    let mut parent = Job::clone(&model.parent);
    parent.metadata.annotations = Some([(PREEMPT_ANNOTATION.to_owned(), "1".to_owned())].into());
    model.parent = Arc::new(parent);
    model.settle();
    model.obey();
    assert_eq!(model.generation(), 2);
    model.bind_all();
    model.claim_all();
    assert_eq!(model.phase(), Phase::Running, "a later one is not meant");
}

#[test]
fn a_member_is_kept_until_its_gang_has_ended() {
    let mut model = started(Effective::default());
    let mut member = Job::clone(&model.jobs[&0]);
    member.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(9)));
    let member = Arc::new(member);
    model.jobs.insert(0, member.clone());
    assert!(decide_member(&member, Some(&model.parent)).ops.is_empty());
    assert_eq!(decide_member(&member, None).ops.len(), 1);
    model.settle();
    assert!(model.message().contains("rank 0 on node n0 was deleted"));
    model.finish(0, 143);
    model.obey();
    assert_eq!(model.phase(), Phase::Cancelled);
    let member = model.jobs[&0].clone();
    assert_eq!(decide_member(&member, Some(&model.parent)).ops.len(), 1);
}

#[path = "chaos_tests.rs"]
mod chaos;

#[path = "silence_tests.rs"]
mod silence;
