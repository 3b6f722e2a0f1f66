//! Classes that wait, in order, with what the least of them needs: who could use what was freed is found without a look at
//! everybody.
//!
//! A shelf keeps classes that differ in amounts only, in short runs of neighbours. Each run knows the least amounts in it, so
//! that a look for the next class that may fit passes over runs of which none can.

use crate::input::{Bytes, GpuRequest, MilliCpu, Requirements};
use crate::order::Place;
use crate::pending::ClassId;

/// Most classes in a run.
const RUN: usize = 128;

/// The amounts that a class asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) cpu: MilliCpu,
    pub(crate) memory: Bytes,
    /// Memory on each GPU.
    pub(crate) vram: Bytes,
}

impl Amounts {
    pub(crate) fn of(needs: &Requirements) -> Self {
        Self {
            cpu: needs.cpu,
            memory: needs.memory,
            vram: match needs.gpus {
                GpuRequest::Vram { bytes, .. } => bytes,
                GpuRequest::None | GpuRequest::Whole(_) => Bytes(0),
            },
        }
    }

    fn least(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.min(other.cpu),
            memory: self.memory.min(other.memory),
            vram: self.vram.min(other.vram),
        }
    }
}

/// What a class needs besides amounts: classes with the same are on one shelf.
pub(crate) fn without_amounts(needs: &Requirements) -> Requirements {
    Requirements {
        cpu: MilliCpu(0),
        memory: Bytes(0),
        gpus: with_vram(needs.gpus, Bytes(0)),
        ..needs.clone()
    }
}

/// The same request for so much memory on each GPU.
pub(crate) fn with_vram(request: GpuRequest, bytes: Bytes) -> GpuRequest {
    match request {
        GpuRequest::Vram { count, .. } => GpuRequest::Vram { count, bytes },
        GpuRequest::None | GpuRequest::Whole(_) => request,
    }
}

#[derive(Clone, Debug)]
struct Slot {
    place: Place,
    id: ClassId,
    amounts: Amounts,
}

#[derive(Clone, Debug)]
struct Run {
    slots: Vec<Slot>,
    least: Amounts,
}

impl Run {
    fn of(slots: Vec<Slot>) -> Option<Self> {
        let amounts = slots.iter().map(|slot| slot.amounts);
        let least = amounts.reduce(Amounts::least)?;
        Some(Self { slots, least })
    }
}

/// Classes in order, by the place of their first job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf {
    runs: Vec<Run>,
}

impl Shelf {
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The run that a place is in or would go to.
    fn run_of(&self, place: &Place) -> usize {
        let after = self
            .runs
            .partition_point(|run| run.slots.first().is_some_and(|slot| slot.place <= *place));
        after.saturating_sub(1)
    }

    pub(crate) fn insert(&mut self, place: Place, id: ClassId, amounts: Amounts) {
        let at = self.run_of(&place);
        let slot = Slot { place, id, amounts };
        let Some(run) = self.runs.get_mut(at) else {
            self.runs.extend(Run::of(vec![slot]));
            return;
        };
        let within = run.slots.partition_point(|one| one.place < slot.place);
        run.least = run.least.least(amounts);
        run.slots.insert(within, slot);
        if run.slots.len() > RUN {
            let rest = run.slots.split_off(RUN / 2);
            let first = std::mem::take(&mut run.slots);
            let halves = [first, rest].into_iter().filter_map(Run::of);
            self.runs.splice(at..=at, halves);
        }
    }

    pub(crate) fn remove(&mut self, place: &Place) {
        let at = self.run_of(place);
        let Some(run) = self.runs.get_mut(at) else {
            return;
        };
        if let Ok(within) = run.slots.binary_search_by(|slot| slot.place.cmp(place)) {
            run.slots.remove(within);
            match Run::of(std::mem::take(&mut run.slots)) {
                Some(rest) => *run = rest,
                None => {
                    self.runs.remove(at);
                }
            }
        }
    }

    /// The first class behind a place that may fit. `fits` must say yes to less of everything when it does to more.
    pub(crate) fn next(
        &self,
        after: Option<&Place>,
        fits: impl Fn(&Amounts) -> bool,
    ) -> Option<(Place, ClassId)> {
        let from = after.map_or(0, |place| self.run_of(place));
        for run in &self.runs[from.min(self.runs.len())..] {
            if !fits(&run.least) {
                continue;
            }
            let behind = run
                .slots
                .iter()
                .filter(|slot| after.is_none_or(|place| slot.place > *place));
            if let Some(slot) = behind.into_iter().find(|slot| fits(&slot.amounts)) {
                return Some((slot.place.clone(), slot.id));
            }
        }
        None
    }

    /// All classes, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Place, ClassId)> {
        let slots = self.runs.iter().flat_map(|run| &run.slots);
        slots.map(|slot| (&slot.place, slot.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(at: i64) -> Place {
        Place {
            enqueued_micros: at,
            uid: "x".into(),
        }
    }

    fn amounts((cpu, vram): (u64, u64)) -> Amounts {
        Amounts {
            cpu: MilliCpu(cpu),
            memory: Bytes(0),
            vram: Bytes(vram),
        }
    }

    proptest! {
        #[test]
        fn a_shelf_finds_what_a_look_at_every_class_finds(
            classes in proptest::collection::btree_map(0..2000_i64, (0..50_u64, 0..50_u64), 0..900),
            gone in proptest::collection::vec(0..2000_i64, 0..300),
            after in proptest::option::of(0..2000_i64), room in (0..50_u64, 0..50_u64),
        ) {
            let mut shelf = Shelf::default();
            let mut left = classes.clone();
            for (at, asked) in classes.iter().rev() {
                shelf.insert(place(*at), at.unsigned_abs(), amounts(*asked));
            }
            for at in gone {
                shelf.remove(&place(at));
                left.remove(&at);
            }
            let fits = |asked: &Amounts| asked.cpu.0 <= room.0 && asked.vram.0 <= room.1;
            let found = shelf.next(after.map(place).as_ref(), fits);
            let mut behind = left.iter().filter(|(at, _)| after.is_none_or(|after| **at > after));
            let wanted = behind.find(|(_, asked)| asked.0 <= room.0 && asked.1 <= room.1);
            prop_assert_eq!(found.map(|(place, _)| place.enqueued_micros), wanted.map(|(at, _)| *at));
            prop_assert_eq!(shelf.is_empty(), left.is_empty());
            prop_assert_eq!(shelf.iter().count(), left.len());
        }
    }
}
