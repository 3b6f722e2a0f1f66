//! The API objects of one moment as the scheduling core knows them: what `gctl why` asks the core about, and what preemption
//! checks a nomination against. Pure.
//!
//! The conversion is placement's own, so that what is explained is what is decided.

use std::collections::{BTreeMap, BTreeSet};

use crds::job_status::{Binding, Effective, Nomination};
use crds::{Job, Node, Profile, Queue};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use scheduler::{Cluster, GpuRequest, JobUid, Millis, NodeName, QueueName, Settings};

use super::ancestors::ancestors;
use super::convert::{self, Known};
use super::decide::{View, avoidance, view};
use super::holds;
use super::runtimes::Runtimes;
use super::usage;
use crate::admission::{Withheld, resolve};
use crate::shell::{Key, World, gang_size, owner, rank, uid};

/// All objects that decide where jobs go, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Queues.
    pub queues: Vec<Queue>,
    /// Profiles, in order of their names.
    pub profiles: Vec<Profile>,
    /// Jobs of all namespaces.
    pub jobs: Vec<Job>,
}

/// What a job is to placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for slots.
    Waits,
    /// It holds slots.
    Holds,
    /// It waits for something else: it is suspended, by itself or with what it belongs to, or its gang is not ready.
    NotReady,
    /// Placement does not look at it: it has ended, it is not admitted, or it is the parent of others.
    Aside,
}

/// A cluster of the core with the names of its jobs.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The core's state. Nothing was decided on it yet.
    pub cluster: Cluster,
    names: BTreeMap<JobUid, Key>,
    standings: BTreeMap<JobUid, Standing>,
    runtimes: Runtimes,
}

impl Snapshot {
    /// Feeds the core with everything that is known. `now` is the time that the objects were read at.
    pub fn of(objects: &Objects, settings: Settings, now: Timestamp) -> Self {
        let by_key: BTreeMap<Key, &Job> = objects
            .jobs
            .iter()
            .map(|job| (Key::of(&job.metadata), job))
            .collect();
        let mut runtimes = Runtimes::default();
        let mut ended: Vec<&Job> = objects.jobs.iter().collect();
        ended.sort_by_key(|job| {
            job.status
                .as_ref()
                .and_then(|s| s.finish_time.as_ref().map(|t| t.0))
        });
        for job in ended {
            runtimes.on_change(None, job);
        }
        let mut snapshot = Self {
            cluster: Cluster::new(settings),
            names: BTreeMap::new(),
            standings: BTreeMap::new(),
            runtimes,
        };
        feed_queues(&mut snapshot.cluster, objects.queues.iter());
        for node in &objects.nodes {
            let name = NodeName::from(node.metadata.name.as_deref().unwrap_or_default());
            if let Some(node) = convert::node(node) {
                snapshot.cluster.upsert_node(&name, node);
            }
        }
        for (key, job) in &by_key {
            snapshot.add(key, job, &by_key, now);
        }
        let mut units: BTreeMap<_, Vec<&Job>> = BTreeMap::new();
        for job in &objects.jobs {
            // Members of a gang that have no node are kept something together.
            let waits = snapshot.standing(job) == Some(Standing::Waits);
            let together = owner(job).filter(|_| rank(job).is_some());
            let of = together.map_or_else(|| uid(job), |owner| owner.uid.as_str());
            if waits {
                units.entry(of).or_default().push(job);
            }
        }
        for unit in units.values() {
            holds::restore(&mut snapshot.cluster, unit, now);
        }
        snapshot
    }

    fn add(&mut self, key: &Key, job: &Job, by_key: &BTreeMap<Key, &Job>, now: Timestamp) {
        let id = convert::job_uid(job);
        let parent_of = |job: &Job| {
            let owner = owner(job)?;
            let parent = by_key.get(&Key::new(&key.namespace, &owner.name))?;
            (uid(parent) == owner.uid).then_some(*parent)
        };
        let parent = parent_of(job);
        let above = parent.and_then(parent_of);
        let parents: Vec<&Job> = parent.into_iter().chain(above).collect();
        let estimate = self.runtimes.estimate(job);
        let standing = match view(job, &parents) {
            View::Holds(status, binding) => {
                let bound = convert::bound_job(job, status, binding, estimate);
                self.cluster.upsert_bound(bound);
                Standing::Holds
            }
            View::Waits(status, effective) => {
                let avoided = avoidance(status).filter(|avoidance| {
                    let last = status.attempts.last();
                    let ended = last.and_then(|last| last.finish_time.as_ref());
                    ended.is_some_and(|ended| now < ended.0 + avoidance.pause)
                });
                let known = Known {
                    avoid: avoided.as_ref().map(|avoidance| avoidance.node.as_str()),
                    estimate,
                    ancestors: ancestors(job, |key| by_key.get(key).copied()),
                };
                let waiting = convert::waiting_job(job, effective, status, known);
                self.cluster.upsert_job(waiting);
                holds::restore_wait(&mut self.cluster, job);
                Standing::Waits
            }
            View::NotReady(_) => Standing::NotReady,
            View::Aside => Standing::Aside,
        };
        self.names.insert(id.clone(), key.clone());
        self.standings.insert(id, standing);
    }

    /// What a job is to placement; nothing when it is not among the objects.
    pub fn standing(&self, job: &Job) -> Option<Standing> {
        self.standings.get(&convert::job_uid(job)).copied()
    }

    /// The first member of a gang that waits for a node, if the job is a gang's parent: the members wait together.
    pub fn waiting_member<'a>(&self, gang: &Job, objects: &'a Objects) -> Option<&'a Job> {
        gang_size(gang)?;
        let members = objects.jobs.iter().filter(|job| {
            owner(job).is_some_and(|owner| owner.uid == uid(gang))
                && self.standing(job) == Some(Standing::Waits)
        });
        members.min_by_key(|job| rank(job))
    }

    /// A job's identity in the core.
    pub fn id(job: &Job) -> JobUid {
        convert::job_uid(job)
    }

    /// What a job is called: its name, with its namespace where that is not `namespace`. A job that is not known is called by
    /// its uid.
    pub fn name(&self, id: &JobUid, namespace: &str) -> String {
        match self.names.get(id) {
            Some(key) if &*key.namespace == namespace => key.name.to_string(),
            Some(key) => key.to_string(),
            None => id.to_string(),
        }
    }

    /// A text of the core with the names of jobs in the place of their uids.
    pub fn named(&self, text: &str, namespace: &str) -> String {
        let mut named = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            let id = JobUid::from(word);
            if self.names.contains_key(&id) {
                named.push_str(&self.name(&id, namespace));
            } else {
                named.push_str(word);
            }
            let between = after.find(is_word).unwrap_or(after.len());
            let (other, next) = after.split_at(between);
            named.push_str(other);
            rest = next;
        }
        named
    }

    /// A job that does not exist yet as it would wait if it were queued at `now`. What it has in `metadata` and `status` is
    /// kept; `effective` is resolved.
    ///
    /// # Errors
    /// When admission would withhold it.
    pub fn candidate(
        &self,
        job: &Job,
        objects: &Objects,
        now: Timestamp,
    ) -> Result<scheduler::Job, Withheld> {
        let queues = objects.queues.as_slice();
        let effective = resolve(&job.spec, queues, objects.profiles.iter())?;
        let mut job = job.clone();
        let status = job.status.get_or_insert_default();
        status.enqueue_time.get_or_insert(MicroTime(now));
        status.effective = Some(effective.clone());
        let status = status.clone();
        let by_key = |key: &Key| {
            objects
                .jobs
                .iter()
                .find(|job| Key::of(&job.metadata) == *key)
        };
        let known = Known {
            avoid: None,
            estimate: self.runtimes.estimate(&job),
            ancestors: ancestors(&job, by_key),
        };
        Ok(convert::waiting_job(&job, &effective, &status, known))
    }
}

fn feed_queues<'a>(cluster: &mut Cluster, queues: impl Iterator<Item = &'a Queue>) {
    for queue in queues {
        let name = QueueName::from(queue.metadata.name.as_deref().unwrap_or_default());
        usage::restore(cluster, &name, queue);
        cluster.upsert_queue(&name, convert::queue(&queue.spec));
    }
}

/// Would placement place the job, if there were room?
pub(crate) fn is_waiting(job: &Job, world: &World) -> bool {
    matches!(view(job, &world.parents_of(job)), View::Waits(..))
}

/// One node as it is now, for a job that is nominated to it: with all that is held anywhere, since queues are judged by it, with
/// what is promised there to other nominated jobs as held by them, and without the victims of those.
pub(crate) fn scene(
    world: &World,
    job: &Job,
    nomination: &Nomination,
    settings: Settings,
) -> Cluster {
    let mut cluster = Cluster::new(Settings {
        settled_at: Millis(i64::MAX),
        ..settings
    });
    feed_queues(
        &mut cluster,
        world.queues.iter().map(|(_, queue)| queue.as_ref()),
    );
    let node = &nomination.node_name;
    let facts = world.nodes.get(&Key::cluster(node));
    if let Some(facts) = facts.and_then(|facts| convert::node(facts)) {
        cluster.upsert_node(&NodeName::from(node.as_str()), facts);
    }
    let mut leaving = BTreeSet::new();
    for (_, other) in world.jobs.iter() {
        match view(other, &world.parents_of(other)) {
            View::Holds(status, binding) => {
                cluster.upsert_bound(convert::bound_job(other, status, binding, None));
            }
            View::Waits(status, effective)
                if uid(other) == uid(job) || are_together(other, job) =>
            {
                let known = Known::default();
                let waiting = convert::waiting_job(other, effective, status, known);
                cluster.upsert_job(waiting);
            }
            View::Waits(status, effective) => {
                let promised = status.nomination.as_ref();
                if let Some(promised) = promised.filter(|other| other.node_name == *node) {
                    let binding = promised_binding(effective, promised);
                    cluster.upsert_bound(convert::bound_job(other, status, &binding, None));
                    let victims = promised.victims.iter();
                    leaving.extend(victims.map(|victim| JobUid::from(victim.uid.as_str())));
                }
            }
            View::NotReady(_) | View::Aside => {}
        }
    }
    for uid in leaving {
        cluster.remove_job(&uid);
    }
    cluster
}

/// Are they members of one gang?
fn are_together(one: &Job, other: &Job) -> bool {
    let gang = |job| rank(job).and(owner(job)).map(|owner| owner.uid.as_str());
    gang(one).is_some() && gang(one) == gang(other)
}

/// What a nominated job will hold.
fn promised_binding(effective: &Effective, nomination: &Nomination) -> Binding {
    let whole = convert::gpu_request(effective);
    Binding {
        node_name: nomination.node_name.clone(),
        gpus: nomination.gpus.clone(),
        vram_bytes: effective.vram_bytes.as_ref().map(|vram| vram.value),
        whole_gpus: matches!(whole, GpuRequest::Whole(_)) || effective.exclusive.is_some(),
        cpu_millis: effective.cpu_millis.value,
        memory_bytes: effective.memory_bytes.value,
        ..Binding::default()
    }
}
