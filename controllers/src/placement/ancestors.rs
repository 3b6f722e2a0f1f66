//! The jobs that a job depends on, transitively. Pure.

use std::collections::BTreeSet;

use crds::Job;
use scheduler::JobUid;

use super::convert::job_uid;
use crate::shell::Key;

/// Most ancestors that are followed (chosen: longer chains than people write); those nearest to the job come first.
const MOST: usize = 1024;

/// The jobs that must end before this one, as far as they exist. `find` gives the job of a name.
pub(super) fn ancestors<'a>(job: &Job, find: impl Fn(&Key) -> Option<&'a Job>) -> BTreeSet<JobUid> {
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let parents = |job: &Job| -> Vec<Key> {
        let names = job.spec.depends_on.iter();
        names.map(|on| Key::new(namespace, &on.name)).collect()
    };
    let mut found = BTreeSet::new();
    let mut level = parents(job);
    while !level.is_empty() {
        let mut next = Vec::new();
        for parent in level.iter().filter_map(&find) {
            if found.len() < MOST && found.insert(job_uid(parent)) {
                next.extend(parents(parent));
            }
        }
        level = next;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use crds::JobSpec;
    use crds::job::Dependency;

    use super::*;
    use crate::shell::testing;

    #[test]
    fn parents_of_parents_are_ancestors_and_a_circle_ends() {
        let job = |name: &str, on: &[&str]| {
            let spec = JobSpec {
                depends_on: on
                    .iter()
                    .map(|name| Dependency {
                        name: (*name).to_owned(),
                        when: None,
                    })
                    .collect(),
                ..JobSpec::default()
            };
            testing::job(name).spec(spec).build()
        };
        let jobs = [
            job("a", &["b", "c", "gone"]),
            job("b", &["d"]),
            job("c", &["d"]),
            job("d", &["b"]),
            job("other", &["a"]),
        ];
        let by_key: BTreeMap<Key, Arc<Job>> = jobs
            .iter()
            .map(|job| (Key::of(&job.metadata), job.clone()))
            .collect();
        let found = ancestors(&jobs[0], |key| by_key.get(key).map(AsRef::as_ref));
        let names: Vec<&str> = found.iter().map(JobUid::as_str).collect();
        assert_eq!(names, ["uid-of-b", "uid-of-c", "uid-of-d"]);
    }
}
