//! Is there still room on the cards of a binding, by what was just read of them? The last look before a claim.
//!
//! Placement goes by what the Node said last, which may be seconds old, and a process that is no job's asks nobody. The
//! rule is placement's (rules.md section 5): what the jobs here were promised and have not taken yet counts, foreign
//! processes count with their peak, and a job that declared nothing wants its cards idle. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crds::node::{ForeignUse, GpuStatus};

use crate::attempt::{AttemptId, Charge};

/// Memory of a card that is never promised (rules.md section 5).
const MARGIN: u64 = 512 << 20;
/// Foreign processes that are named.
const MOST_NAMED: usize = 4;
const GIB: f64 = 1_073_741_824.0;

/// Why the cards have no room for a binding, if they have not: the first that has none, with what it needs, what is free
/// and who holds the rest. `held` is what the other jobs here were promised.
pub(super) fn lack(
    cards: &[GpuStatus],
    held: &BTreeMap<AttemptId, Charge>,
    wanted: &Charge,
) -> Option<String> {
    let mut bound = wanted.gpus.iter();
    bound.find_map(|uuid| {
        let card = cards.iter().find(|card| card.uuid == *uuid)?;
        let on_it = held.iter().filter(|(_, charge)| charge.gpus.contains(uuid));
        let room = Room::of(card, on_it)?;
        (!room.takes(card, wanted)).then(|| room.explain(card, wanted))
    })
}

/// What is left of a card.
struct Room {
    free: u64,
    idle: bool,
}

impl Room {
    /// Nothing is known of a card whose use could not be read.
    fn of<'a>(
        card: &GpuStatus,
        held: impl Iterator<Item = (&'a AttemptId, &'a Charge)>,
    ) -> Option<Self> {
        let used = card.used_bytes?;
        let (mut promised, mut untaken, mut vacant) = (0_u64, 0_u64, card.holders.is_empty());
        for (id, charge) in held {
            let own = card.attributed.iter();
            let own = own.filter(|one| one.job_uid == id.uid && one.attempt == id.attempt);
            let (taken, peak) = own.fold((0, 0), |(taken, peak), one| {
                (one.used_bytes.max(taken), one.peak_bytes.max(peak))
            });
            let charged = charged(card, charge, peak);
            promised = promised.saturating_add(charged);
            untaken = untaken.saturating_add(charged.saturating_sub(taken));
            vacant = false;
        }
        let by_jobs = sum(card.attributed.iter().map(|one| one.used_bytes));
        // Held at its peak, but only what it uses now is its own: what else appears in its trough is nobody's.
        let now = |one: &ForeignUse| {
            one.used_bytes
                .map_or(one.peak_bytes, |now| now.min(one.peak_bytes))
        };
        let foreign = sum(card.foreign.iter().map(now));
        let residue = used.saturating_sub(by_jobs).saturating_sub(foreign);
        let others = sum(card.foreign.iter().map(|one| with_buffer(one.peak_bytes)));
        let others = others.saturating_add(residue);
        let left = |taken: &[u64]| {
            let taken = sum(taken.iter().copied()).saturating_add(MARGIN);
            capacity(card).saturating_sub(taken)
        };
        let free = left(&[promised, others]).min(left(&[used, untaken]));
        Some(Self {
            free: if card.holders.is_empty() { free } else { 0 },
            idle: vacant && others <= MARGIN,
        })
    }

    fn takes(&self, card: &GpuStatus, wanted: &Charge) -> bool {
        match wanted.vram_bytes {
            None => self.idle,
            // Whoever names the class of a card, or all of it, fits an idle one.
            Some(bytes) => bytes <= self.free || (self.idle && bytes <= nominal(card)),
        }
    }

    fn explain(&self, card: &GpuStatus, wanted: &Charge) -> String {
        let mut text = match wanted.vram_bytes {
            None => format!("GPU {} is to be idle and is not", card.index),
            Some(bytes) => format!(
                "GPU {} has {:.1} of {:.1} GiB free",
                card.index,
                in_gib(self.free),
                in_gib(bytes)
            ),
        };
        let mut holders: Vec<String> = Vec::new();
        for one in card.foreign.iter().take(MOST_NAMED) {
            let held = in_gib(one.peak_bytes);
            holders.push(format!("process {} of no job ({held:.1} GiB)", one.pid));
        }
        if let Some(more) = card.foreign.len().checked_sub(MOST_NAMED + 1) {
            holders.push(format!("{} more of no job", more + 1));
        }
        for one in card.holders.iter().take(MOST_NAMED) {
            holders.push(format!("process {} of an ended attempt", one.pid));
        }
        if !holders.is_empty() {
            let _ = write!(text, "; it is held by {}", holders.join(", "));
        }
        text
    }
}

fn in_gib(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let bytes = bytes as f64;
    bytes / GIB
}

fn sum(amounts: impl Iterator<Item = u64>) -> u64 {
    amounts.fold(0, u64::saturating_add)
}

fn capacity(card: &GpuStatus) -> u64 {
    card.memory_bytes.saturating_sub(card.reserved_bytes)
}

/// The most that names this card's class: cards report a little less than they are sold as.
fn nominal(card: &GpuStatus) -> u64 {
    card.memory_bytes.saturating_mul(107) / 100
}

/// A tenth more, rounded up: what a peak is held at.
fn with_buffer(peak: u64) -> u64 {
    u64::try_from((u128::from(peak) * 11).div_ceil(10)).unwrap_or(u64::MAX)
}

/// What a job that holds a card is charged of it, given its peak there.
fn charged(card: &GpuStatus, charge: &Charge, peak: u64) -> u64 {
    let capacity = capacity(card);
    match charge.vram_bytes.filter(|_| !charge.whole_gpus) {
        Some(declared) if declared <= capacity.saturating_sub(MARGIN) => {
            if peak > declared {
                with_buffer(peak).min(capacity).max(declared)
            } else {
                declared
            }
        }
        _ => capacity,
    }
}

#[cfg(test)]
mod tests {
    use crds::node::{AttributedUse, Holder};

    use super::*;

    const ONE: u64 = 1 << 30;

    fn card(used_gib: u64) -> GpuStatus {
        GpuStatus {
            uuid: "GPU-0".to_owned(),
            memory_bytes: 24 * ONE,
            used_bytes: Some(used_gib * ONE),
            ..GpuStatus::default()
        }
    }

    fn charge(gib: Option<u64>) -> Charge {
        Charge {
            gpus: vec!["GPU-0".to_owned()],
            vram_bytes: gib.map(|gib| gib * ONE),
            whole_gpus: gib.is_none(),
            ..Charge::default()
        }
    }

    fn foreign(gib: u64) -> ForeignUse {
        ForeignUse {
            pid: 4711,
            peak_bytes: gib * ONE,
            used_bytes: None,
        }
    }

    fn neighbour() -> AttemptId {
        AttemptId {
            uid: "n".to_owned(),
            attempt: 1,
        }
    }

    #[test]
    fn a_card_is_judged_by_what_is_on_it_now() {
        let own = |used: u64| AttributedUse {
            job_uid: "n".to_owned(),
            attempt: 1,
            used_bytes: used * ONE,
            peak_bytes: used * ONE,
        };
        let with = |used, foreign: Vec<ForeignUse>, attributed: Vec<AttributedUse>| GpuStatus {
            foreign,
            attributed,
            ..card(used)
        };
        let ten = Some(charge(Some(10)));
        // What is there, what a neighbour was promised, what is wanted, and whether there is room.
        let rows = [
            ("empty", card(0), None, Some(20), true),
            ("its class", card(0), None, Some(24), true),
            ("more than its class", card(0), None, Some(26), false),
            ("whole", card(0), None, None, true),
            ("used by nobody known", card(5), None, Some(19), false),
            ("and yet enough", card(5), None, Some(18), true),
            ("not idle", card(1), None, None, false),
            ("its class, not idle", card(1), None, Some(24), false),
            (
                "a foreign peak",
                with(1, vec![foreign(10)], vec![]),
                None,
                Some(13),
                false,
            ),
            (
                "beside it",
                with(1, vec![foreign(10)], vec![]),
                None,
                Some(12),
                true,
            ),
            (
                "promised and not taken",
                card(0),
                ten.clone(),
                Some(14),
                false,
            ),
            ("beside the promise", card(0), ten.clone(), Some(13), true),
            (
                "promised and taken",
                with(10, vec![], vec![own(10)]),
                ten.clone(),
                Some(13),
                true,
            ),
            (
                "more taken than promised",
                with(20, vec![], vec![own(20)]),
                ten,
                Some(3),
                false,
            ),
        ];
        for (name, card, held, wanted, fits) in rows {
            let held = held
                .map(|charge| (neighbour(), charge))
                .into_iter()
                .collect();
            let lack = lack(std::slice::from_ref(&card), &held, &charge(wanted));
            assert_eq!(lack.is_none(), fits, "{name}: {lack:?}");
        }
    }

    #[test]
    fn who_is_in_the_way_is_named_with_numbers() {
        let mut card = card(20);
        card.foreign = vec![foreign(20)];
        let none = BTreeMap::new();
        assert_eq!(
            lack(std::slice::from_ref(&card), &none, &charge(Some(10))).as_deref(),
            Some("GPU 0 has 1.5 of 10.0 GiB free; it is held by process 4711 of no job (20.0 GiB)")
        );
        card.foreign.clear();
        card.used_bytes = Some(0);
        card.holders = vec![Holder {
            pid: 7,
            ..Holder::default()
        }];
        assert_eq!(
            lack(&[card], &none, &charge(None)).as_deref(),
            Some("GPU 0 is to be idle and is not; it is held by process 7 of an ended attempt")
        );
    }

    #[test]
    fn what_cannot_be_read_refuses_nobody() {
        let unread = GpuStatus {
            used_bytes: None,
            ..card(0)
        };
        assert_eq!(lack(&[unread], &BTreeMap::new(), &charge(None)), None);
        assert_eq!(lack(&[], &BTreeMap::new(), &charge(Some(1))), None);
    }
}
