//! Whose the processes on a device are: an attempt's that runs, one's that ended, or nobody's here. Pure.

use std::collections::BTreeMap;

use crds::node::{AttributedUse, ForeignUse, GpuStatus, Holder};

use super::Roots;
use super::assemble::{DeviceUser, rounded_up};
use crate::attempt::AttemptId;
use crate::shim::tree::Stat;

/// The memory of users of the cards, across readings.
pub(super) struct Tally<'a> {
    pub(super) owners: &'a BTreeMap<(i32, u64), AttemptId>,
    pub(super) peaks: &'a mut BTreeMap<(String, i32, u64), u64>,
    pub(super) attempt_peaks: &'a mut BTreeMap<(String, AttemptId), u64>,
}

/// Attributes the users of a device to attempts that run, to attempts that ended, or to nobody here.
pub(super) fn account(
    tally: Tally<'_>,
    mut card: GpuStatus,
    users: &[DeviceUser],
    processes: &BTreeMap<i32, Stat>,
    roots: &Roots,
) -> GpuStatus {
    let mut used: BTreeMap<AttemptId, u64> = BTreeMap::new();
    for user in users {
        // Gone since the driver was asked, or in another pid namespace: then its memory shows as residue.
        let Some(stat) = processes.get(&user.pid) else {
            continue;
        };
        let pid = u32::try_from(user.pid).unwrap_or(0);
        let key = (user.pid, stat.start_ticks);
        match tally.owners.get(&key) {
            Some(id) if roots.running.contains_key(id) => {
                *used.entry(id.clone()).or_default() += user.bytes.unwrap_or(0);
            }
            Some(id) => card.holders.push(Holder {
                pid,
                job_uid: id.uid.clone(),
                attempt: id.attempt,
            }),
            None => {
                let peak = tally
                    .peaks
                    .entry((card.uuid.clone(), user.pid, stat.start_ticks))
                    .or_default();
                let now = user.bytes.map(rounded_up);
                *peak = (*peak).max(now.unwrap_or_default());
                card.foreign.push(ForeignUse {
                    pid,
                    peak_bytes: *peak,
                    used_bytes: now,
                });
            }
        }
    }
    for (id, bytes) in used {
        let peak = tally
            .attempt_peaks
            .entry((card.uuid.clone(), id.clone()))
            .or_default();
        *peak = (*peak).max(rounded_up(bytes));
        card.attributed.push(AttributedUse {
            job_uid: id.uid,
            attempt: id.attempt,
            used_bytes: rounded_up(bytes),
            peak_bytes: *peak,
        });
    }
    card
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(parent: i32, start_ticks: u64) -> Stat {
        Stat {
            state: b'S',
            parent,
            session: 1,
            start_ticks,
        }
    }

    fn id(uid: &str) -> AttemptId {
        AttemptId {
            uid: uid.to_owned(),
            attempt: 1,
        }
    }

    const GIB: u64 = 1 << 30;

    #[test]
    fn users_are_attributed_to_running_and_ended_attempts_or_to_nobody() {
        let processes = BTreeMap::from([(5, stat(4, 50)), (6, stat(1, 60)), (7, stat(1, 70))]);
        let owners = BTreeMap::from([
            ((5, 50), id("runs")),
            ((6, 60), id("ended")),
            ((7, 1), id("old")),
        ]);
        let roots = Roots {
            running: BTreeMap::from([(id("runs"), 4)]),
        };
        let mut peaks = BTreeMap::from([(("c".to_owned(), 7, 70), 9 * GIB)]);
        let mut attempt_peaks = BTreeMap::new();
        let users: Vec<_> = [(5, 2), (6, 1), (7, 3), (8, 4)]
            .map(|(pid, gib)| DeviceUser {
                pid,
                bytes: Some(gib * GIB - 1),
            })
            .into();
        let card = GpuStatus {
            uuid: "c".to_owned(),
            ..GpuStatus::default()
        };
        let tally = Tally {
            owners: &owners,
            peaks: &mut peaks,
            attempt_peaks: &mut attempt_peaks,
        };
        let card = account(tally, card, &users, &processes, &roots);
        assert_eq!(card.attributed.len(), 1);
        assert_eq!(
            (card.attributed[0].used_bytes, card.attributed[0].peak_bytes),
            (2 * GIB, 2 * GIB)
        );
        assert_eq!(
            card.holders
                .iter()
                .map(|holder| holder.pid)
                .collect::<Vec<_>>(),
            [6]
        );
        // A pid that was reused is nobody's, and is held at the peak that it was seen with.
        assert_eq!(
            card.foreign,
            [ForeignUse {
                pid: 7,
                peak_bytes: 9 * GIB,
                used_bytes: Some(3 * GIB),
            }]
        );
    }
}
