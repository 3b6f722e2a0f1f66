//! Cases of reservations that once went wrong, most of them found by the laws of the file above.

use std::collections::BTreeMap;

use scheduler::{Decision, JobUid, Millis, Node, NodeName, Span};

use super::{LONGEST_GRACE, LONGEST_LIMIT, RESERVE_AFTER, Spec, World, decides_the_same, told};

/// Rows of specs without priorities: after, cores, GPUs, GiB on each, limit, grace, preemptible, members, runs.
type Row = (i64, u64, u32, Option<u64>, Option<i64>, i64, bool, u32, i64);

fn spec_of(priority: i32, row: Row) -> Spec {
    let (after, cpu, gpus, vram, limit, grace, preemptible, members, runs) = row;
    Spec {
        after,
        priority,
        cpu,
        gpus,
        vram,
        limit,
        grace,
        preemptible,
        members,
        runs,
    }
}

#[test]
fn a_gang_has_one_reservation_for_all_of_its_members() {
    let rows = [
        (0, 0, 2, None, Some(576), 16, false, 1, 14),
        (12, 1, 3, Some(20), None, 13, false, 2, 77),
        (2, 3, 0, None, None, 22, false, 1, 75),
        (26, 2, 2, None, Some(51), 10, false, 2, 78),
        (10, 2, 3, None, Some(249), 30, false, 2, 34),
        (4, 1, 0, Some(3), None, 27, false, 3, 12),
        (34, 3, 1, None, None, 10, true, 1, 25),
        (23, 4, 0, None, None, 20, true, 1, 88),
    ];
    let mut world = World::new(&[1, 2, 2]);
    let specs = rows.map(|row| spec_of(0, row));
    let mut gang_held = false;
    for spec in specs {
        let next = world.now.plus(Span::seconds(spec.after));
        while world.now < next {
            world.pass(next);
            world.decide().unwrap();
        }
        world.submit(&spec);
        world.decide().unwrap();
        let mut holders: BTreeMap<_, u32> = BTreeMap::new();
        for (job, _) in world.waiting.values() {
            if let Some(gang) = &job.gang
                && world.cluster.reservation(&job.uid).is_some()
            {
                *holders.entry(gang.id.clone()).or_default() += 1;
            }
        }
        gang_held |= !holders.is_empty();
        assert!(holders.values().all(|count| *count == 1), "{holders:?}");
    }
    assert!(gang_held, "no gang had a reservation");
}

#[test]
fn a_reservation_behind_another_without_an_end_stays_when_something_happens_on_its_node() {
    let wide = |after, gpus, cpu| spec_of(0, (after, cpu, gpus, None, None, 0, false, 1, 100));
    let mut world = World::new(&[1, 1]);
    // Two run, and three wait: the third behind one of the other two.
    for _ in 0..5 {
        world.submit(&wide(0, 1, 0));
        world.decide().unwrap();
    }
    world.pass(Millis(RESERVE_AFTER));
    world.decide().unwrap();
    let last = JobUid::from("job-005");
    let before = world.cluster.reservation(&last).cloned();
    let node = before.as_ref().map(|kept| kept.slots[0].node.clone());
    // More jobs on its node make the other one look better.
    for _ in 0..3 {
        let (mut job, runs) = world.job(&wide(0, 0, 1), None);
        job.requirements.node_name.clone_from(&node);
        world.cluster.upsert_job(job.clone());
        world.waiting.insert(job.uid.clone(), (job, runs));
        world.decide().unwrap();
    }
    assert_eq!(world.running.len(), 5);
    assert_eq!(world.cluster.reservation(&last), before.as_ref());
}

#[test]
fn what_a_nomination_takes_from_a_reservation_is_told_at_once() {
    let mut world = World::new(&[3]);
    world.submit(&spec_of(0, (0, 0, 3, None, Some(500), 10, true, 1, 100)));
    world.decide().unwrap();
    world.submit(&spec_of(0, (0, 0, 3, None, Some(500), 0, false, 1, 100)));
    world.decide().unwrap();
    world.pass(Millis(RESERVE_AFTER));
    world.decide().unwrap();
    let holder = JobUid::from("job-002");
    let promise = world.cluster.reservation(&holder).unwrap().not_later_than;
    assert_eq!(promise, Some(Millis(510_000)));
    // Nothing ends the one that comes before it.
    world.submit(&spec_of(1, (0, 0, 1, None, None, 0, false, 1, 100)));
    let decisions = told(world.cluster.decide(world.now, usize::MAX));
    let [
        Decision::Nominate { .. },
        Decision::Reserve { job, reservation },
    ] = decisions.as_slice()
    else {
        panic!("{decisions:?}");
    };
    assert_eq!(*job, holder);
    assert_eq!(reservation.as_ref().unwrap().not_later_than, None);
}

#[test]
fn when_a_reservation_is_lost_the_next_who_is_entitled_gets_one() {
    let mut world = World::new(&[1, 1]);
    let wide = spec_of(0, (0, 0, 1, None, None, 0, false, 1, 100));
    let submit = |world: &mut World, pin: Option<&str>| {
        let (mut job, runs) = world.job(&wide, None);
        job.requirements.node_name = pin.map(NodeName::from);
        world.cluster.upsert_job(job.clone());
        world.waiting.insert(job.uid.clone(), (job, runs));
        world.decide().unwrap();
    };
    // Two run; five wait, and the first four of them get reservations.
    for pin in [None, None, None, None, None, Some("node-1"), None] {
        submit(&mut world, pin);
    }
    world.pass(Millis(RESERVE_AFTER));
    world.decide().unwrap();
    let last = JobUid::from("job-007");
    assert_eq!(world.cluster.reservation(&last), None);
    let lost = NodeName::from("node-1");
    let node = Node {
        ready: false,
        ..world.nodes[&lost].clone()
    };
    world.cluster.upsert_node(&lost, node);
    world.decide().unwrap();
    assert_eq!(world.cluster.reservation(&"job-006".into()), None);
    assert!(world.cluster.reservation(&last).is_some());
}

#[test]
fn jobs_with_different_rights_see_different_room_beside_the_same_reservations() {
    // The last of them must keep clear of the first holder as the second does, but not of the second.
    let rows = [
        (0, (0, 0, 1, None, Some(142), 15, false, 1, 92)),
        (0, (0, 0, 1, Some(1), Some(246), 25, true, 1, 77)),
        (1, (30, 3, 0, None, None, 10, true, 1, 74)),
        (2, (7, 3, 1, Some(15), None, 11, true, 1, 30)),
        (2, (14, 0, 2, None, None, 10, true, 1, 30)),
    ];
    let mut world = World::new(&[1]);
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    world.run(&specs).unwrap();
}

#[test]
fn who_is_let_in_beside_a_nomination_does_not_count_on_jobs_that_stop_after_it_starts() {
    let rows = [
        (0, (0, 0, 0, None, None, 0, false, 1, 5)),
        (2, (14, 2, 2, Some(5), None, 14, true, 2, 21)),
        (2, (26, 1, 3, None, None, 9, false, 1, 74)),
        (2, (16, 4, 3, Some(8), None, 30, true, 1, 47)),
        (2, (7, 3, 1, Some(5), None, 4, false, 1, 13)),
        (0, (16, 0, 1, Some(9), None, 24, true, 1, 41)),
        (2, (24, 2, 3, None, Some(383), 30, false, 1, 9)),
        (2, (36, 1, 2, Some(23), None, 1, false, 1, 10)),
        (1, (19, 3, 2, Some(6), None, 12, true, 1, 16)),
        (0, (1, 1, 0, None, None, 25, true, 1, 80)),
        (0, (18, 3, 0, Some(15), Some(146), 10, false, 1, 31)),
    ];
    let mut world = World::new(&[1]);
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    world.run(&specs).unwrap();
}

#[test]
fn who_takes_slots_back_in_time_still_counts_on_those_who_leave_by_then() {
    let rows = [
        (0, (0, 0, 2, None, None, 0, false, 1, 73)),
        (2, (11, 4, 1, None, None, 29, true, 1, 70)),
        (2, (13, 1, 2, Some(6), Some(19), 20, true, 3, 95)),
        (2, (32, 3, 3, None, Some(502), 25, false, 3, 31)),
        (2, (5, 1, 2, None, Some(195), 2, false, 1, 41)),
        (1, (30, 1, 2, Some(8), None, 30, true, 1, 71)),
        (2, (29, 2, 1, None, None, 29, false, 1, 27)),
        (1, (21, 1, 1, Some(1), Some(242), 24, false, 1, 4)),
    ];
    let mut world = World::new(&[2, 1]);
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    world.run(&specs).unwrap();
}

#[test]
fn slots_are_taken_back_from_those_who_leave_by_the_promised_time() {
    let rows = [
        (0, (0, 0, 1, None, Some(202), 0, false, 1, 89)),
        (1, (7, 3, 2, Some(23), Some(366), 10, true, 1, 64)),
        (1, (19, 1, 2, None, None, 0, false, 1, 70)),
        (0, (16, 2, 0, None, None, 7, true, 1, 47)),
        (1, (23, 1, 2, Some(1), None, 1, true, 2, 71)),
        (1, (21, 0, 2, Some(4), None, 4, true, 1, 79)),
        (0, (37, 0, 2, None, Some(3), 28, true, 1, 98)),
        (0, (28, 0, 3, Some(2), Some(566), 5, true, 2, 65)),
        (2, (21, 3, 1, Some(21), None, 2, true, 1, 25)),
        (0, (39, 1, 3, Some(1), None, 19, true, 1, 25)),
        (0, (19, 3, 0, Some(14), None, 18, true, 1, 15)),
        (2, (30, 1, 3, Some(22), Some(430), 16, false, 1, 14)),
    ];
    let mut world = World::new(&[2, 1]);
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    world.run(&specs).unwrap();
}

#[test]
fn a_holder_also_takes_back_what_it_needs_beside_those_before_it() {
    let rows = [
        (0, (1, 1, 3, None, None, 25, false, 1, 64)),
        (2, (23, 4, 1, None, None, 5, true, 1, 53)),
        (2, (0, 2, 1, None, None, 19, true, 1, 66)),
        (1, (0, 0, 2, Some(9), None, 7, true, 3, 71)),
        (0, (19, 1, 1, Some(17), Some(535), 12, false, 1, 68)),
        (2, (11, 3, 0, None, Some(306), 14, false, 1, 86)),
        (2, (27, 1, 3, Some(8), None, 19, true, 1, 95)),
        (1, (35, 0, 0, None, None, 28, false, 1, 58)),
        (1, (21, 0, 2, Some(11), None, 17, true, 1, 64)),
        (2, (13, 1, 3, None, Some(361), 16, false, 1, 65)),
        (2, (5, 0, 1, None, None, 28, false, 1, 56)),
        (2, (34, 4, 3, Some(12), Some(135), 21, false, 1, 97)),
        (2, (5, 0, 2, Some(3), Some(218), 17, true, 1, 72)),
    ];
    let mut world = World::new(&[3, 3, 1]);
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    world.run(&specs).unwrap();
}

#[test]
fn a_gang_is_not_nominated_where_it_would_start_later_than_promised() {
    let rows = [
        (0, (0, 1, 1, None, Some(193), 27, false, 1, 53)),
        (1, (0, 4, 0, Some(10), Some(470), 23, false, 1, 55)),
        (2, (30, 4, 2, Some(13), Some(24), 4, true, 1, 41)),
        (2, (38, 2, 0, Some(16), None, 21, true, 3, 24)),
        (1, (25, 1, 1, Some(19), None, 5, true, 1, 20)),
        (1, (25, 1, 0, Some(19), Some(365), 29, true, 1, 94)),
        (2, (3, 1, 0, Some(5), Some(545), 22, true, 1, 59)),
    ];
    let mut world = World::new(&[2, 1]);
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    world.run(&specs).unwrap();
}

#[test]
fn who_is_let_in_beside_a_nomination_counts_on_nobody_who_may_stay_after_all() {
    let rows = [
        (2, (0, 4, 0, None, None, 1, true, 3, 74)),
        (2, (31, 2, 1, Some(7), Some(119), 14, true, 1, 13)),
        (2, (0, 4, 2, None, None, 0, false, 1, 13)),
        (2, (35, 3, 1, None, None, 8, false, 1, 19)),
        (1, (34, 1, 0, None, None, 27, true, 1, 76)),
        (2, (28, 4, 0, Some(6), Some(218), 1, true, 1, 49)),
        (2, (18, 0, 3, None, Some(54), 14, false, 1, 89)),
        (2, (33, 0, 3, None, Some(80), 14, true, 1, 14)),
        (2, (35, 4, 0, Some(23), Some(48), 25, true, 1, 30)),
        (1, (6, 1, 0, None, None, 2, true, 1, 87)),
        (1, (13, 1, 1, None, None, 4, false, 1, 68)),
    ];
    let mut world = World::new(&[2, 2]);
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    world.run(&specs).unwrap();
}

#[test]
fn a_gang_is_not_delayed_by_who_is_let_in_before_its_slots_are_searched_for_again() {
    let rows = [
        (0, 2, 0, None, Some(371), 30, false, 2, 73),
        (24, 3, 2, None, Some(552), 10, false, 1, 36),
        (5, 4, 0, Some(21), Some(190), 10, true, 1, 93),
        (0, 3, 1, Some(8), Some(4), 13, true, 1, 82),
        (25, 3, 0, None, Some(452), 8, true, 1, 8),
        (32, 0, 1, Some(13), Some(220), 16, false, 1, 88),
        (11, 0, 3, None, Some(551), 4, true, 1, 28),
        (3, 4, 3, None, Some(489), 28, false, 1, 3),
        (34, 1, 2, Some(12), Some(557), 11, false, 1, 31),
        (34, 1, 3, Some(23), Some(295), 12, true, 3, 61),
        (11, 1, 0, Some(6), Some(189), 9, false, 1, 75),
        (19, 4, 2, None, Some(218), 2, true, 1, 49),
        (13, 1, 3, None, Some(163), 13, true, 1, 89),
        (38, 4, 3, Some(17), Some(86), 1, true, 1, 24),
        (35, 4, 0, Some(14), Some(167), 21, true, 1, 68),
        (38, 0, 2, None, Some(581), 5, true, 1, 87),
        (7, 0, 2, Some(12), Some(563), 4, true, 1, 86),
        (13, 2, 0, None, Some(479), 17, true, 3, 40),
        (26, 2, 3, Some(22), Some(94), 2, false, 1, 79),
        (20, 0, 2, None, Some(321), 9, false, 1, 36),
    ];
    let mut world = World::new(&[3, 3]);
    world.run(&rows.map(|row| spec_of(0, row))).unwrap();
    let bound = RESERVE_AFTER + LONGEST_LIMIT + LONGEST_GRACE;
    let waited = world.longest_wait_of_the_first;
    assert!(waited <= bound, "{waited}");
}

#[test]
fn nobody_is_nominated_where_those_who_leave_for_others_stay_longer_than_promised() {
    let rows = [
        (2, (0, 2, 2, Some(1), Some(181), 11, false, 1, 61)),
        (1, (32, 0, 2, None, None, 11, false, 1, 39)),
        (1, (20, 2, 2, Some(12), None, 25, true, 1, 43)),
        (1, (35, 1, 0, None, Some(497), 30, false, 1, 38)),
        (0, (29, 4, 0, Some(12), None, 4, true, 1, 21)),
        (0, (20, 3, 2, Some(7), Some(11), 21, false, 3, 66)),
        (2, (17, 4, 3, Some(10), Some(149), 8, false, 3, 52)),
        (2, (38, 4, 1, Some(23), None, 6, false, 1, 85)),
        (1, (29, 0, 1, Some(3), None, 25, true, 1, 42)),
        (0, (0, 0, 2, Some(3), Some(280), 27, true, 1, 85)),
        (1, (37, 0, 3, Some(22), Some(517), 20, false, 2, 30)),
    ];
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    let mut world = World::new(&[3]);
    world.run(&specs).unwrap();
}

#[test]
fn who_comes_after_a_nomination_waits_until_its_victims_have_left() {
    let rows = [
        (0, (0, 1, 3, Some(1), None, 1, false, 1, 83)),
        (2, (9, 2, 2, None, Some(237), 15, false, 1, 39)),
        (2, (38, 0, 1, Some(23), None, 29, false, 1, 88)),
        (0, (37, 4, 0, Some(4), None, 16, false, 1, 99)),
        (1, (33, 2, 0, None, None, 15, true, 1, 40)),
        (0, (14, 2, 3, Some(11), None, 9, true, 1, 33)),
        (1, (14, 0, 1, Some(5), None, 4, true, 1, 90)),
        (1, (27, 0, 3, Some(18), Some(468), 25, true, 1, 44)),
        (1, (33, 2, 3, Some(15), Some(522), 15, false, 1, 95)),
    ];
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    let mut world = World::new(&[3]);
    world.run(&specs).unwrap();
}

#[test]
fn who_must_leave_is_found_out_anew_when_somebody_has_left_early() {
    let rows = [
        (0, (0, 1, 0, None, Some(510), 9, false, 1, 42)),
        (0, (20, 1, 2, None, Some(470), 29, true, 3, 86)),
        (0, (21, 3, 0, Some(18), None, 7, false, 3, 85)),
        (0, (6, 2, 0, Some(18), None, 1, true, 1, 55)),
        (0, (10, 4, 0, None, None, 27, true, 1, 19)),
        (0, (3, 4, 2, None, Some(410), 19, false, 1, 5)),
        (0, (30, 3, 3, None, None, 13, true, 1, 6)),
        (0, (27, 0, 3, None, None, 22, false, 3, 35)),
        (0, (12, 1, 0, Some(1), Some(564), 29, false, 3, 84)),
        (0, (37, 4, 3, Some(3), None, 30, true, 1, 37)),
        (0, (19, 3, 1, None, Some(271), 10, true, 1, 79)),
        (0, (35, 3, 0, None, Some(355), 24, false, 1, 67)),
        (0, (12, 2, 3, Some(15), None, 21, false, 1, 90)),
        (0, (30, 0, 0, None, None, 25, false, 1, 29)),
    ];
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    let [specs @ .., probe] = &specs;
    decides_the_same(&[1, 1, 2], specs, probe).unwrap();
}

#[test]
fn who_must_leave_is_found_out_anew_when_another_reservation_has_moved() {
    let rows = [
        (0, (0, 0, 1, None, None, 0, false, 1, 25)),
        (0, (17, 1, 1, Some(10), None, 6, false, 1, 55)),
        (0, (14, 3, 2, Some(23), None, 23, true, 1, 56)),
        (0, (11, 4, 3, None, Some(195), 30, true, 1, 91)),
        (0, (36, 3, 0, Some(18), None, 1, false, 1, 78)),
        (0, (14, 4, 1, Some(18), None, 6, false, 1, 48)),
        (0, (29, 1, 0, None, Some(133), 21, false, 1, 61)),
        (0, (31, 2, 2, Some(20), None, 22, false, 1, 78)),
        (0, (13, 3, 1, None, Some(363), 1, true, 3, 51)),
        (0, (17, 1, 0, Some(13), None, 11, true, 1, 77)),
        (0, (24, 0, 0, Some(14), Some(564), 5, true, 1, 15)),
        (0, (20, 0, 0, None, None, 30, true, 1, 72)),
        (0, (31, 4, 3, Some(20), Some(66), 8, false, 2, 53)),
        (0, (15, 0, 1, Some(22), Some(118), 30, false, 1, 60)),
        (0, (25, 2, 3, Some(6), Some(255), 24, true, 1, 3)),
        (1, (20, 1, 3, Some(13), None, 25, true, 1, 31)),
    ];
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    let [specs @ .., probe] = &specs;
    decides_the_same(&[1, 1, 1], specs, probe).unwrap();
}
