//! The choice of GPUs against all sets tried one by one.

use super::*;
use crate::input::Bytes;

/// GPUs by `numa`, `switch` and NVLink peers.
fn gpus(parts: &[(u32, u32, &[u32])]) -> Vec<Gpu> {
    (0..)
        .zip(parts)
        .map(|(index, (numa, switch, peers))| Gpu {
            numa: Some(*numa),
            pcie_switch: Some(switch.to_string().into()),
            nvlinks: Some(peers.to_vec()),
            ..Gpu::idle(format!("{index}"), index, Bytes::gib(24))
        })
        .collect()
}

fn choose(gpus: &[Gpu], room: &[(usize, u64)], count: u32, least: Link) -> Option<Vec<usize>> {
    let topology = Topology::of(gpus.iter());
    let mut candidates: Vec<_> = room
        .iter()
        .map(|(at, cost)| Candidate {
            cost: *cost,
            at: *at,
        })
        .collect();
    candidates.sort_by_key(|candidate| (candidate.cost, candidate.at));
    let idle = topology.count(0..gpus.len());
    let chosen = topology.choose(&candidates, count, least, &idle)?;
    let mut picks: Vec<usize> = chosen.picks(&topology, &candidates).collect();
    picks.sort_unstable();
    Some(picks)
}

fn all(count: usize) -> Vec<(usize, u64)> {
    (0..count).map(|at| (at, 0)).collect()
}

#[test]
fn the_numbers_of_a_class_stand_for_any_of_its_gpus() {
    let box_of_8 = gpus(&[
        (0, 0, &[]),
        (0, 0, &[]),
        (0, 1, &[]),
        (0, 1, &[]),
        (1, 2, &[]),
        (1, 2, &[]),
        (1, 3, &[]),
        (1, 3, &[]),
    ]);
    assert_eq!(Topology::of(box_of_8.iter()).classes, 4);
    assert_eq!(choose(&box_of_8, &all(8), 2, Link::Any), Some(vec![0, 1]));
    assert_eq!(
        choose(&box_of_8, &all(8), 4, Link::Any),
        Some(vec![0, 1, 2, 3])
    );
    // One switch has one GPU left: the pair below another is joined better than what is tightest by memory.
    let room = [(0, 0), (2, 0), (4, 9), (5, 9)];
    assert_eq!(choose(&box_of_8, &room, 2, Link::Any), Some(vec![4, 5]));
    assert_eq!(choose(&box_of_8, &room, 3, Link::Numa), None);
}

#[test]
fn one_gpu_is_taken_where_it_breaks_no_pair() {
    let bridged = gpus(&[(0, 0, &[1]), (0, 1, &[0]), (0, 2, &[3]), (0, 3, &[2])]);
    let topology = Topology::of(bridged.iter());
    let candidates: Vec<_> = [1, 2, 3].map(|at| Candidate { cost: 0, at }).into();
    let idle = topology.count([1, 2, 3].into_iter());
    let chosen = topology
        .choose(&candidates, 1, Link::NvLink, &idle)
        .unwrap();
    let picks: Vec<usize> = chosen.picks(&topology, &candidates).collect();
    assert_eq!(picks, [1]);
}

#[test]
fn gpus_are_joined_over_others_of_the_same_set() {
    // A ring: 0-1-2-3-0.
    let ring = gpus(&[
        (0, 0, &[1, 3]),
        (0, 0, &[0, 2]),
        (0, 0, &[1, 3]),
        (0, 0, &[0, 2]),
    ]);
    assert_eq!(
        choose(&ring, &all(4), 4, Link::NvLink),
        Some(vec![0, 1, 2, 3])
    );
    assert_eq!(choose(&ring, &all(4), 3, Link::NvLink), Some(vec![0, 1, 2]));
    assert_eq!(choose(&ring, &[(0, 0), (2, 0)], 2, Link::NvLink), None);
    assert_eq!(
        choose(&ring, &[(0, 0), (2, 0)], 2, Link::PcieSwitch),
        Some(vec![0, 2])
    );
}

/// A small generator of fixed numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

/// The best set by trying all subsets of GPUs one by one.
fn by_force(gpus: &[Gpu], room: &[(usize, u64)], count: u32) -> (Link, u64, u128) {
    let mut best = (Reverse(Link::Any), Reverse(0), u128::MAX);
    for mask in 0_u32..1 << room.len() {
        if mask.count_ones() != count {
            continue;
        }
        let set: Vec<&(usize, u64)> = room
            .iter()
            .enumerate()
            .filter(|(bit, _)| mask & (1 << bit) != 0)
            .map(|(_, room)| room)
            .collect();
        let mut joined = 0;
        for (i, (a, _)) in set.iter().enumerate() {
            for (b, _) in &set[i + 1..] {
                joined += pairs(link(&gpus[*a], &gpus[*b]), 1);
            }
        }
        let connected = |least: Link| {
            let mut reached = vec![set[0].0];
            let mut next = 0;
            while next < reached.len() {
                for (b, _) in &set {
                    if !reached.contains(b) && link(&gpus[reached[next]], &gpus[*b]) >= least {
                        reached.push(*b);
                    }
                }
                next += 1;
            }
            reached.len() == set.len()
        };
        let whole = Link::TIGHTEST_FIRST
            .into_iter()
            .find(|link| connected(*link));
        let cost = set.iter().map(|(_, cost)| u128::from(*cost)).sum();
        best = best.min((Reverse(whole.unwrap()), Reverse(joined), cost));
    }
    (best.0.0, best.1.0, best.2)
}

#[test]
fn the_choice_is_the_best_of_all_sets_whatever_the_wiring() {
    let mut numbers = Numbers(7);
    for round in 0..400 {
        let size = 2 + numbers.below(9);
        let wild = round % 2 == 0;
        let gpus: Vec<Gpu> = (0..size)
            .map(|index| {
                let index = u32::try_from(index).unwrap();
                let peers = (0..u32::try_from(size).unwrap())
                    .filter(|_| wild && numbers.below(4) == 0)
                    .collect();
                Gpu {
                    numa: Some(u32::try_from(numbers.below(2)).unwrap()),
                    pcie_switch: Some(numbers.below(3).to_string().into()),
                    nvlinks: Some(peers),
                    ..Gpu::idle(format!("{index}"), index, Bytes::gib(24))
                }
            })
            .collect();
        let mut room: Vec<(usize, u64)> = Vec::new();
        for at in 0..gpus.len() {
            if numbers.below(5) > 0 {
                room.push((at, numbers.below(3)));
            }
        }
        for count in 2..=u32::try_from(room.len()).unwrap() {
            let picks = choose(&gpus, &room, count, Link::Any).unwrap();
            let chosen: Vec<_> = room
                .iter()
                .filter(|(at, _)| picks.contains(at))
                .copied()
                .collect();
            assert_eq!(
                by_force(&gpus, &chosen, count),
                by_force(&gpus, &room, count),
                "{gpus:?} {room:?} {count}"
            );
        }
    }
}

#[test]
fn sixteen_gpus_of_sixteen_kinds_are_looked_at_in_full() {
    const { assert!(MAX_SETS >= 12_870) }
    // A chain: every GPU is a class of its own.
    let parts: Vec<(u32, u32, Vec<u32>)> = (0..16).map(|at: u32| (0, at, vec![at + 1])).collect();
    let parts: Vec<(u32, u32, &[u32])> = parts.iter().map(|(n, s, p)| (*n, *s, &p[..])).collect();
    let chain = gpus(&parts);
    assert!(Topology::of(chain.iter()).classes >= 14);
    let mut room = all(16);
    for (at, cost) in &mut room {
        *cost = u64::from(*at < 8);
    }
    let tail: Vec<usize> = (8..16).collect();
    assert_eq!(choose(&chain, &room, 8, Link::NvLink), Some(tail));
}
