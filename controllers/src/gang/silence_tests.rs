//! Failures of members while another's node is overdue or silent: which came first.

use super::*;

fn requeues() -> Effective {
    let mut effective = Effective::default();
    effective.on_node_lost.value = OnNodeLost::Requeue;
    effective
}

#[test]
fn a_failure_after_the_node_of_another_fell_silent_is_taken_for_its_consequence() {
    // What becomes of rank 1, when its node was heard of last, and how a failure of rank 0 at 100 is judged.
    let rows = [
        (
            "both nodes are fresh",
            requeues(),
            90,
            false,
            Some(Phase::Failed),
        ),
        ("the other is overdue", requeues(), 84, false, None),
        (
            "it is overdue and is waited for anyway",
            Effective::default(),
            84,
            false,
            Some(Phase::Failed),
        ),
        (
            "it is silent and not marked in time",
            requeues(),
            50,
            false,
            Some(Phase::Failed),
        ),
        (
            "it is known to be silent",
            requeues(),
            60,
            true,
            Some(Phase::Pending),
        ),
        (
            "it is silent and is waited for anyway",
            Effective::default(),
            60,
            true,
            Some(Phase::Failed),
        ),
    ];
    for (name, effective, heard, silent, judged) in rows {
        let mut model = started(effective);
        model.heard.insert(1, heard);
        model.change(1, |status| status.node_silent = silent);
        model.finish(0, 1);
        model.settle();
        let Some(judged) = judged else {
            assert_eq!(model.phase(), Phase::Running, "{name}");
            let again = model.look().look_again;
            assert_eq!(again, Some(at(heard + 50)), "{name}: it is bounded");
            continue;
        };
        if silent && judged == Phase::Pending {
            let words = "rank 1 on node n1 is not seen any more, and then rank 0 on node n0 failed";
            assert!(model.message().contains(words), "{}", model.message());
            model.change(1, |status| {
                *status = phase::requeue(status, "node n1 was not seen");
            });
        }
        model.running.remove(&1);
        model.settle();
        model.obey();
        assert_eq!(model.phase(), judged, "{name}");
    }
}

#[test]
fn a_failure_is_judged_by_itself_once_the_overdue_node_is_heard_of_or_the_time_is_over() {
    for (now, heard) in [(103, 102), (134, 84)] {
        let mut model = started(requeues());
        model.heard.insert(1, 84);
        model.finish(0, 1);
        model.settle();
        assert_eq!(model.phase(), Phase::Running);
        model.now = now;
        model.heard.insert(1, heard);
        model.settle();
        model.obey();
        assert_eq!(model.phase(), Phase::Failed);
        assert!(model.message().contains("rank 0 on node n0 failed"));
    }
}

#[test]
fn a_failure_is_forgiven_when_the_overdue_node_turns_out_to_be_silent() {
    let mut model = started(requeues());
    model.heard.insert(1, 84);
    model.finish(0, 1);
    model.settle();
    model.now = 125;
    model.change(1, |status| status.node_silent = true);
    model.settle();
    model.running.remove(&1);
    model.change(1, |status| {
        *status = phase::requeue(status, "node n1 was not seen");
    });
    model.settle();
    model.obey();
    assert_eq!((model.generation(), model.phase()), (2, Phase::Pending));
}
