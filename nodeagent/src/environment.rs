//! The environment and the program of an attempt, built from nothing but the job and facts of the node.
//!
//! # Guarantees
//!
//! Nothing of the agent's own environment is passed on: no kubeconfig, no token, no path of its data. A job without
//! GPUs gets an empty `CUDA_VISIBLE_DEVICES`, so that it sees none.
//!
//! # Members of gangs
//!
//! Each is one task, told by the variables that PyTorch's `env://` and `torchrun` read (a variable `PET_X` stands for the
//! option `--x` of torchrun), and by gctl's own:
//!
//! | variable | value |
//! |---|---|
//! | `RANK`, `NODE_RANK`, `PET_NODE_RANK`, `GCTL_GANG_RANK` | the member's rank, from 0 up |
//! | `WORLD_SIZE`, `PET_NNODES`, `GCTL_GANG_SIZE` | number of members |
//! | `MASTER_ADDR`, `PET_MASTER_ADDR` | address of the node of rank 0 |
//! | `MASTER_PORT`, `PET_MASTER_PORT` | a port that was free there (`crate::ports`) |
//! | `GCTL_GANG_GENERATION` | how often the gang started, this time included |
//! | `GCTL_GANG_HOSTS` | addresses in the order of the ranks, with commas between them |
//! | `GCTL_GANG_HOSTFILE` | a file with one line a member, `ADDRESS slots=N`, N being its GPUs or 1, as MPI reads them |
//!
//! What the job or its profile says of the same name is in force, but for the names that begin with `GCTL_`. The file is
//! there as long as the attempt.

use std::collections::{BTreeMap, BTreeSet};

use crds::Job;
use crds::job::{EnvVar, FenceAction, OnNodeLost};
use crds::job_status::{Binding, Endpoint, JobStatus};
use kube::ResourceExt;

use crate::attempt::{AttemptId, Charge, Fence, Program, StartRequest};
use crate::shim::command::DEFAULT_PATH;
use crate::users::User;

/// Secrets by name, each with its keys.
pub(crate) type Secrets = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// Facts of the node that a start needs.
#[derive(Clone, Debug)]
pub(crate) struct NodeFacts<'a> {
    pub(crate) node_name: &'a str,
    pub(crate) boot_id: &'a str,
    /// Below which jobs keep their checkpoints, if any do.
    pub(crate) checkpoint_root: Option<&'a str>,
}

/// Why a job cannot be started as it is written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadStart {
    /// A Secret is missing.
    #[error("secret `{0}` was not found")]
    NoSecret(String),
    /// A key of a Secret is missing.
    #[error("secret `{name}` has no key `{key}`")]
    NoKey { name: String, key: String },
    /// A value is not text.
    #[error("key `{key}` of secret `{name}` is not UTF-8 text")]
    NotText { name: String, key: String },
    /// Neither command nor script.
    #[error("the job has neither a command nor a script")]
    NoProgram,
    /// The gang may go, and does not say where its members are.
    #[error("its gang may start, but its status does not say where the members are")]
    NoHosts,
    /// Containers are not run by this agent.
    #[error("image `{0}` cannot be run: this node runs no containers")]
    NoContainers(String),
}

/// The variables of a job in order: those of its profile, then its own.
fn variables(job: &Job) -> impl Iterator<Item = &EnvVar> {
    let effective = job
        .status
        .as_ref()
        .and_then(|status| status.effective.as_ref());
    effective
        .into_iter()
        .flat_map(|effective| &effective.env)
        .chain(&job.spec.env)
}

/// Names of the Secrets that a start needs.
pub(crate) fn secrets_needed(job: &Job) -> BTreeSet<String> {
    variables(job)
        .filter_map(|variable| variable.value_from.as_ref())
        .map(|source| source.secret_key_ref.name.clone())
        .collect()
}

/// What an attempt holds of the node.
pub(crate) fn charge(binding: &Binding) -> Charge {
    Charge {
        gpus: binding.gpus.clone(),
        vram_bytes: binding.vram_bytes,
        whole_gpus: binding.whole_gpus,
        cpu_millis: binding.cpu_millis,
        memory_bytes: binding.memory_bytes,
    }
}

/// The request that starts the current attempt of a job.
pub(crate) fn start_request(
    job: &Job,
    node: &NodeFacts<'_>,
    user: &User,
    secrets: &Secrets,
) -> Result<StartRequest, BadStart> {
    if let Some(image) = &job.spec.image {
        return Err(BadStart::NoContainers(image.clone()));
    }
    let status = job.status.clone().unwrap_or_default();
    let binding = status.binding.clone().unwrap_or_default();
    let program = match (&job.spec.script, job.spec.command.as_slice()) {
        (Some(script), _) => Program::Script(script.clone()),
        (None, []) => return Err(BadStart::NoProgram),
        (None, words) => Program::Command(words.to_vec()),
    };
    let id = AttemptId {
        uid: job.uid().unwrap_or_default(),
        attempt: status.attempt,
    };
    let gang = Gang::of(&status)?;
    let mut env = base(user);
    env.extend(gang.iter().flat_map(Gang::conventions));
    for variable in variables(job) {
        env.push((variable.name.clone(), value(variable, secrets)?));
    }
    env.extend(own(job, &binding, &id, node));
    env.extend(gang.iter().flat_map(Gang::own));
    let effective = status.effective.as_ref();
    let root = node.checkpoint_root.filter(|_| keeps_checkpoints(job));
    Ok(StartRequest {
        checkpoint_dir: root.map(|root| format!("{root}/{}", id.uid)),
        id,
        namespace: job.namespace().unwrap_or_default(),
        name: job.name_any(),
        program,
        env,
        hostfile: gang.map(|gang| gang.hostfile(binding.gpus.len())),
        working_dir: job.spec.working_dir.clone(),
        run_as: user.run_as.clone(),
        grace_secs: grace_secs(job),
        deadline_secs: match effective {
            Some(effective) => effective.time_limit(),
            None => job.spec.active_deadline_seconds.filter(|limit| *limit > 0),
        },
        fence: fence(job),
        charge: charge(&binding),
        boot_id: node.boot_id.to_owned(),
    })
}

/// Does the job keep checkpoints? Those do that may run again by their own terms; for the others, making a directory would
/// be most of what a short job costs.
pub(crate) fn keeps_checkpoints(job: &Job) -> bool {
    let effective = job.status.as_ref().and_then(|s| s.effective.as_ref());
    let displaced = effective.is_some_and(|effective| {
        effective.preemptible.value || effective.on_node_lost.value == OnNodeLost::Requeue
    });
    let spec = &job.spec;
    let retried = spec.backoff_limit.unwrap_or(0) > 0
        || spec.oom_retry_limit.unwrap_or(0) > 0
        || !spec.retry.is_empty();
    displaced || retried
}

/// Seconds between TERM and KILL.
pub(crate) fn grace_secs(job: &Job) -> u32 {
    const DEFAULT_GRACE_SECS: u32 = 30;
    job.status
        .as_ref()
        .and_then(|status| status.effective.as_ref())
        .map(|effective| effective.termination_grace_period_seconds.value)
        .or(job.spec.termination_grace_period_seconds)
        .unwrap_or(DEFAULT_GRACE_SECS)
}

/// How the attempt is fenced, if it is one to run elsewhere when this node is lost.
fn fence(job: &Job) -> Option<Fence> {
    let effective = job.status.as_ref()?.effective.as_ref()?;
    (effective.on_node_lost.value == OnNodeLost::Requeue).then(|| Fence {
        secs: effective.fence_seconds.value,
        kill: effective.fence_action.value == FenceAction::Kill,
    })
}

/// What a member of a gang is told of it.
struct Gang<'a> {
    rank: String,
    size: String,
    generation: String,
    hosts: &'a [String],
    master: &'a Endpoint,
}

impl<'a> Gang<'a> {
    /// The gang of a member; none for any other job.
    fn of(status: &'a JobStatus) -> Result<Option<Self>, BadStart> {
        let Some(gang) = &status.gang else {
            return Ok(None);
        };
        let (Some(rank), Some(master)) = (gang.rank, &gang.master) else {
            return Err(BadStart::NoHosts);
        };
        if u32::try_from(gang.hosts.len()) != Ok(gang.size) {
            return Err(BadStart::NoHosts);
        }
        Ok(Some(Self {
            rank: rank.to_string(),
            size: gang.size.to_string(),
            generation: gang.generation.to_string(),
            hosts: &gang.hosts,
            master,
        }))
    }

    /// What others' programs go by; a job may say otherwise.
    fn conventions(&self) -> Vec<(String, String)> {
        let (address, port) = (&self.master.address, self.master.port.to_string());
        [
            ("RANK", &self.rank),
            ("WORLD_SIZE", &self.size),
            ("NODE_RANK", &self.rank),
            ("MASTER_ADDR", address),
            ("MASTER_PORT", &port),
            ("PET_NNODES", &self.size),
            ("PET_NODE_RANK", &self.rank),
            ("PET_MASTER_ADDR", address),
            ("PET_MASTER_PORT", &port),
        ]
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .to_vec()
    }

    fn own(&self) -> Vec<(String, String)> {
        [
            ("GCTL_GANG_RANK", self.rank.clone()),
            ("GCTL_GANG_SIZE", self.size.clone()),
            ("GCTL_GANG_GENERATION", self.generation.clone()),
            ("GCTL_GANG_HOSTS", self.hosts.join(",")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// One line a member. All members ask for the same.
    fn hostfile(&self, gpus: usize) -> String {
        let slots = gpus.max(1);
        let mut lines = String::new();
        for host in self.hosts {
            lines.extend([host, " slots=", &slots.to_string(), "\n"]);
        }
        lines
    }
}

fn base(user: &User) -> Vec<(String, String)> {
    [
        ("PATH", DEFAULT_PATH),
        ("HOME", user.home.as_str()),
        ("USER", user.name.as_str()),
        ("LOGNAME", user.name.as_str()),
        ("SHELL", "/bin/sh"),
        ("LANG", "C.UTF-8"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

fn value(variable: &EnvVar, secrets: &Secrets) -> Result<String, BadStart> {
    let Some(source) = &variable.value_from else {
        return Ok(variable.value.clone().unwrap_or_default());
    };
    let reference = &source.secret_key_ref;
    let (name, key) = (&reference.name, &reference.key);
    let secret = secrets
        .get(name)
        .ok_or_else(|| BadStart::NoSecret(name.clone()))?;
    let bytes = secret.get(key).ok_or_else(|| BadStart::NoKey {
        name: name.clone(),
        key: key.clone(),
    })?;
    String::from_utf8(bytes.clone()).map_err(|_| BadStart::NotText {
        name: name.clone(),
        key: key.clone(),
    })
}

/// What gctl itself says to a job; nothing can override it.
fn own(
    job: &Job,
    binding: &Binding,
    id: &AttemptId,
    node: &NodeFacts<'_>,
) -> Vec<(String, String)> {
    let mut env = vec![
        ("GCTL_JOB_NAME", job.name_any()),
        ("GCTL_JOB_NAMESPACE", job.namespace().unwrap_or_default()),
        ("GCTL_JOB_UID", id.uid.clone()),
        ("GCTL_ATTEMPT", id.attempt.to_string()),
        ("GCTL_NODE_NAME", node.node_name.to_owned()),
        ("GCTL_GRACE_SECONDS", grace_secs(job).to_string()),
        ("GCTL_GPUS", binding.gpus.len().to_string()),
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned()),
        ("CUDA_VISIBLE_DEVICES", binding.gpus.join(",")),
    ];
    if let Some(bytes) = binding.vram_bytes {
        env.push(("GCTL_VRAM_BYTES", bytes.to_string()));
    }
    if let Some(array) = job.labels().get(crds::ARRAY_LABEL) {
        env.push(("GCTL_ARRAY_NAME", array.clone()));
    }
    if let Some(index) = job.labels().get(crds::ARRAY_INDEX_LABEL) {
        env.push(("GCTL_ARRAY_INDEX", index.clone()));
    }
    env.into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use crds::job::{EnvVarSource, JobSpec, SecretKeyRef};
    use crds::job_status::{Effective, GangStatus};

    use super::*;

    fn user() -> User {
        User {
            name: "ada".to_owned(),
            home: "/home/ada".to_owned(),
            run_as: None,
        }
    }

    fn job(gpus: &[&str]) -> Job {
        let mut job = Job::new(
            "train",
            JobSpec {
                command: vec!["true".to_owned()],
                ..JobSpec::default()
            },
        );
        job.metadata.namespace = Some("lab".to_owned());
        job.metadata.uid = Some("u1".to_owned());
        job.status = Some(JobStatus {
            attempt: 2,
            binding: Some(Binding {
                node_name: "n".to_owned(),
                gpus: gpus.iter().copied().map(str::to_owned).collect(),
                vram_bytes: Some(7),
                ..Binding::default()
            }),
            ..JobStatus::default()
        });
        job
    }

    fn env(job: &Job, secrets: &Secrets) -> Result<BTreeMap<String, String>, BadStart> {
        let node = NodeFacts {
            node_name: "n",
            boot_id: "b",
            checkpoint_root: Some("/saved"),
        };
        let request = start_request(job, &node, &user(), secrets)?;
        Ok(request.env.into_iter().collect())
    }

    #[test]
    fn gpus_are_named_by_uuid_and_a_job_without_any_sees_none() {
        let with = env(&job(&["GPU-b", "GPU-a"]), &Secrets::new()).expect("complete");
        assert_eq!(with["CUDA_VISIBLE_DEVICES"], "GPU-b,GPU-a");
        assert_eq!(with["CUDA_DEVICE_ORDER"], "PCI_BUS_ID");
        assert_eq!(
            (with["GCTL_GPUS"].as_str(), with["GCTL_VRAM_BYTES"].as_str()),
            ("2", "7")
        );
        let without = env(&job(&[]), &Secrets::new()).expect("complete");
        assert_eq!(without["CUDA_VISIBLE_DEVICES"], "");
    }

    #[test]
    fn the_environment_holds_what_was_given_and_nothing_of_the_agent() {
        let names: Vec<String> = env(&job(&[]), &Secrets::new())
            .expect("complete")
            .into_keys()
            .collect();
        let expected = [
            "CUDA_DEVICE_ORDER",
            "CUDA_VISIBLE_DEVICES",
            "GCTL_ATTEMPT",
            "GCTL_GPUS",
            "GCTL_GRACE_SECONDS",
            "GCTL_JOB_NAME",
            "GCTL_JOB_NAMESPACE",
            "GCTL_JOB_UID",
            "GCTL_NODE_NAME",
            "GCTL_VRAM_BYTES",
            "HOME",
            "LANG",
            "LOGNAME",
            "PATH",
            "SHELL",
            "USER",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn the_job_overrides_its_profile_and_gctl_overrides_both() {
        let mut job = job(&[]);
        let variable = |name: &str, value: &str| EnvVar {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            value_from: None,
        };
        job.spec.env = vec![
            variable("A", "job"),
            variable("GCTL_ATTEMPT", "99"),
            variable("PATH", "/x"),
        ];
        if let Some(status) = &mut job.status {
            status.effective = Some(Effective {
                env: vec![variable("A", "profile"), variable("B", "profile")],
                ..Effective::default()
            });
        }
        let env = env(&job, &Secrets::new()).expect("complete");
        assert_eq!((env["A"].as_str(), env["B"].as_str()), ("job", "profile"));
        assert_eq!(
            (env["GCTL_ATTEMPT"].as_str(), env["PATH"].as_str()),
            ("2", "/x")
        );
    }

    #[test]
    fn secrets_are_resolved_and_missing_ones_are_named() {
        let mut job = job(&[]);
        job.spec.env = vec![EnvVar {
            name: "TOKEN".to_owned(),
            value: None,
            value_from: Some(EnvVarSource {
                secret_key_ref: SecretKeyRef {
                    name: "hub".to_owned(),
                    key: "token".to_owned(),
                },
            }),
        }];
        assert_eq!(secrets_needed(&job), BTreeSet::from(["hub".to_owned()]));
        assert_eq!(
            env(&job, &Secrets::new()),
            Err(BadStart::NoSecret("hub".to_owned()))
        );
        let with = |key: &str| {
            Secrets::from([(
                "hub".to_owned(),
                BTreeMap::from([(key.to_owned(), b"s3".to_vec())]),
            )])
        };
        assert!(matches!(
            env(&job, &with("other")),
            Err(BadStart::NoKey { .. })
        ));
        assert_eq!(env(&job, &with("token")).expect("complete")["TOKEN"], "s3");
    }

    fn member() -> Job {
        let mut job = job(&["GPU-a", "GPU-b"]);
        if let Some(status) = &mut job.status {
            status.gang = Some(GangStatus {
                size: 2,
                generation: 3,
                rank: Some(1),
                hosts: vec!["10.0.0.7".to_owned(), "gpu-2.lab".to_owned()],
                master: Some(Endpoint {
                    address: "10.0.0.7".to_owned(),
                    port: 20_123,
                }),
                ..GangStatus::default()
            });
        }
        job
    }

    #[test]
    fn a_member_of_a_gang_is_told_who_it_is_and_where_the_others_are() {
        let env = env(&member(), &Secrets::new()).expect("complete");
        let rows = [
            ("GCTL_GANG_RANK", "1"),
            ("GCTL_GANG_SIZE", "2"),
            ("GCTL_GANG_GENERATION", "3"),
            ("GCTL_GANG_HOSTS", "10.0.0.7,gpu-2.lab"),
            ("RANK", "1"),
            ("WORLD_SIZE", "2"),
            ("NODE_RANK", "1"),
            ("MASTER_ADDR", "10.0.0.7"),
            ("MASTER_PORT", "20123"),
            ("PET_NNODES", "2"),
            ("PET_NODE_RANK", "1"),
            ("PET_MASTER_ADDR", "10.0.0.7"),
            ("PET_MASTER_PORT", "20123"),
        ];
        for (name, value) in rows {
            assert_eq!(env[name], value, "{name}");
        }
    }

    #[test]
    fn what_a_member_says_itself_is_in_force_but_for_what_is_gctls() {
        let mut job = member();
        let variable = |name: &str| EnvVar {
            name: name.to_owned(),
            value: Some("own".to_owned()),
            value_from: None,
        };
        job.spec.env = ["MASTER_PORT", "WORLD_SIZE", "GCTL_GANG_RANK"]
            .map(variable)
            .to_vec();
        let env = env(&job, &Secrets::new()).expect("complete");
        assert_eq!(
            (env["MASTER_PORT"].as_str(), env["WORLD_SIZE"].as_str()),
            ("own", "own")
        );
        assert_eq!(
            (env["GCTL_GANG_RANK"].as_str(), env["RANK"].as_str()),
            ("1", "1")
        );
    }

    #[test]
    fn a_hostfile_has_a_line_for_each_member_with_its_gpus_as_slots() {
        let hostfile = |job: &Job| {
            let node = NodeFacts {
                node_name: "n",
                boot_id: "b",
                checkpoint_root: None,
            };
            let request = start_request(job, &node, &user(), &Secrets::new());
            request.expect("complete").hostfile
        };
        let lines = "10.0.0.7 slots=2\ngpu-2.lab slots=2\n";
        assert_eq!(hostfile(&member()).as_deref(), Some(lines));
        let mut without = member();
        if let Some(binding) = without.status.as_mut().and_then(|s| s.binding.as_mut()) {
            binding.gpus.clear();
        }
        let lines = "10.0.0.7 slots=1\ngpu-2.lab slots=1\n";
        assert_eq!(hostfile(&without).as_deref(), Some(lines));
        assert_eq!(hostfile(&job(&[])), None);
    }

    #[test]
    fn a_member_that_does_not_know_where_the_others_are_is_not_started() {
        let mut job = member();
        if let Some(gang) = job.status.as_mut().and_then(|s| s.gang.as_mut()) {
            gang.hosts.pop();
        }
        assert_eq!(env(&job, &Secrets::new()), Err(BadStart::NoHosts));
    }

    #[test]
    fn the_index_of_an_array_member_comes_from_its_label() {
        let mut job = job(&[]);
        job.metadata.labels = Some(BTreeMap::from([
            (crds::ARRAY_LABEL.to_owned(), "sweep".to_owned()),
            (crds::ARRAY_INDEX_LABEL.to_owned(), "4".to_owned()),
        ]));
        let env = env(&job, &Secrets::new()).expect("complete");
        assert_eq!(
            (
                env["GCTL_ARRAY_NAME"].as_str(),
                env["GCTL_ARRAY_INDEX"].as_str()
            ),
            ("sweep", "4")
        );
    }

    #[test]
    fn a_job_that_may_run_again_keeps_its_checkpoints_in_one_place() {
        let node = |root| NodeFacts {
            node_name: "n",
            boot_id: "b",
            checkpoint_root: root,
        };
        let place = |job: &Job, root| {
            let request = start_request(job, &node(root), &user(), &Secrets::new());
            request.expect("complete").checkpoint_dir
        };
        let mut job = job(&[]);
        assert_eq!(place(&job, Some("/saved")), None, "it runs once");
        let effective = Effective {
            preemptible: crds::job_status::Sourced {
                value: true,
                ..Default::default()
            },
            ..Effective::default()
        };
        if let Some(status) = &mut job.status {
            status.effective = Some(effective);
        }
        assert_eq!(place(&job, Some("/saved")).as_deref(), Some("/saved/u1"));
        assert_eq!(place(&job, None), None, "the node keeps none");
    }
}
