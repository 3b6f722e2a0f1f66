//! Fair share between queues: what each has used lately, by its weight.
//!
//! Use is GPU time, in which cores count as a small part of a GPU. It decays with a half-life. A queue's share is its use and
//! what it holds now for a while ahead ([`Settings::charge_ahead`]), divided by its weight; the queue with the least
//! share goes first within a band.
//!
//! **Exact.** All is integers. Use decays in steps at fixed times (multiples of a 1024th of the half-life), and what is
//! added between two steps is added whole, so that use is a function of what was held when, and not of how often anybody
//! looked; a cluster that is told the use of another ([`Cluster::set_usage`]) orders as that one does.

use crate::cluster::{Cluster, Usage};
use crate::input::{Millis, QueueName, Span};
use crate::settings::Settings;

/// GPU time in thousandths of a GPU times milliseconds, so that a GPU second is 1,000,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuTime(pub u64);

impl GpuTime {
    /// So many seconds of one GPU.
    pub const fn gpu_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// In whole seconds of one GPU.
    pub const fn as_gpu_seconds(self) -> u64 {
        self.0 / 1_000_000
    }
}

/// Steps in a half-life.
const STEPS: i64 = 1024;
/// What a step leaves: 2 to the power of -1/1024, times 2 to the power of 48.
const LEFT: u128 = 281_284_510_335_223;
const LEFT_SHIFT: u32 = 48;
/// Shares are compared in these parts of an amount, so that weights up to 1000 do not lose small differences.
const PARTS: u128 = 1000;

/// What a queue has used, decayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    amount: u64,
    /// The time that `amount` is of; `None` before anything is known.
    as_of: Option<Millis>,
    /// Thousandths of a GPU held since; `None` stands for what is held when that is asked first.
    rate: Option<u64>,
}

impl Account {
    /// The account later on. `held` is what the queue holds, in thousandths of a GPU.
    fn at(self, now: Millis, held: u64, half_life: Span) -> Self {
        let Some(as_of) = self.as_of else {
            return Self {
                as_of: Some(now),
                ..self
            };
        };
        if now <= as_of {
            return self;
        }
        let rate = self.rate.unwrap_or(held);
        let step = (half_life.0 / STEPS).max(1);
        let (mut amount, mut from) = (self.amount, as_of.0);
        loop {
            let boundary = from.div_euclid(step).saturating_add(1).saturating_mul(step);
            if boundary > now.0 {
                break;
            }
            let left = decayed(charged(amount, rate, from, boundary));
            let whole_step = from.rem_euclid(step) == 0;
            from = boundary;
            if whole_step && left == amount {
                // It gains in a step what it loses: so it does in all that follow.
                from = now.0.div_euclid(step).saturating_mul(step);
            }
            amount = left;
        }
        Self {
            amount: charged(amount, rate, from, now.0),
            as_of: Some(now),
            rate: self.rate,
        }
    }
}

/// What is used after holding so much for so long.
fn charged(amount: u64, rate: u64, from: i64, until: i64) -> u64 {
    let span = u64::try_from(until.saturating_sub(from)).unwrap_or(0);
    amount.saturating_add(rate.saturating_mul(span))
}

fn decayed(amount: u64) -> u64 {
    u64::try_from((u128::from(amount) * LEFT) >> LEFT_SHIFT).unwrap_or(u64::MAX)
}

impl Settings {
    fn decay(&self) -> Option<Span> {
        self.half_life.filter(|span| span.0 > 0)
    }

    /// Thousandths of a GPU that a use counts as.
    fn held(&self, used: &Usage) -> u64 {
        let cores = used.cpu.0.saturating_mul(u64::from(self.core_share)) / 1000;
        used.gpus.saturating_mul(1000).saturating_add(cores)
    }
}

impl Cluster {
    /// Says what a queue had used at a time, as [`Cluster::usage`] told it; for a cluster that starts anew. What the queue
    /// holds is taken to have been held since then.
    pub fn set_usage(&mut self, queue: &QueueName, used: GpuTime, as_of: Millis) {
        self.queues.entry(queue.clone()).or_default().account = Account {
            amount: used.0,
            as_of: Some(as_of),
            rate: None,
        };
    }

    /// What a queue has used until now, decayed. Nothing is counted before the first decision or [`Cluster::set_usage`].
    pub fn usage(&self, queue: &QueueName, now: Millis) -> GpuTime {
        let (Some(entry), Some(half_life)) = (self.queues.get(queue), self.settings.decay()) else {
            return GpuTime(0);
        };
        let held = self.settings.held(&entry.used);
        GpuTime(entry.account.at(now, held, half_life).amount)
    }

    /// A queue's share: less goes first.
    pub(crate) fn share(&self, queue: &QueueName, now: Millis) -> u64 {
        let (Some(entry), Some(half_life)) = (self.queues.get(queue), self.settings.decay()) else {
            return 0;
        };
        let held = self.settings.held(&entry.used);
        let account = entry.account.at(now, held, half_life);
        let ahead = u64::try_from(self.settings.charge_ahead.0).unwrap_or(0);
        let total = u128::from(account.amount) + u128::from(held) * u128::from(ahead);
        let share = total * PARTS / u128::from(entry.state.weight.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Counts what was held since the last call at the rates that were current then.
    pub(crate) fn accrue(&mut self, now: Millis) {
        let Some(half_life) = self.settings.decay() else {
            return;
        };
        for entry in self.queues.values_mut() {
            let held = self.settings.held(&entry.used);
            entry.account = entry.account.at(now, held, half_life);
        }
    }

    /// From now on queues are charged for what they hold now.
    pub(crate) fn set_rates(&mut self) {
        for entry in self.queues.values_mut() {
            entry.account.rate = Some(self.settings.held(&entry.used));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HALF_LIFE: Span = Span::seconds(7 * 24 * 3600);

    fn account(amount: u64, rate: u64) -> Account {
        Account {
            amount,
            as_of: Some(Millis(0)),
            rate: Some(rate),
        }
    }

    #[test]
    fn use_halves_in_a_half_life() {
        let after = |lives: i64| {
            let end = Millis(HALF_LIFE.0 * lives);
            account(1 << 40, 0).at(end, 0, HALF_LIFE).amount
        };
        let near = |amount: u64, wanted: u64| amount.abs_diff(wanted) < wanted / 1000;
        assert!(near(after(1), 1 << 39), "{}", after(1));
        assert!(near(after(2), 1 << 38), "{}", after(2));
        assert_eq!(after(1000), 0);
    }

    #[test]
    fn what_is_held_for_ever_comes_to_rest_at_a_half_life_by_the_logarithm_of_two() {
        let end = Millis(HALF_LIFE.0 * 100_000);
        let amount = account(0, 1000).at(end, 0, HALF_LIFE).amount;
        let limit = u64::try_from(HALF_LIFE.0).unwrap_or(0) * 1443;
        assert!(amount.abs_diff(limit) < limit / 500, "{amount} of {limit}");
    }

    #[test]
    fn a_clock_that_goes_back_changes_nothing() {
        let before = account(5, 1000);
        assert_eq!(before.at(Millis(-10), 7, HALF_LIFE), before);
    }

    proptest! {
        #[test]
        fn looking_on_the_way_changes_nothing(
            start in -5_000_000_i64..5_000_000, amount in any::<u32>(), rate in 0..100_000_u64,
            way in 0..100_000_000_i64, rest in 0..100_000_000_i64, life in 1..10_000_000_i64,
        ) {
            let from = Account { amount: u64::from(amount), as_of: Some(Millis(start)), rate: Some(rate) };
            let middle = from.at(Millis(start + way), 0, Span(life));
            let end = Millis(start + way + rest);
            prop_assert_eq!(middle.at(end, 0, Span(life)), from.at(end, 0, Span(life)));
        }
    }
}
