//! Gangs to which anything happens at any time, while their controller does only some of what it wants.

use proptest::prelude::*;

use super::*;

/// What may happen to a gang, one thing after the other.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Bind(u32),
    Claim(u32),
    Fail(u32),
    Succeed(u32),
    Preempt(u32),
    Refuse(u32),
    Obey,
    Later,
    /// The controller does so many of the writes that it wants, and no more.
    Some(usize),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let rank = || 0..SIZE;
    let one = prop_oneof![
        6 => rank().prop_map(Happening::Bind),
        6 => rank().prop_map(Happening::Claim),
        1 => rank().prop_map(Happening::Fail),
        2 => rank().prop_map(Happening::Succeed),
        1 => rank().prop_map(Happening::Preempt),
        1 => rank().prop_map(Happening::Refuse),
        3 => Just(Happening::Obey),
        1 => Just(Happening::Later),
        9 => (1..5_usize).prop_map(Happening::Some),
    ];
    prop::collection::vec(one, 0..120)
}

impl Model {
    fn happen(&mut self, happening: Happening) {
        let known = self.jobs.clone();
        let has = |rank: u32, wanted: fn(&JobStatus) -> bool| {
            let status = known.get(&rank).and_then(|job| job.status.as_ref());
            status.is_some_and(wanted)
        };
        let obeys: fn(&JobStatus) -> bool =
            |s| s.stop.is_some() && s.claim.is_some() && s.finish_time.is_none();
        let waits: fn(&JobStatus) -> bool =
            |s| s.gang.is_some() && s.binding.is_none() && s.outcome.is_none();
        let unclaimed: fn(&JobStatus) -> bool =
            |s| s.binding.is_some() && s.claim.is_none() && s.stop.is_none() && s.outcome.is_none();
        let runs: fn(&JobStatus) -> bool = |s| {
            s.gang.is_some() && phase::may_go(s) && s.claim.is_some() && s.finish_time.is_none()
        };
        let unstopped: fn(&JobStatus) -> bool =
            |s| s.binding.is_some() && s.stop.is_none() && s.finish_time.is_none();
        match happening {
            Happening::Bind(rank) if has(rank, waits) => self.bind(rank),
            Happening::Claim(rank) if has(rank, unclaimed) => self.claim(rank),
            Happening::Fail(rank) if has(rank, runs) => self.finish(rank, 1),
            Happening::Succeed(rank) if has(rank, runs) => self.finish(rank, 0),
            Happening::Preempt(rank) if has(rank, unstopped) => self.change(rank, |status| {
                *status = raised(status, StopReason::Preempted, "x", "y", at(1)).unwrap();
            }),
            Happening::Refuse(rank) if has(rank, unclaimed) => {
                self.change(rank, |status| *status = phase::requeue(status, "refused"));
            }
            Happening::Obey => {
                for rank in 0..SIZE {
                    if has(rank, obeys) {
                        self.finish(rank, 143);
                    }
                }
            }
            Happening::Later => self.now += 50,
            Happening::Some(count) => {
                for op in self.look().ops.into_iter().take(count) {
                    self.execute(op);
                }
            }
            _ => {}
        }
    }
}

proptest! {
    /// Whatever happens and wherever the controller is stopped: no process without the parent's word, and never two
    /// generations at once (the model asserts both); and when all goes well from then on, the gang ends.
    #[test]
    fn one_generation_runs_at_a_time_and_the_gang_ends(happenings in happenings()) {
        let mut model = gang();
        for happening in happenings {
            model.happen(happening);
        }
        for _ in 0..40 {
            for rank in 0..SIZE {
                model.happen(Happening::Bind(rank));
                model.happen(Happening::Claim(rank));
                model.happen(Happening::Obey);
                model.happen(Happening::Some(99));
            }
            for rank in 0..SIZE {
                model.happen(Happening::Succeed(rank));
            }
        }
        prop_assert!(model.phase().is_terminal(), "{:?}\n{:?}", model.status(), model.phases());
        let left = model.jobs.keys().filter(|rank| !model.member(**rank).phase.unwrap().is_terminal());
        prop_assert_eq!(left.count(), 0);
    }
}
