//! How much GPU memory can still be promised on one device (rules.md section 5).
//!
//! **Guarantees.** A promise counts from the write of the binding, whether or not the memory is allocated yet, so two jobs
//! cannot race for the same bytes. A job that outgrows its declaration is charged for what it was seen with. A process
//! that is no job's is held at its peak until it exits. Unknown use is not zero use.

use crate::input::{Attributed, Bytes, Gpu, JobUid};

/// Room that is never promised, for contexts and fragmentation.
pub const MARGIN: Bytes = Bytes::mib(512);

/// What one job was promised on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The job.
    pub job: JobUid,
    /// Its attempt; 0 while the binding is not confirmed.
    pub attempt: u32,
    /// Declared memory; `None` when it declared none.
    pub declared: Option<Bytes>,
    /// True when the whole device is its own.
    pub whole: bool,
}

/// Memory of a device that jobs can be promised at all.
pub fn capacity(gpu: &Gpu) -> Bytes {
    gpu.memory.saturating_sub(gpu.reserved)
}

/// A tenth more, rounded up: what a peak is held at.
pub fn with_buffer(peak: Bytes) -> Bytes {
    Bytes(u64::try_from((u128::from(peak.0) * 11).div_ceil(10)).unwrap_or(u64::MAX))
}

/// The sizes of a device that declarations are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Memory that jobs can be promised at all.
    pub capacity: Bytes,
    /// The most that a job which shares can be promised.
    pub shareable: Bytes,
    /// The most that names this device's class.
    pub nominal: Bytes,
}

impl Size {
    /// Of a device. Cards report up to a fifteenth less than they are sold as (a 24 GB card with ECC has 22.5 GiB), so 7
    /// percent above the total still mean this card.
    pub fn of(gpu: &Gpu) -> Self {
        let capacity = capacity(gpu);
        Self {
            capacity,
            shareable: capacity.saturating_sub(MARGIN),
            nominal: Bytes(gpu.memory.0.saturating_mul(107) / 100),
        }
    }

    /// True when `declared` names the class of a card rather than a part of it: more than what can be shared of it, and
    /// no more than its nominal size.
    pub fn names_class(&self, declared: Bytes) -> bool {
        declared > self.shareable && declared <= self.nominal
    }

    /// What a job is charged here at least that declared this, or has whole devices.
    pub(crate) fn promised(&self, declared: Option<Bytes>, whole: bool) -> Bytes {
        declared
            .filter(|declared| !whole && !self.names_class(*declared))
            .unwrap_or(self.capacity)
    }

    /// Could an empty device hold that much?
    pub fn could_hold(&self, declared: Bytes) -> bool {
        declared <= self.shareable || self.names_class(declared)
    }
}

/// The most that may still mean this card.
pub(crate) fn nominal(gpu: &Gpu) -> Bytes {
    Size::of(gpu).nominal
}

/// [`Size::names_class`] of a device.
pub fn names_class(declared: Bytes, gpu: &Gpu) -> bool {
    Size::of(gpu).names_class(declared)
}

/// [`Size::could_hold`] of a device.
pub fn could_hold(declared: Bytes, gpu: &Gpu) -> bool {
    Size::of(gpu).could_hold(declared)
}

/// What a promise is charged, given what its job was seen to use. A job that names the card's class is charged all of it.
pub fn charge(promise: &Promise, gpu: &Gpu) -> Bytes {
    let capacity = capacity(gpu);
    match promise.declared {
        Some(declared) if !promise.whole && !names_class(declared, gpu) => {
            let peak = attributed(gpu, promise).map_or(Bytes(0), |use_| use_.peak);
            if peak > declared {
                with_buffer(peak).min(capacity).max(declared)
            } else {
                declared
            }
        }
        _ => capacity,
    }
}

fn attributed<'a>(gpu: &'a Gpu, promise: &Promise) -> Option<&'a Attributed> {
    gpu.attributed.iter().find(|use_| {
        use_.job == promise.job && (promise.attempt == 0 || use_.attempt == promise.attempt)
    })
}

/// What a device has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headroom {
    /// Memory that a job which shares can be promised.
    pub free: Bytes,
    /// True when nobody is on it: a job may have all of it.
    pub idle: bool,
    /// True when no job is on it, nor what one left behind: a job may be alone among jobs on it.
    pub vacant: bool,
}

/// Headroom of a device under these promises.
pub fn headroom(gpu: &Gpu, promises: &[Promise]) -> Headroom {
    if !gpu.healthy {
        return Headroom::default();
    }
    let sum =
        |values: &mut dyn Iterator<Item = Bytes>| values.fold(Bytes(0), Bytes::saturating_add);
    let charged = sum(&mut promises.iter().map(|promise| charge(promise, gpu)));
    let foreign_peaks = sum(&mut gpu.foreign_peaks.iter().copied());
    let foreign_held = sum(&mut gpu.foreign_peaks.iter().map(|peak| with_buffer(*peak)));
    let used_by_jobs = sum(&mut gpu.attributed.iter().map(|use_| use_.used));
    // A foreign process is held at its peak below, but only what it uses now is attributed to it: memory that is nobody's
    // and appears in its trough is not its own.
    let foreign = gpu
        .foreign_used
        .map_or(foreign_peaks, |used| used.min(foreign_peaks));
    let residue = gpu
        .used
        .map(|used| used.saturating_sub(used_by_jobs).saturating_sub(foreign));
    let taken_by_others = foreign_held.saturating_add(residue.unwrap_or_default());
    let vacant = promises.is_empty() && gpu.holders == 0;
    let idle = vacant && taken_by_others <= MARGIN;
    let promised = capacity(gpu)
        .saturating_sub(MARGIN)
        .saturating_sub(charged)
        .saturating_sub(taken_by_others);
    let free = match gpu.used {
        // Nothing is known of what is used, so nothing is shared: only an idle device may be promised, to one job.
        None if !idle => Bytes(0),
        None => promised,
        Some(used) => {
            let unallocated = sum(&mut promises.iter().map(|promise| {
                let used = attributed(gpu, promise).map_or(Bytes(0), |use_| use_.used);
                charge(promise, gpu).saturating_sub(used)
            }));
            let measured = capacity(gpu)
                .saturating_sub(used)
                .saturating_sub(MARGIN)
                .saturating_sub(unallocated);
            promised.min(measured)
        }
    };
    // A process of an ended attempt keeps the device busy, however much memory it shows.
    let free = if gpu.holders > 0 { Bytes(0) } else { free };
    Headroom { free, idle, vacant }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gib(tenths: u64) -> Bytes {
        Bytes(tenths * Bytes::GIB / 10)
    }

    fn card() -> Gpu {
        Gpu::idle("GPU-0", 0, Bytes::gib(24))
    }

    fn promise(job: &str, declared: u64) -> Promise {
        Promise {
            job: job.into(),
            attempt: 1,
            declared: Some(Bytes::gib(declared)),
            whole: false,
        }
    }

    fn uses(job: &str, used: Bytes, peak: Bytes) -> Attributed {
        Attributed {
            job: job.into(),
            attempt: 1,
            used,
            peak,
        }
    }

    #[test]
    fn an_empty_card_has_all_but_the_margin() {
        let room = headroom(&card(), &[]);
        assert_eq!(room.free, gib(235));
        assert!(room.idle);
    }

    #[test]
    fn a_promise_counts_before_it_is_allocated() {
        let room = headroom(&card(), &[promise("a", 10)]);
        assert_eq!(room.free, gib(135));
        assert!(!room.idle);
    }

    #[test]
    fn a_promise_is_not_counted_twice_once_it_is_allocated() {
        let gpu = Gpu {
            used: Some(Bytes::gib(10)),
            attributed: vec![uses("a", Bytes::gib(10), Bytes::gib(10))],
            ..card()
        };
        assert_eq!(headroom(&gpu, &[promise("a", 10)]).free, gib(135));
    }

    #[test]
    fn a_job_that_outgrows_its_declaration_is_charged_its_peak_and_a_tenth() {
        let gpu = Gpu {
            used: Some(Bytes::gib(5)),
            attributed: vec![uses("a", Bytes::gib(5), Bytes::gib(10))],
            ..card()
        };
        assert_eq!(charge(&promise("a", 8), &gpu), Bytes::gib(11));
        assert_eq!(headroom(&gpu, &[promise("a", 8)]).free, gib(125));
        let all = Gpu {
            attributed: vec![uses("a", Bytes::gib(23), Bytes::gib(23))],
            ..card()
        };
        assert_eq!(charge(&promise("a", 8), &all), Bytes::gib(24));
    }

    #[test]
    fn a_foreign_process_is_held_at_its_peak_through_a_trough() {
        let gpu = Gpu {
            used: Some(Bytes::gib(1)),
            foreign_peaks: vec![Bytes::gib(10)],
            ..card()
        };
        let room = headroom(&gpu, &[]);
        assert_eq!(room.free, gib(125));
        assert!(!room.idle);
    }

    #[test]
    fn memory_that_nobody_owns_up_to_is_not_free_in_the_trough_of_a_foreign_process() {
        let with = |foreign_used| Gpu {
            used: Some(Bytes::gib(9)),
            foreign_peaks: vec![Bytes::gib(10)],
            foreign_used,
            ..card()
        };
        // 23.5 less 11 for the process, and less the 8 GiB that it does not account for.
        let room = headroom(&with(Some(Bytes::gib(1))), &[]);
        assert_eq!(room.free, gib(45));
        assert_eq!(headroom(&with(None), &[]).free, gib(125), "not known");
    }

    #[test]
    fn memory_that_nobody_owns_up_to_is_not_free() {
        let gpu = Gpu {
            used: Some(Bytes::gib(6)),
            ..card()
        };
        assert_eq!(headroom(&gpu, &[]).free, gib(175));
        assert!(!headroom(&gpu, &[]).idle);
    }

    #[test]
    fn a_small_display_server_does_not_make_a_card_busy() {
        let gpu = Gpu {
            used: Some(Bytes::mib(300)),
            foreign_peaks: vec![Bytes::mib(200)],
            ..card()
        };
        assert!(headroom(&gpu, &[]).idle);
    }

    #[test]
    fn a_process_of_an_ended_attempt_keeps_the_card_busy() {
        let gpu = Gpu {
            holders: 1,
            ..card()
        };
        assert_eq!(headroom(&gpu, &[]), Headroom::default());
    }

    #[test]
    fn a_card_whose_use_cannot_be_read_is_not_shared() {
        let gpu = Gpu {
            used: None,
            ..card()
        };
        assert_eq!(headroom(&gpu, &[]).free, gib(235));
        assert_eq!(headroom(&gpu, &[promise("a", 1)]).free, Bytes(0));
    }

    #[test]
    fn whole_and_undeclared_promises_are_charged_everything() {
        for (declared, whole) in [(None, false), (Some(Bytes::gib(1)), true), (None, true)] {
            let all = Promise {
                declared,
                whole,
                ..promise("a", 1)
            };
            assert_eq!(charge(&all, &card()), Bytes::gib(24));
            assert_eq!(headroom(&card(), &[all]).free, Bytes(0));
        }
    }

    #[test]
    fn an_unhealthy_card_has_nothing() {
        let gpu = Gpu {
            healthy: false,
            ..card()
        };
        assert_eq!(headroom(&gpu, &[]), Headroom::default());
    }

    #[test]
    fn the_class_of_a_card_is_what_it_is_sold_as() {
        let a10 = Gpu::idle("GPU-0", 0, Bytes::mib(23_028));
        for (declared, class) in [(21, false), (22, true), (24, true), (25, false)] {
            assert_eq!(names_class(Bytes::gib(declared), &a10), class, "{declared}");
        }
        assert!(names_class(Bytes::gib(24), &card()));
        assert!(!could_hold(Bytes::gib(40), &card()));
        assert!(could_hold(Bytes::gib(24), &card()));
    }

    #[test]
    fn the_use_of_another_attempt_is_nobodys() {
        let gpu = Gpu {
            used: Some(Bytes::gib(4)),
            attributed: vec![Attributed {
                attempt: 7,
                ..uses("a", Bytes::gib(4), Bytes::gib(20))
            }],
            ..card()
        };
        assert_eq!(charge(&promise("a", 8), &gpu), Bytes::gib(8));
    }
}
