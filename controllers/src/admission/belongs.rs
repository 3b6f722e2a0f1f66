//! Which queue a job belongs to. Pure.
//!
//! A job belongs to the queue that it names, in any case and with `_` for `-`. One that names none, or one that does not exist,
//! belongs to the queue that owns the deepest directory around its working directory, if one queue alone does. Else it belongs to
//! `default`, which needs no object, if it names none; and if it does, it has to wait for the queue that it names.

use crds::job_status::{Source, Sourced};
use crds::queue::folded;
use crds::{DEFAULT_QUEUE, JobSpec, Queue};

use super::resolve::Withheld;

/// The queues that there are.
pub trait Queues {
    /// The one of a name, exactly.
    fn named(&self, name: &str) -> Option<&Queue>;
    /// All, in any order.
    fn all(&self) -> impl Iterator<Item = &Queue>;
}

impl Queues for [Queue] {
    fn named(&self, name: &str) -> Option<&Queue> {
        self.iter()
            .find(|queue| queue.metadata.name.as_deref() == Some(name))
    }

    fn all(&self) -> impl Iterator<Item = &Queue> {
        self.iter()
    }
}

/// The name of a job's queue, and who says so.
///
/// # Errors
/// When it has to wait for the queue that it names.
pub fn belongs(
    spec: &JobSpec,
    queues: &(impl Queues + ?Sized),
) -> Result<Sourced<String>, Withheld> {
    let home = |name: &str, source| Sourced {
        value: name.to_owned(),
        source,
    };
    if let Some(typed) = &spec.queue {
        let name = folded(typed);
        if name == DEFAULT_QUEUE || queues.named(&name).is_some() {
            return Ok(home(&name, Source::Job));
        }
    }
    let owner = spec
        .working_dir
        .as_deref()
        .and_then(|dir| owner(dir, queues));
    match (owner, &spec.queue) {
        (Some(owner), _) => Ok(home(owner, Source::Directory)),
        (None, None) => Ok(home(DEFAULT_QUEUE, Source::Default)),
        (None, Some(typed)) => Err(Withheld::QueueNotFound(typed.clone())),
    }
}

/// The queue that owns the deepest directory around `dir`; none if several do.
fn owner<'a>(dir: &str, queues: &'a (impl Queues + ?Sized)) -> Option<&'a str> {
    let dir = components(dir);
    let mut deepest = 0;
    let mut owner = None;
    for queue in queues.all() {
        let around = queue.spec.directories.iter().map(|root| components(root));
        let around = around.filter(|root| dir.starts_with(root));
        let Some(depth) = around.map(|root| root.len()).max() else {
            continue;
        };
        if depth > deepest {
            deepest = depth;
            owner = queue.metadata.name.as_deref();
        } else if depth == deepest {
            owner = None;
        }
    }
    owner
}

/// The names along an absolute path, `.` and `..` resolved by their letters: no disk is asked.
fn components(path: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use crds::QueueSpec;

    use super::*;

    fn queue(name: &str, directories: &[&str]) -> Queue {
        let directories = directories.iter().map(|dir| (*dir).to_owned()).collect();
        Queue::new(
            name,
            QueueSpec {
                directories,
                ..QueueSpec::default()
            },
        )
    }

    fn fleet() -> Vec<Queue> {
        vec![
            queue("ml-team", &["/data/ml", "/scratch"]),
            queue("vision", &["/data/ml/vision/", "/scratch"]),
            queue("default", &[]),
            queue("all-data", &["/data"]),
        ]
    }

    #[test]
    fn a_job_belongs_where_it_says_or_where_it_works() {
        use Source::{Default, Directory, Job};
        let rows = [
            (None, None, Ok(("default", Default))),
            (Some("ml-team"), None, Ok(("ml-team", Job))),
            (Some("ML_Team"), None, Ok(("ml-team", Job))),
            (Some("Default"), Some("/data/ml"), Ok(("default", Job))),
            (Some("vision"), Some("/data/ml/x"), Ok(("vision", Job))),
            (None, Some("/data/ml/x"), Ok(("ml-team", Directory))),
            (None, Some("/data/ml"), Ok(("ml-team", Directory))),
            (None, Some("/data/ml/vision/a/b"), Ok(("vision", Directory))),
            (None, Some("/data/ml/visions"), Ok(("ml-team", Directory))),
            (None, Some("/data/mlx"), Ok(("all-data", Directory))),
            (
                None,
                Some("/data/ml/vision/../x"),
                Ok(("ml-team", Directory)),
            ),
            (None, Some("/data/./ml//vision"), Ok(("vision", Directory))),
            (None, Some("/data/ml/../../home"), Ok(("default", Default))),
            (None, Some("/../../data"), Ok(("all-data", Directory))),
            // Two own it, so nobody does.
            (None, Some("/scratch/x"), Ok(("default", Default))),
            (
                Some("mlteam"),
                Some("/data/ml/x"),
                Ok(("ml-team", Directory)),
            ),
            (Some("mlteam"), Some("/home/me"), Err("mlteam")),
            (Some("mlteam"), Some("/scratch"), Err("mlteam")),
            (Some("Ml_Teams"), None, Err("Ml_Teams")),
        ];
        for (named, dir, expected) in rows {
            let spec = JobSpec {
                queue: named.map(str::to_owned),
                working_dir: dir.map(str::to_owned),
                ..JobSpec::default()
            };
            let found = belongs(&spec, fleet().as_slice());
            let expected = match expected {
                Ok((value, source)) => Ok(Sourced {
                    value: value.to_owned(),
                    source,
                }),
                Err(name) => Err(Withheld::QueueNotFound(name.to_owned())),
            };
            assert_eq!(found, expected, "{named:?} in {dir:?}");
        }
    }
}
