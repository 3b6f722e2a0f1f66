//! What must be true of every job after every change (rules.md sections 1 to 5), checked on the stream of changes.

use std::collections::{BTreeMap, BTreeSet};

use crds::phase::{derive, may_move};
use crds::{Job, JobStatus, Phase};
use nodeagent::attempt::AttemptId;

/// Bytes of a simulated GPU that jobs of one card may be charged together; the cards of the simulations have 24 GiB.
const CARD_BYTES: u64 = 24 << 30;

/// The jobs as they were after the last change.
#[derive(Debug, Default)]
pub struct Invariants {
    jobs: BTreeMap<String, Seen>,
    gangs: Gangs,
}

/// What is known of gangs (rules.md section 9).
#[derive(Debug, Default)]
struct Gangs {
    /// Parents, by uid, with the generations that they said may go.
    gone: BTreeMap<String, BTreeSet<u32>>,
    /// The gang, by its parent's uid, and the generation of each attempt of a member.
    attempts: BTreeMap<(String, u32), (String, u32)>,
    /// Attempts that had begun by the word of the parent.
    begun: BTreeSet<(String, u32)>,
}

impl Gangs {
    /// Takes a change of a parent or of a member in.
    fn on_job(&mut self, job: &Job, uid: &str, status: &JobStatus) -> Option<String> {
        let gang = status.gang.as_ref()?;
        if gang.rank.is_none() {
            self.gone
                .entry(uid.to_owned())
                .or_default()
                .extend(status.go);
            return None;
        }
        let owners = job.metadata.owner_references.as_deref().unwrap_or_default();
        let parent = owners.first()?.uid.clone();
        status.binding.as_ref()?;
        let attempt = (uid.to_owned(), status.attempt);
        let of = (parent.clone(), gang.generation);
        self.attempts.insert(attempt.clone(), of);
        status.start_time.as_ref()?;
        let gone = self.gone.get(&parent);
        if gone.is_some_and(|gone| gone.contains(&gang.generation)) {
            self.begun.insert(attempt);
            return None;
        }
        Some(format!(
            "attempt {} began before its gang said that generation {} may go",
            status.attempt, gang.generation
        ))
    }
}

#[derive(Clone, Debug)]
struct Seen {
    name: String,
    status: JobStatus,
}

/// Node and UUID of a GPU.
type Card<'a> = (&'a str, &'a str);

/// What one change showed.
#[derive(Debug, Default)]
pub struct Observation {
    /// Rules that do not hold.
    pub faults: Vec<String>,
    /// The change in a line, if phase, attempt or place changed.
    pub line: Option<String>,
}

impl Invariants {
    /// Takes a change in and checks it.
    pub fn on_job(&mut self, job: &Job) -> Observation {
        let mut found = Observation::default();
        let name = job.metadata.name.clone().unwrap_or_default();
        let uid = job.metadata.uid.clone().unwrap_or_default();
        let status = job.status.clone().unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        let mut fault = |text: String| found.faults.push(format!("{name}: {text}"));
        if status.phase.is_some() && derive(&status) != phase {
            fault(format!(
                "phase {phase:?} is not what is derived, {:?}",
                derive(&status)
            ));
        }
        let before = self.jobs.get(&uid);
        if let Some(before) = before {
            let old = before.status.phase.unwrap_or_default();
            if old != phase && !may_move(old, phase) {
                fault(format!("moved from {old:?} to {phase:?}"));
            }
            if status.attempt < before.status.attempt {
                fault(format!(
                    "attempt went from {} to {}",
                    before.status.attempt, status.attempt
                ));
            }
            if let (Some(was), Some(is)) = (&before.status.binding, &status.binding)
                && status.attempt == before.status.attempt
                && was != is
            {
                fault("the binding changed within an attempt".to_owned());
            }
        }
        if let Some(text) = self.gangs.on_job(job, &uid, &status) {
            fault(text);
        }
        let line = describe(&name, &status);
        if before.is_none_or(|before| describe(&before.name, &before.status) != line) {
            found.line = Some(line);
        }
        self.jobs.insert(uid, Seen { name, status });
        found.faults.extend(self.over_promised());
        found
    }

    /// Takes a deletion in.
    pub fn on_deleted(&mut self, job: &Job) {
        self.jobs
            .remove(job.metadata.uid.as_deref().unwrap_or_default());
    }

    /// Gangs of which two generations run at once, of what runs now.
    pub fn mixed_generations(&self, running: &[(String, AttemptId)]) -> Vec<String> {
        let mut generations: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        for (_, id) in running {
            let of = self.gangs.attempts.get(&(id.uid.clone(), id.attempt));
            if let Some((gang, generation)) = of {
                generations.entry(gang).or_default().insert(*generation);
            }
        }
        let mixed = generations.into_iter().filter(|(_, some)| some.len() > 1);
        mixed
            .map(|(gang, some)| format!("of gang {gang} generations {some:?} run at once"))
            .collect()
    }

    /// May this attempt have been started? One of a gang's member only by the word of the gang's parent.
    pub fn may_have_started(&self, id: &AttemptId) -> bool {
        let attempt = (id.uid.clone(), id.attempt);
        !self.gangs.attempts.contains_key(&attempt) || self.gangs.begun.contains(&attempt)
    }

    /// GPUs that are promised twice, or beyond what they have.
    fn over_promised(&self) -> Vec<String> {
        let mut charges: BTreeMap<Card<'_>, Vec<(&Seen, u64, bool)>> = BTreeMap::new();
        for seen in self.jobs.values() {
            let Some(binding) = &seen.status.binding else {
                continue;
            };
            if seen.status.release.is_some() {
                continue;
            }
            for gpu in &binding.gpus {
                charges.entry((&binding.node_name, gpu)).or_default().push((
                    seen,
                    binding.vram_bytes.unwrap_or(CARD_BYTES),
                    binding.whole_gpus,
                ));
            }
        }
        let mut faults = Vec::new();
        for ((node, gpu), holders) in charges {
            let names = || {
                holders
                    .iter()
                    .map(|(seen, ..)| seen.name.as_str())
                    .collect::<Vec<_>>()
            };
            if holders.len() > 1 && holders.iter().any(|(_, _, whole)| *whole) {
                faults.push(format!(
                    "{gpu} of {node} is a job's alone and shared by {:?}",
                    names()
                ));
            }
            let bytes: u64 = holders.iter().map(|(_, bytes, _)| bytes).sum();
            if bytes > CARD_BYTES {
                faults.push(format!(
                    "{gpu} of {node} is charged {bytes} bytes by {:?}",
                    names()
                ));
            }
        }
        faults
    }
}

/// Jobs of which two attempts run at once: one that is frozen does not run.
pub fn running_twice(running: &[(String, AttemptId)]) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (machine, id) in running {
        let place = format!("attempt {} on {machine}", id.attempt);
        places.entry(&id.uid).or_default().push(place);
    }
    let twice = places.into_iter().filter(|(_, places)| places.len() > 1);
    twice
        .map(|(uid, places)| format!("{uid} runs at once: {}", places.join(", ")))
        .collect()
}

fn describe(name: &str, status: &JobStatus) -> String {
    let phase = status
        .phase
        .map_or("New".to_owned(), |phase: Phase| format!("{phase:?}"));
    let place = status.binding.as_ref().map_or(String::new(), |binding| {
        format!(" {} {}", binding.node_name, binding.gpus.join(","))
    });
    let exit = match (status.exit_code, status.signal) {
        (Some(code), _) => format!(" exit {code}"),
        (None, Some(signal)) => format!(" signal {signal}"),
        (None, None) => String::new(),
    };
    format!("{name} {phase} attempt {}{place}{exit}", status.attempt)
}
