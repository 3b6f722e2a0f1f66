//! `gctl submit ... -- CMD`: makes one job from flags, and stays with it if asked.

use std::time::Duration;

use crds::job::{ArraySpec, EnvVar, GpuRequirements, Interconnect, JobSpec, Resources};
use crds::{Job, Quantity};
use serde_json::Value;

use super::{DryRun, advice, apply, logs, why};
use crate::api;
use crate::error::Error;
use crate::exit::Exit;
use crate::follow::{self, Voice};
use crate::output::age;
use crate::output::object::{self, Format};
use crate::session::{Session, Target};

/// Longest part of a command's name that a generated job name keeps.
const NAME_LIMIT: usize = 40;

/// Arguments of `gctl submit`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Name of the job; without it a name is made from the command's
    #[arg(long, conflicts_with = "generate_name")]
    pub name: Option<String>,
    /// Beginning of a name that the server completes
    #[arg(long, value_name = "PREFIX")]
    pub generate_name: Option<String>,
    /// Queue to wait in
    #[arg(short, long)]
    pub queue: Option<String>,
    /// Priority relative to the queue's, -1000 to 1000
    #[arg(short, long, allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// Profile to take defaults from
    #[arg(long)]
    pub profile: Option<String>,
    /// Number of GPUs
    #[arg(short, long)]
    pub gpus: Option<u32>,
    /// GPU memory needed on each GPU, such as 10Gi
    #[arg(long)]
    pub vram: Option<String>,
    /// GPU model, compared as a part of its name
    #[arg(long, value_name = "MODEL")]
    pub gpu_model: Option<String>,
    /// A MIG slice of this profile instead of a GPU, such as 1g.10gb; with `*` slices will do as well as GPUs
    #[arg(long, value_name = "PROFILE")]
    pub gpu_slice: Option<String>,
    /// How the GPUs must be joined. Default: any way, the best that is free
    #[arg(long, value_enum, value_name = "LINK")]
    pub interconnect: Option<Joint>,
    /// CPU cores, such as 2 or 500m
    #[arg(short, long)]
    pub cpu: Option<String>,
    /// Host memory, such as 4Gi
    #[arg(short, long)]
    pub memory: Option<String>,
    /// Environment variable; may be given several times. NAME alone takes its value from this shell
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Absolute directory the command starts in
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run on this node only
    #[arg(long)]
    pub node: Option<String>,
    /// Capability tag that the node must offer; may be given several times
    #[arg(long, value_name = "TAG")]
    pub needs: Vec<String>,
    /// Label that the job bears; may be given several times
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Wall-clock limit of an attempt, such as 30m or 1h; 0 for none. Without it the queue's, else 48h
    #[arg(short, long, value_name = "SPAN", value_parser = age::parse_span)]
    pub time_limit: Option<Duration>,
    /// Longest wait in the queue, such as 2h
    #[arg(long, value_name = "SPAN", value_parser = age::parse_span)]
    pub pending_limit: Option<Duration>,
    /// Time between TERM and KILL when the job is stopped, such as 30s
    #[arg(long, value_name = "SPAN", value_parser = age::parse_span)]
    pub grace_period: Option<Duration>,
    /// Delete the job this long after it has ended, such as 1d
    #[arg(long, value_name = "SPAN", value_parser = age::parse_span)]
    pub ttl: Option<Duration>,
    /// May a job of higher priority displace this one? Without it what the queue and the profile say, else no
    #[arg(long, value_name = "BOOL", default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub preemptible: Option<bool>,
    /// Run this many members; `{i}` in the command and in values of --env is each one's index
    #[arg(long, value_name = "N")]
    pub array: Option<u32>,
    /// Most members of the array at once
    #[arg(long, value_name = "K", requires = "array")]
    pub parallelism: Option<u32>,
    /// Run as a gang: so many tasks, each on a node of its own, which start together or not at all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub replicas: Option<u32>,
    /// Stay until the job has ended and say its transitions; exit 3 if it did not succeed
    #[arg(long)]
    pub wait: bool,
    /// Like --wait, and copy the job's output to standard output
    #[arg(long, conflicts_with_all = ["array", "replicas", "output"])]
    pub logs: bool,
    /// Make no job: print what would be made, checked by the server, and say where it would go and what it would displace
    /// (or, with `client`, only print it, unchecked)
    #[arg(long, value_enum, default_value = "none", default_missing_value = "server", num_args = 0..=1, require_equals = true)]
    pub dry_run: DryRun,
    /// yaml, json, name or jsonpath=TEMPLATE
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub output: String,
    /// The command and its arguments, run without a shell
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// What must join the GPUs of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Joint {
    /// NVLink, directly or through a switch
    Nvlink,
    /// One PCIe switch
    Pcie,
}

/// Runs the command.
///
/// # Errors
/// When the flags or the server refuse the job.
pub async fn run(session: &mut Session, args: &Args) -> Result<Exit, Error> {
    let format: Format = args.output.parse()?;
    let jobs = session.jobs().await?;
    let mut job = job(args, &session.namespace)?;
    apply::add_release_finalizer(&mut job);
    let attempted = match job["metadata"]["name"].as_str() {
        Some(name) => format!("submit {}", jobs.object_name(name)),
        None => "submit the job".to_owned(),
    };
    let namespace = Some(session.namespace.clone());
    let made = if args.dry_run == DryRun::Client {
        job
    } else {
        let uri = format!(
            "{}{}",
            jobs.collection(namespace.as_deref()),
            api::query(&[
                ("dryRun", args.dry_run.query()),
                ("fieldManager", "gctl-submit"),
                ("fieldValidation", "Strict"),
            ])
        );
        session.api.create(&uri, &job, &attempted).await?
    };
    session.say_warnings();
    let name = made["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let target = Target {
        resource: jobs,
        namespace,
        name: name.clone(),
    };
    let dry = args.dry_run != DryRun::None;
    match args.dry_run {
        DryRun::Server => Box::pin(foretell(session, made.clone())).await?,
        DryRun::None => Box::pin(advise(session, made.clone())).await,
        DryRun::Client => {}
    }
    match &format {
        // Somebody who asks what would be made wants to see it, not its name.
        Format::Table { .. } if dry => session
            .output
            .raw(object::yaml(&object::presentable(made)).as_bytes())?,
        Format::Table { .. } if args.logs => {
            session.output.say(format!("{} created", target.label()));
        }
        Format::Table { .. } => session.output.line(format!("{} created", target.label()))?,
        Format::Name => session.output.line(target.label())?,
        format => session
            .output
            .raw(object::render(&object::presentable(made), format).as_bytes())?,
    }
    if dry || !(args.wait || args.logs) {
        return Ok(Exit::Ok);
    }
    stay(session, &target, args.logs).await
}

/// Says where a job belongs, where that is not what it names, and warns of what may keep it waiting for long. Whoever may not
/// look is told nothing.
async fn advise(session: &mut Session, made: Value) {
    let Some(job) = follow::read_job(made) else {
        return;
    };
    for line in advice::of(session, &job).await.unwrap_or_default() {
        session.output.say(line);
    }
}

/// Says where a job would go and what it would displace.
async fn foretell(session: &mut Session, made: Value) -> Result<(), Error> {
    let Some(job) = follow::read_job(made) else {
        return Ok(());
    };
    let home = advice::home(session, &job).await?;
    let lines = why::dry_run(session, &job).await?;
    for line in home.into_iter().chain(lines) {
        session.output.say(line);
    }
    Ok(())
}

/// Stays with a job until it has ended.
async fn stay(session: &mut Session, target: &Target, copy_logs: bool) -> Result<Exit, Error> {
    let began = (session.clock)();
    if copy_logs {
        match logs::copy_all(session, target).await {
            // A job that never ran has no log; its end says why.
            Ok(()) | Err(Error::State(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let targets = std::slice::from_ref(target);
    let board = follow::follow(session, targets, Voice::Lines, began, None).await?;
    Ok(if board.all_succeeded() {
        Exit::Ok
    } else {
        Exit::JobFailed
    })
}

/// The job that the flags describe.
///
/// # Errors
/// When a flag is malformed; what the server can judge is left to it.
pub fn job(args: &Args, namespace: &str) -> Result<Value, Error> {
    let spec = spec(args)?;
    let mut job = Job::new("", spec);
    job.metadata.namespace = Some(namespace.to_owned());
    job.metadata.name.clone_from(&args.name);
    if args.name.is_none() {
        let prefix = match &args.generate_name {
            Some(prefix) => prefix.clone(),
            None => prefix_of(&args.command),
        };
        job.metadata.generate_name = Some(prefix);
    }
    for label in &args.label {
        let (name, value) = label
            .split_once('=')
            .ok_or_else(|| Error::Usage(format!("--label `{label}`: NAME=VALUE is expected")))?;
        job.metadata
            .labels
            .get_or_insert_default()
            .insert(name.to_owned(), value.to_owned());
    }
    serde_json::to_value(&job)
        .map(|mut job| {
            if let Some(job) = job.as_object_mut() {
                job.remove("status");
            }
            job
        })
        .map_err(|error| Error::State(format!("the job cannot be written as JSON: {error}")))
}

fn gpu_requirements(args: &Args) -> Option<GpuRequirements> {
    let wanted = GpuRequirements {
        model: args.gpu_model.clone(),
        slice: args.gpu_slice.clone(),
        interconnect: args.interconnect.map(|joint| match joint {
            Joint::Nvlink => Interconnect::NVLink,
            Joint::Pcie => Interconnect::Pcie,
        }),
        ..GpuRequirements::default()
    };
    (wanted != GpuRequirements::default()).then_some(wanted)
}

/// Least memory that somebody may mean, in bytes.
const LEAST_MEMORY: u64 = 1 << 20;

fn spec(args: &Args) -> Result<JobSpec, Error> {
    let quantity = |flag: &str, text: &Option<String>| {
        text.as_ref()
            .map(|text| {
                let quantity = Quantity(text.clone());
                match quantity.millis().or_else(|_| quantity.bytes()) {
                    Ok(_) => Ok(quantity),
                    Err(error) => Err(Error::Usage(format!("--{flag} `{text}`: {error}"))),
                }
            })
            .transpose()
    };
    // A number alone is bytes, as everywhere in Kubernetes, and nobody means that.
    let memory = |flag: &str, text: &Option<String>| {
        let quantity = quantity(flag, text)?;
        let bytes = quantity.as_ref().and_then(|quantity| quantity.bytes().ok());
        match (bytes, text) {
            (Some(bytes @ 1..LEAST_MEMORY), Some(text)) => Err(Error::Usage(format!(
                "--{flag} `{text}` is {bytes} bytes: give a unit, such as {bytes}Gi"
            ))),
            _ => Ok(quantity),
        }
    };
    let resources = Resources {
        cpu: quantity("cpu", &args.cpu)?,
        memory: memory("memory", &args.memory)?,
        gpus: args.gpus,
        vram: memory("vram", &args.vram)?,
        gpu: gpu_requirements(args),
        exclusive: None,
    };
    let env = args
        .env
        .iter()
        .map(|text| {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => (
                    text.as_str(),
                    std::env::var(text).map_err(|_| {
                        Error::Usage(format!(
                            "--env {text}: not set in this shell; give {text}=VALUE"
                        ))
                    })?,
                ),
            };
            Ok(EnvVar {
                name: name.to_owned(),
                value: Some(value),
                value_from: None,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let small_seconds = |flag: &str, span: Option<Duration>| {
        span.map(|span| {
            u32::try_from(span.as_secs()).map_err(|_| Error::Usage(format!("--{flag}: too long")))
        })
        .transpose()
    };
    Ok(JobSpec {
        queue: args.queue.clone(),
        priority: args.priority,
        profile: args.profile.clone(),
        command: args.command.clone(),
        env,
        working_dir: args.workdir.clone(),
        resources: (resources != Resources::default()).then_some(resources),
        node_name: args.node.clone(),
        needs: args.needs.clone(),
        preemptible: args.preemptible,
        active_deadline_seconds: args.time_limit.map(whole_seconds),
        pending_deadline_seconds: args.pending_limit.map(|span| span.as_secs()),
        termination_grace_period_seconds: small_seconds("grace-period", args.grace_period)?,
        ttl_seconds_after_finished: args.ttl.map(|span| span.as_secs()),
        replicas: args.replicas,
        array: args.array.map(|count| ArraySpec {
            count: Some(count),
            parallelism: args.parallelism,
            ..ArraySpec::default()
        }),
        ..JobSpec::default()
    })
}

/// Seconds, begun ones counted whole: half a second of limit must not become 0, which is no limit.
fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

/// The beginning of a name made from the command: `python train.py` gives `train-`.
fn prefix_of(command: &[String]) -> String {
    let base = |word: &str| {
        let name = word.rsplit('/').next().unwrap_or_default();
        let stem = name.split('.').next().unwrap_or_default();
        let mut clean = String::new();
        for c in stem.to_lowercase().chars() {
            if c.is_ascii_alphanumeric() {
                clean.push(c);
            } else if !clean.is_empty() && !clean.ends_with('-') {
                clean.push('-');
            }
        }
        clean.truncate(NAME_LIMIT);
        clean.trim_matches('-').to_owned()
    };
    let first = command.first().map(|word| base(word)).unwrap_or_default();
    let script = command
        .get(1)
        .filter(|word| !word.starts_with('-') && word.contains('.'))
        .map(|word| base(word))
        .filter(|name| !name.is_empty());
    let name = match (first.as_str(), script) {
        ("python" | "python3" | "bash" | "sh" | "node" | "ruby" | "perl", Some(script)) => script,
        ("", _) => "job".to_owned(),
        _ => first,
    };
    format!("{name}-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(std::iter::once("submit").chain(line.split_whitespace()))
            .map(|line| line.args)
    }

    #[test]
    fn flags_become_a_job() {
        let args = parse(
            "--name t --gpus 2 --vram 10Gi --cpu 500m --memory 4Gi -q research -p -5 --profile p -e A=1 -e B=x=y \
             --node n1 --needs ssd --needs ib -l team=vision -t 1h --grace-period 10 --array 4 --parallelism 2 -- python train.py --lr=1 {i}",
        )
        .unwrap();
        insta::assert_snapshot!(object::yaml(&job(&args, "default").unwrap()), @r#"
        apiVersion: gctl.dev/v1
        kind: Job
        metadata:
          labels:
            team: vision
          name: t
          namespace: default
        spec:
          activeDeadlineSeconds: 3600
          array:
            count: 4
            parallelism: 2
          command:
          - python
          - train.py
          - --lr=1
          - "{i}"
          env:
          - name: A
            value: "1"
          - name: B
            value: x=y
          needs:
          - ssd
          - ib
          nodeName: n1
          priority: -5
          profile: p
          queue: research
          resources:
            cpu: 500m
            gpus: 2
            memory: 4Gi
            vram: 10Gi
          terminationGracePeriodSeconds: 10
        "#);
    }

    #[test]
    fn what_kind_of_gpu_is_wanted_stands_in_one_place() {
        let gpu = |line: &str| {
            let job = job(&parse(line).unwrap(), "default").unwrap();
            job["spec"]["resources"]["gpu"].clone()
        };
        assert_eq!(gpu("--gpus 1 -- a"), Value::Null);
        assert_eq!(
            gpu("--gpus 2 --gpu-model H200 --interconnect nvlink -- a"),
            json!({"model": "H200", "interconnect": "NVLink"})
        );
        assert_eq!(
            gpu("--gpus 2 --interconnect pcie -- a"),
            json!({"interconnect": "PCIe"})
        );
        assert_eq!(
            gpu("--gpus 1 --gpu-slice 1g.10gb -- a"),
            json!({"slice": "1g.10gb"})
        );
    }

    #[test]
    fn wrong_flags_are_usage_errors() {
        for line in [
            "",
            "--gpus 2 --interconnect wire -- a",
            "--gpus x -- a",
            "--parallelism 2 -- a",
            "--name a --generate-name b -- c",
            "--time-limit soon -- a",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for line in [
            "--vram 10Q -- a",
            "--vram 10 -- a",
            "--memory 512 -- a",
            "-e UNSET_VARIABLE_OF_THIS_TEST -- a",
            "-l x -- a",
        ] {
            let error = job(&parse(line).unwrap(), "default").unwrap_err();
            assert_eq!(error.exit(), Exit::Usage, "{line}");
        }
    }

    #[test]
    fn names_are_made_from_the_command() {
        for (command, prefix) in [
            ("python3 /x/Train_Model.py -v", "train-model-"),
            ("/usr/bin/nvidia-smi", "nvidia-smi-"),
            ("./run.sh", "run-"),
            ("python -c print(1)", "python-"),
            ("___", "job-"),
        ] {
            let words: Vec<_> = command.split(' ').map(str::to_owned).collect();
            assert_eq!(prefix_of(&words), prefix, "{command}");
        }
    }
}
