//! Who has come before a holder in the order since those it keeps out were tried last.
//!
//! Age and the shares of queues move jobs in the order while nothing happens to them. Who comes before a holder by that may
//! have what is kept for it, and must be tried before anybody after it is placed.
//!
//! In a lane those who come before a holder are the first by place, up to a front that is a matter of arithmetic. So fronts
//! are compared with what they were, and jobs are looked for only where one has advanced.
//!
//! **Cost.** Nothing while nothing is kept. Otherwise every decision compares a front for each holder and each lane that has
//! jobs waiting for nodes, and every binding those of the lanes whose queues have another share.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::input::{JobUid, Millis, NodeName, QueueName, Span};
use crate::order::{Key, Place};
use crate::pending::{Blocked, Lane};
use crate::reserve::Hold;
use crate::settings::Settings;

/// How long those that are kept out may go untried when nothing happens at all.
const REORDER_AFTER: Span = Span::seconds(60);

/// For each lane with jobs that wait for nodes, the first place that does not come before the holder.
pub(crate) type Fronts = BTreeMap<Lane, Place>;

impl Settings {
    /// Jobs of a priority that were queued before this time, in microseconds, are of a band or a higher one now.
    fn queued_before(&self, priority: i32, band: i64, now: Millis) -> i64 {
        let more = band - i64::from(priority);
        if more <= 0 {
            return i64::MAX;
        }
        let Some(span) = self.aging.filter(|span| span.0 > 0) else {
            return i64::MIN;
        };
        if more > i64::from(self.aging_cap.max(0)) {
            return i64::MIN;
        }
        // The enqueue time counts in whole milliseconds.
        let waited = more.saturating_mul(span.0);
        let last = now.0.saturating_sub(waited);
        last.saturating_add(1).saturating_mul(1000)
    }

    /// The first place of a lane whose queue has that share that does not come before a key.
    pub(crate) fn front(&self, priority: i32, share: u64, before: &Key, now: Millis) -> Place {
        let band = i64::from(before.band.0);
        let at = |enqueued_micros| Place {
            enqueued_micros,
            uid: JobUid::from(""),
        };
        let above = at(self.queued_before(priority, band + 1, now));
        let equal = at(self.queued_before(priority, band, now));
        match share.cmp(&before.share) {
            Ordering::Less => above.max(equal),
            Ordering::Equal => above.max(equal.min(before.place.clone())),
            Ordering::Greater => above,
        }
    }
}

impl Cluster {
    /// Does anything but events move jobs in the order?
    fn order_moves(&self) -> bool {
        self.settings.aging.is_some() || self.settings.half_life.is_some()
    }

    /// Lets those be tried again who have come before a holder that keeps them out. True when there are any. With `by_share`
    /// only the shares of queues are others than when that was done last.
    pub(crate) fn try_overtakers(&mut self, by_share: bool, now: Millis) -> bool {
        if self.holds.is_empty() || !self.order_moves() {
            return false;
        }
        let shares: BTreeMap<&QueueName, u64> = self
            .pending
            .by_nodes
            .keys()
            .map(|(queue, _)| (queue, self.share(queue, now)))
            .collect();
        let mut moved: Vec<(JobUid, Fronts)> = Vec::new();
        let mut open: Vec<NodeName> = Vec::new();
        for (uid, hold) in self.holds.all() {
            let Some(holder) = self.waiting_job(uid) else {
                continue;
            };
            let key = self.key_of_job(holder, now);
            let lanes = self.pending.by_nodes.keys();
            let concerned = lanes.filter(|(queue, _)| !by_share || *queue != holder.queue);
            let mut fronts = Fronts::new();
            let mut advanced: Vec<(&Lane, Option<&Place>)> = Vec::new();
            for lane in concerned {
                let share = shares.get(&lane.0).copied().unwrap_or_default();
                let front = self.settings.front(lane.1, share, &key, now);
                let before = hold.fronts.get(lane);
                if before == Some(&front) {
                    continue;
                }
                if before.is_none_or(|before| *before < front) {
                    advanced.push((lane, before));
                }
                fronts.insert(lane.clone(), front);
            }
            if fronts.is_empty() {
                continue;
            }
            let overtakes = |(lane, from): (&Lane, Option<&Place>)| {
                self.is_anyone_up_to(lane, from, &fronts[lane], hold)
            };
            if advanced.into_iter().any(overtakes) {
                open.extend(hold.nodes().into_iter().cloned());
            }
            moved.push((uid.clone(), fronts));
        }
        for (uid, fronts) in moved {
            if let Some(hold) = self.holds.of_mut(&uid) {
                hold.fronts.extend(fronts);
            }
        }
        for node in &open {
            self.node_freed(node);
        }
        !open.is_empty()
    }

    /// Does anybody of a lane, from a place on and before another, wait for nodes who may fit where a hold is?
    fn is_anyone_up_to(
        &self,
        lane: &Lane,
        from: Option<&Place>,
        before: &Place,
        hold: &Hold,
    ) -> bool {
        let classes = self.pending.by_nodes.get(lane);
        let first = classes.and_then(|classes| classes.first());
        if first.is_none_or(|(first, _)| first >= before) {
            return false;
        }
        let names = hold.nodes().into_iter().cloned().collect();
        let there = self.fleet.freed(&names);
        let shelves = self.pending.shelves.iter();
        let mut of_lane =
            shelves.filter(|(key, _)| key.blocked == Blocked::ByNodes && key.lane == *lane);
        of_lane.any(|(key, shelf)| {
            let admits = |asked: &_| self.fleet.any_admits(&there, &key.needs, asked);
            // A place that is no job's stands before all that come after it.
            let found = shelf.next(from, admits);
            found.is_some_and(|(place, _)| place < *before)
        })
    }

    /// When to look again for those who have come before a holder, although nothing happened.
    pub(crate) fn next_overtaking(&self) -> Option<Millis> {
        if self.holds.is_empty() || !self.order_moves() {
            return None;
        }
        let names = self.holds.nodes().cloned().collect();
        let there = self.fleet.freed(&names);
        let mut shelves = self.pending.shelves.iter();
        let is_kept_out = shelves.any(|(key, shelf)| {
            let admits = |asked: &_| self.fleet.any_admits(&there, &key.needs, asked);
            key.blocked == Blocked::ByNodes && shelf.next(None, admits).is_some()
        });
        is_kept_out.then(|| self.now.plus(REORDER_AFTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;

    proptest! {
        #[test]
        fn a_front_parts_those_before_a_key_from_the_rest(
            aging in proptest::option::of(1..20_i64), cap in 0..4_i32, now in 0..100_i64,
            (priority, band, share, other) in (-2..3_i32, -2..6_i32, 0..2_u64, 0..2_u64),
            (enqueued, at) in (0..100_000_i64, 0..100_000_i64),
        ) {
            let settings = Settings { aging: aging.map(Span), aging_cap: cap, ..Settings::default() };
            let now = Millis(now);
            let key = Key { band: Reverse(band), share, place: Place { enqueued_micros: at, uid: "k".into() } };
            let place = Place { enqueued_micros: enqueued, uid: "j".into() };
            let own = Key { band: Reverse(settings.band(priority, enqueued, now)), share: other, place: place.clone() };
            prop_assert_eq!(place < settings.front(priority, other, &key, now), own < key);
        }
    }
}
