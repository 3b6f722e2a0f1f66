//! The waiting jobs, grouped into classes of jobs of one queue and priority that need and allow the same.
//!
//! Every class is in one list: of those that are due for a try on everything, or of those that were tried and wait for
//! nodes or for their queue. Classes with jobs that are to be told why they wait are listed beside, and so are those that
//! nodes keep waiting, those that may have a reservation and those that are to be planned for. Every list is in order, so
//! that nothing has to be sorted when something happens, and the first few are found without a look at the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::explain::Explanation;
use crate::input::{Gang, Job, Millis, NodeName, QueueName, Requirements, Terms};
use crate::order::Place;
use crate::reason::ReasonClass;
use crate::shelf::{Amounts, Shelf, without_amounts};

/// What jobs of one class have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClassKey {
    pub(crate) queue: QueueName,
    /// Declared; jobs of one class therefore age alike.
    pub(crate) priority: i32,
    /// What others may do to them decides where they may be placed beside reservations.
    pub(crate) terms: Terms,
    pub(crate) requirements: Requirements,
    /// A gang is a class of its own.
    pub(crate) gang: Option<Gang>,
}

impl ClassKey {
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            queue: job.queue.clone(),
            priority: job.priority,
            terms: job.terms,
            requirements: job.requirements.clone(),
            gang: job.gang.clone(),
        }
    }
}

/// Identity of a class for as long as it has jobs.
pub(crate) type ClassId = u64;

/// Waiting jobs that are tried together.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    pub(crate) key: Arc<ClassKey>,
    /// Its jobs in order.
    pub(crate) jobs: BTreeSet<Place>,
    /// Those that were not told yet why they wait.
    pub(crate) untold: BTreeSet<Place>,
    /// Set when the class was tried and did not fit; cleared when it must be tried on everything again.
    pub(crate) blocked: Option<Blocked>,
    /// Since when nodes have kept it waiting, without a job of it being placed.
    pub(crate) waits_since: Option<Millis>,
    /// May it have a reservation?
    pub(crate) claim: Claim,
    /// Is it to be planned for, because it was tried without success since it was the last time?
    pub(crate) unplanned: bool,
    /// The change of [`Room`](crate::nominate::Room) after which it was planned for last.
    pub(crate) planned: Option<u64>,
    /// The class of the reason that the told jobs know, and the node that it is judged by.
    pub(crate) reason: Option<Known>,
    /// The reason in full, and the state of the cluster that it is true of.
    pub(crate) why: Option<(u64, Arc<Explanation>)>,
    /// The event after which its reason was judged last.
    pub(crate) judged: u64,
    /// The shape of the fleet that was last found to have a node which could ever run it.
    pub(crate) possible: Option<u64>,
    shelf: Arc<Requirements>,
}

impl Class {
    pub(crate) fn lane(&self) -> Lane {
        (self.key.queue.clone(), self.key.priority)
    }
}

/// Has a class waited long enough to have a reservation?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Not yet.
    #[default]
    None,
    /// It has.
    Open,
    /// It has, but there were no slots for it lately.
    Hopeless,
}

/// A reason that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its class.
    pub(crate) class: ReasonClass,
    /// The node nearest to a fit, for reasons of nodes.
    pub(crate) judged_by: Option<NodeName>,
}

/// What a class that was tried waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Blocked {
    /// No node took it.
    ByNodes,
    /// Its queue kept it, and no node was asked.
    ByQueue,
}

/// Classes of one queue and priority: their order never changes.
pub(crate) type Lane = (QueueName, i32);

/// Classes of a lane that wait for the same, and need the same but for amounts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShelfKey {
    pub(crate) blocked: Blocked,
    pub(crate) lane: Lane,
    pub(crate) needs: Arc<Requirements>,
}

/// Classes by lane, in order.
pub(crate) type Lanes = BTreeMap<Lane, BTreeSet<(Place, ClassId)>>;

/// All classes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    ids: BTreeMap<Arc<ClassKey>, ClassId>,
    pub(crate) classes: BTreeMap<ClassId, Class>,
    next_id: ClassId,
    /// What classes need but for amounts, with how many classes do.
    needs: BTreeMap<Arc<Requirements>, usize>,
    /// Classes to be tried on everything.
    pub(crate) due: Lanes,
    /// Classes that were tried, with jobs that were not told why they wait.
    pub(crate) to_tell: Lanes,
    /// Classes that were tried and wait.
    pub(crate) shelves: BTreeMap<ShelfKey, Shelf>,
    /// Those of them that wait for nodes.
    pub(crate) by_nodes: Lanes,
    /// Those of them that their queue keeps.
    pub(crate) by_queue: Lanes,
    /// Classes with an open claim to a reservation.
    pub(crate) entitled: Lanes,
    /// Classes that are to be planned for.
    pub(crate) unplanned: Lanes,
    /// The same, by the event after which their reason was judged last.
    pub(crate) judged: BTreeSet<(u64, ClassId)>,
}

/// Where a class is listed.
#[derive(PartialEq, Eq)]
struct Listing {
    first: Option<Place>,
    untold: Option<Place>,
    blocked: Option<Blocked>,
    judged: u64,
    /// Is it in the list of those that wait for nodes, may have a reservation, are to be planned for, that their queue keeps?
    beside: [bool; 4],
}

impl Listing {
    fn of(class: &Class) -> Self {
        Self {
            first: class.jobs.first().cloned(),
            untold: class.untold.first().cloned(),
            blocked: class.blocked,
            judged: class.judged,
            beside: [
                class.blocked == Some(Blocked::ByNodes),
                class.claim == Claim::Open,
                class.unplanned,
                class.blocked == Some(Blocked::ByQueue),
            ],
        }
    }
}

impl Pending {
    /// Adds a job and answers its class.
    pub(crate) fn add(&mut self, job: &Job) -> ClassId {
        let key = ClassKey::of(job);
        let id = match self.ids.get(&key) {
            Some(id) => *id,
            None => self.open(key),
        };
        let place = Place::of(job);
        self.change(id, |class| {
            class.untold.insert(place.clone());
            class.jobs.insert(place);
        });
        id
    }

    fn open(&mut self, key: ClassKey) -> ClassId {
        let id = self.next_id;
        self.next_id += 1;
        let needs = without_amounts(&key.requirements);
        let shelf = match self.needs.get_key_value(&needs) {
            Some((known, _)) => known.clone(),
            None => Arc::new(needs),
        };
        *self.needs.entry(shelf.clone()).or_default() += 1;
        let key = Arc::new(key);
        self.ids.insert(key.clone(), id);
        let class = Class {
            key,
            jobs: BTreeSet::new(),
            untold: BTreeSet::new(),
            blocked: None,
            waits_since: None,
            claim: Claim::None,
            unplanned: false,
            planned: None,
            reason: None,
            why: None,
            judged: 0,
            possible: None,
            shelf,
        };
        self.classes.insert(id, class);
        id
    }

    /// Removes a job, and its class with the last one.
    pub(crate) fn remove(&mut self, id: ClassId, job: &Job) {
        let place = Place::of(job);
        self.change(id, |class| {
            class.jobs.remove(&place);
            class.untold.remove(&place);
        });
        let empty = |class: &Class| class.jobs.is_empty();
        if self.classes.get(&id).is_some_and(empty)
            && let Some(class) = self.classes.remove(&id)
        {
            self.ids.remove(&*class.key);
            if let Some(count) = self.needs.get_mut(&class.shelf) {
                *count -= 1;
                if *count == 0 {
                    self.needs.remove(&class.shelf);
                }
            }
        }
    }

    /// Changes a class and keeps the lists in step.
    fn change(&mut self, id: ClassId, change: impl FnOnce(&mut Class)) {
        let Some(class) = self.classes.get_mut(&id) else {
            return;
        };
        let before = Listing::of(class);
        change(class);
        let after = Listing::of(class);
        if before == after {
            return;
        }
        let (key, needs) = (class.key.clone(), class.shelf.clone());
        let lane = (key.queue.clone(), key.priority);
        if before.untold != after.untold || before.blocked != after.blocked {
            let place = before.untold.filter(|_| before.blocked.is_some());
            take(&mut self.to_tell, &lane, place, id);
            let place = after.untold.filter(|_| after.blocked.is_some());
            put(&mut self.to_tell, &lane, place, id);
        }
        if before.judged != after.judged || before.blocked != after.blocked {
            self.judged.remove(&(before.judged, id));
        }
        if after.first.is_some() && after.blocked.is_some() {
            self.judged.insert((after.judged, id));
        } else {
            self.judged.remove(&(after.judged, id));
        }
        let lists = [
            &mut self.by_nodes,
            &mut self.entitled,
            &mut self.unplanned,
            &mut self.by_queue,
        ];
        for (at, list) in lists.into_iter().enumerate() {
            let (was, is) = (before.beside[at], after.beside[at]);
            if was != is || (is && before.first != after.first) {
                take(list, &lane, before.first.clone().filter(|_| was), id);
                put(list, &lane, after.first.clone().filter(|_| is), id);
            }
        }
        if before.first == after.first && before.blocked == after.blocked {
            return;
        }
        let shelf = |blocked| ShelfKey {
            blocked,
            lane: lane.clone(),
            needs: needs.clone(),
        };
        match (before.blocked, before.first) {
            (None, place) => take(&mut self.due, &lane, place, id),
            (Some(_), None) => {}
            (Some(blocked), Some(place)) => {
                let key = shelf(blocked);
                if let Some(shelf) = self.shelves.get_mut(&key) {
                    shelf.remove(&place);
                    if shelf.is_empty() {
                        self.shelves.remove(&key);
                    }
                }
            }
        }
        match (after.blocked, after.first) {
            (None, place) => put(&mut self.due, &lane, place, id),
            (Some(_), None) => {}
            (Some(blocked), Some(place)) => {
                let shelf = self.shelves.entry(shelf(blocked)).or_default();
                shelf.insert(place, id, Amounts::of(&key.requirements));
            }
        }
    }

    /// Records that a class did not fit; the reason of one that is new is judged when it is told.
    pub(crate) fn block(&mut self, id: ClassId, blocked: Blocked, now: u64) {
        self.change(id, |class| {
            if class.blocked.is_none() {
                class.judged = now;
            }
            class.blocked = Some(blocked);
        });
    }

    /// Lets a class be tried on everything again.
    pub(crate) fn unblock(&mut self, id: ClassId) {
        self.change(id, |class| class.blocked = None);
    }

    /// Records whether a class may have a reservation.
    pub(crate) fn set_claim(&mut self, id: ClassId, claim: Claim) {
        self.change(id, |class| class.claim = claim);
    }

    /// Records whether a class is to be planned for.
    pub(crate) fn set_unplanned(&mut self, id: ClassId, unplanned: bool) {
        self.change(id, |class| class.unplanned = unplanned);
    }

    /// A class for which there were no slots may have a reservation again.
    pub(crate) fn reopen(&mut self, id: ClassId) {
        self.change(id, |class| {
            if class.claim == Claim::Hopeless {
                class.claim = Claim::Open;
            }
        });
    }

    /// Lets a class be planned for on all nodes.
    pub(crate) fn plan_anew(&mut self, id: ClassId) {
        self.change(id, |class| {
            class.unplanned = true;
            class.planned = None;
        });
    }

    /// Records after which event the reason of a class was judged.
    pub(crate) fn set_judged(&mut self, id: ClassId, at: u64) {
        self.change(id, |class| class.judged = at);
    }

    /// Records that there is a node which could run a class.
    pub(crate) fn set_possible(&mut self, id: ClassId, shape: u64) {
        if let Some(class) = self.classes.get_mut(&id) {
            class.possible = Some(shape);
        }
    }

    /// Records why a class waits; its jobs are told again when the class of the reason is another than before.
    pub(crate) fn set_reason(&mut self, id: ClassId, reason: Known) {
        self.change(id, |class| {
            if class.reason.as_ref().map(|known| known.class) != Some(reason.class) {
                class.untold = class.jobs.clone();
            }
            class.reason = Some(reason);
        });
    }

    /// Marks a job as told.
    pub(crate) fn told(&mut self, id: ClassId, place: &Place) {
        self.change(id, |class| {
            class.untold.remove(place);
        });
    }

    /// Is every class in the lists that it must be in, and nothing else?
    pub(crate) fn is_listed(&self) -> bool {
        let mut fresh = Lanes::new();
        let mut tell = Lanes::new();
        let mut kept = BTreeSet::new();
        let mut judged = BTreeSet::new();
        let mut beside = [Lanes::new(), Lanes::new(), Lanes::new(), Lanes::new()];
        for (id, class) in &self.classes {
            let lane = (class.key.queue.clone(), class.key.priority);
            let first = class.jobs.first().cloned();
            for (list, is) in beside.iter_mut().zip(Listing::of(class).beside) {
                put(list, &lane, first.clone().filter(|_| is), *id);
            }
            if let Some(blocked) = class.blocked {
                kept.insert((blocked, lane.clone(), first, *id));
                judged.insert((class.judged, *id));
                put(&mut tell, &lane, class.untold.first().cloned(), *id);
            } else {
                put(&mut fresh, &lane, first, *id);
            }
        }
        let on_shelves = self.shelves.iter().flat_map(|(key, shelf)| {
            let slots = shelf.iter();
            slots.map(|(place, id)| (key.blocked, key.lane.clone(), Some(place.clone()), id))
        });
        fresh == self.due
            && tell == self.to_tell
            && judged == self.judged
            && [
                &self.by_nodes,
                &self.entitled,
                &self.unplanned,
                &self.by_queue,
            ] == beside.each_ref()
            && kept == on_shelves.collect()
    }
}

fn put(lanes: &mut Lanes, lane: &Lane, place: Option<Place>, id: ClassId) {
    if let Some(place) = place {
        lanes.entry(lane.clone()).or_default().insert((place, id));
    }
}

fn take(lanes: &mut Lanes, lane: &Lane, place: Option<Place>, id: ClassId) {
    if let Some(place) = place
        && let Some(classes) = lanes.get_mut(lane)
    {
        classes.remove(&(place, id));
        if classes.is_empty() {
            lanes.remove(lane);
        }
    }
}
