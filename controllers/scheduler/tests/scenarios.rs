//! Scheduling law as text: every file in `tests/scenarios` is a script of commands with the output that they must have.
//!
//! A command is one line; the output that follows `----` runs to the next empty line. Commands without output have no
//! `----`. `GCTL_REWRITE=1 cargo test -p scheduler --test scenarios` writes what the commands print now; commit only
//! changes that you can explain.
//!
//! ```text
//! node a cpu=8 mem=64Gi gpus=24Gi,80Gi model=A100 cc=8.0 labels=zone=x taints=k=v:NoSchedule offers=docker max=4
//! node a gone | cordoned | notready | drain        (more words on a node line; it keeps what was said before)
//!        dirs=/data,/home numa=0,0,1,1 switch=x,x,y,y nvlink=0-1,2-3      (gpus= comes first; 10Gi@0:1g.10gb is a slice of GPU 0)
//! gpu a 0 used=3Gi foreign=2Gi,1Gi foreign-now=1Gi holders=1 sick use=JOB:used:peak
//! queue q paused gpus=2 vram=40Gi cpu=8 jobs=3 weight=2 borrow=gpus:2,cpu:4|all min=5m (run time before its jobs may be displaced)
//! settings settled=90 aging=10m cap=3 halflife=168h ahead=1h cores=20
//!       reserve=1m reservations=4 allowance=30 preemption=on|off     (an empty cluster under these settings)
//! used q 10h                   (GPU hours up to now)          usage a b c
//! job j cpu=1 mem=1Gi gpus=2 vram=10Gi prio=5 queue=q model=h100 cc=9.0 minmem=40Gi exclusive=gpu|node
//!       on=a select=k=v needs=docker tolerate=k=v:NoSchedule|k|* avoid=a lacking=a
//!       slices=any|1g.10gb link=numa|switch|nvlink dirs=/data/x spread prefer=50:zone=x,-20:offers=old,10:dir=/data
//!       preemptible limit=1h (or guard=48h, one by default) grace=30 runs=10m:1h (median and ninth decile) after=OTHER gang=g:3
//! bound j a 0,1 vram=10Gi cpu=1 prio=5 preemptible limit=1h grace=30 runs=10m:1h started=0 queued=0 checkpoint=5m stopping=90
//!             release j        undo j        confirm j        remove j        at 90
//! decide [limit]        why j        examine j        scores j        plan j [node]
//! ```

#![expect(clippy::unwrap_used, reason = "a malformed script is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

mod words;

use scheduler::explain::Standing;
use scheduler::whatif::DryRun;
use scheduler::{
    Attributed, BoundJob, Bytes, Capability, Cluster, Decision, DesiredState, Exclusive, Gpu,
    GpuRequest, GpuTime, GpuUuid, Job, MilliCpu, Millis, Node, NodeName, Packing, QueueState,
    Quota, Settings, Slices, preempt,
};
use words::{
    borrowing, bytes, clock, cpu, device, estimate, gang, gpus, joined, link, nominated, pairs,
    preference, reserved, settings, span, taint, time, toleration,
};

struct World {
    cluster: Cluster,
    nodes: BTreeMap<NodeName, Node>,
    jobs: BTreeMap<String, Job>,
    placed: BTreeMap<String, BoundJob>,
    now: Millis,
    clock: i64,
}

impl World {
    fn new() -> Self {
        Self {
            cluster: Cluster::new(Settings::default()),
            nodes: BTreeMap::new(),
            jobs: BTreeMap::new(),
            placed: BTreeMap::new(),
            now: Millis(0),
            clock: 0,
        }
    }

    fn run(&mut self, line: &str) -> Option<String> {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap();
        let rest: Vec<&str> = words.collect();
        let mut output = None;
        match command {
            "settings" => self.cluster = Cluster::new(settings(&rest)),
            "used" => {
                let used = GpuTime::gpu_seconds(u64::try_from(span(rest[1]).0).unwrap() / 1000);
                self.cluster.set_usage(&rest[0].into(), used, self.now);
            }
            "usage" => output = Some(self.usage(&rest)),
            "at" => self.now = Millis(rest[0].parse::<i64>().unwrap() * 1000),
            "node" => self.node(&rest),
            "gpu" => self.gpu(&rest),
            "queue" => self.queue(&rest),
            "job" => self.job(&rest),
            "bound" => self.bound(&rest),
            "confirm" => self.cluster.upsert_bound(self.placed[rest[0]].clone()),
            "release" => self.cluster.release(&rest[0].into()),
            "remove" => self.cluster.remove_job(&rest[0].into()),
            "undo" => assert!(
                self.cluster.undo(&rest[0].into()),
                "{line}: nothing to undo"
            ),
            "late" => {
                let news = self.cluster.upsert_job(self.jobs[rest[0]].clone());
                output = Some(format!("{}\n", if news { "news" } else { "no news" }));
            }
            "decide" => {
                let limit = rest
                    .first()
                    .map_or(usize::MAX, |limit| limit.parse().unwrap());
                output = Some(self.decide(limit));
            }
            "why" => output = Some(self.why(rest[0])),
            "plan" => output = Some(self.plan(&rest)),
            "explain" => output = Some(self.explain(rest[0])),
            "whatif" => output = Some(self.what_if(rest[0])),
            "dry" => output = Some(self.dry_run(&rest)),
            "scores" => {
                let scores = self.cluster.scores(&rest[0].into(), 9);
                let lines = scores.iter().map(|one| one.to_string() + "\n");
                output = Some(lines.collect());
            }
            "examine" => {
                let mut text = String::new();
                for (node, misfits) in self.cluster.examine(&rest[0].into()) {
                    let classes: Vec<_> = misfits.iter().map(|m| m.class().as_str()).collect();
                    writeln!(text, "{node}: {}", classes.join(", ")).unwrap();
                }
                output = Some(text);
            }
            _ => panic!("unknown command: {line}"),
        }
        assert_eq!(self.cluster.check(), Vec::new(), "after `{line}`");
        output
    }

    fn node(&mut self, words: &[&str]) {
        let name = NodeName::from(words[0]);
        if words.contains(&"gone") {
            self.nodes.remove(&name);
            return self.cluster.remove_node(&name);
        }
        let fresh = Node {
            ready: true,
            cpu: MilliCpu(8000),
            memory: Bytes::gib(64),
            ..Node::default()
        };
        let node = self.nodes.entry(name.clone()).or_insert(fresh);
        let (mut model, mut capability): (Arc<str>, _) = ("".into(), None);
        for word in &words[1..] {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "cpu" => node.cpu = cpu(value),
                "mem" => node.memory = bytes(value),
                "max" => node.max_jobs = Some(value.parse().unwrap()),
                "labels" => node.labels = pairs(value),
                "offers" => node.offers = value.split(',').map(Into::into).collect(),
                "taints" => node.taints = value.split(',').map(taint).collect(),
                "model" => model = value.into(),
                "cc" => capability = Capability::parse(value),
                "gpus" => {
                    let sizes = value.split(',').filter(|size| !size.is_empty()).enumerate();
                    node.gpus = sizes
                        .map(|(at, size)| Gpu {
                            model: model.clone(),
                            capability,
                            ..device(&name, at, size)
                        })
                        .collect();
                }
                "dirs" => node.directories = Some(value.split(',').map(Into::into).collect()),
                "numa" | "switch" | "nvlink" => joined(&mut node.gpus, key, value),
                "ready" => node.ready = true,
                "notready" => node.ready = false,
                "cordoned" => node.unschedulable = true,
                "uncordoned" => node.unschedulable = false,
                "run" => node.desired = DesiredState::Run,
                "pause" => node.desired = DesiredState::Pause,
                "drain" => node.desired = DesiredState::Drain,
                "stop" => node.desired = DesiredState::Stop,
                _ => panic!("unknown word of a node: {word}"),
            }
        }
        self.cluster.upsert_node(&name, node.clone());
    }

    fn gpu(&mut self, words: &[&str]) {
        let name = NodeName::from(words[0]);
        let node = self.nodes.get_mut(&name).unwrap();
        let gpu = &mut node.gpus[words[1].parse::<usize>().unwrap()];
        for word in &words[2..] {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "used" if value == "unknown" => gpu.used = None,
                "used" => gpu.used = Some(bytes(value)),
                "reserved" => gpu.reserved = bytes(value),
                "foreign" => {
                    let peaks = value.split(',').filter(|peak| !peak.is_empty());
                    gpu.foreign_peaks = peaks.map(bytes).collect();
                }
                "foreign-now" => gpu.foreign_used = Some(bytes(value)),
                "holders" => gpu.holders = value.parse().unwrap(),
                "sick" => gpu.healthy = false,
                "well" => gpu.healthy = true,
                "use" => {
                    let parts: Vec<&str> = value.split(':').collect();
                    gpu.attributed = vec![Attributed {
                        job: parts[0].into(),
                        attempt: 1,
                        used: bytes(parts[1]),
                        peak: bytes(parts[2]),
                    }];
                }
                _ => panic!("unknown word of a gpu: {word}"),
            }
        }
        self.cluster.upsert_node(&name, node.clone());
    }

    fn queue(&mut self, words: &[&str]) {
        let mut state = QueueState::default();
        for word in &words[1..] {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "paused" => state.paused = true,
                "gpus" => state.quota.gpus = Some(value.parse().unwrap()),
                "jobs" => state.quota.jobs = Some(value.parse().unwrap()),
                "cpu" => state.quota.cpu = Some(cpu(value)),
                "vram" => state.quota.vram = Some(bytes(value)),
                "min" => state.min_runtime = span(value),
                "borrow" => state.borrow = Some(borrowing(value)),
                "weight" => state.weight = value.parse().unwrap(),
                "open" => state.quota = Quota::default(),
                _ => panic!("unknown word of a queue: {word}"),
            }
        }
        self.cluster.upsert_queue(&words[0].into(), state);
    }

    fn job(&mut self, words: &[&str]) {
        let job = self.read_job(words);
        self.jobs.insert(words[0].to_owned(), job.clone());
        self.cluster.upsert_job(job);
    }

    fn read_job(&mut self, words: &[&str]) -> Job {
        self.clock += 1;
        let mut job = Job {
            uid: words[0].into(),
            queue: "default".into(),
            enqueued_micros: self.clock,
            ..Job::default()
        };
        let (mut count, mut vram) = (None, None);
        let needs = &mut job.requirements;
        for word in &words[1..] {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "queue" => job.queue = value.into(),
                "prio" => job.priority = value.parse().unwrap(),
                "enqueued" => job.enqueued_micros = value.parse().unwrap(),
                "preemptible" => job.terms.preemptible = true,
                "limit" => job.terms.limit = Some(span(value)),
                "guard" => {
                    job.terms.limit = Some(span(value));
                    job.terms.limit_by_default = true;
                }
                "grace" => job.terms.grace = span(value),
                "runs" => job.estimate = Some(estimate(value)),
                "gang" => job.gang = Some(gang(value)),
                "after" => job.ancestors = value.split(',').map(Into::into).collect(),
                "cpu" => needs.cpu = cpu(value),
                "mem" => needs.memory = bytes(value),
                "gpus" => count = Some(value.parse().unwrap()),
                "vram" => vram = Some(bytes(value)),
                "model" => needs.gpu_model = Some(value.into()),
                "cc" => needs.gpu_min_capability = Capability::parse(value),
                "minmem" => needs.gpu_min_memory = Some(bytes(value)),
                "exclusive" if value == "gpu" => needs.exclusive = Exclusive::Gpu,
                "exclusive" => needs.exclusive = Exclusive::Node,
                "on" => needs.node_name = Some(value.into()),
                "select" => needs.node_selector = pairs(value),
                "needs" => needs.needs = value.split(',').map(Into::into).collect(),
                "tolerate" => needs.tolerations = value.split(',').map(toleration).collect(),
                "avoid" => needs.avoid = value.split(',').map(Into::into).collect(),
                "lacking" => needs.lacking = value.split(',').map(Into::into).collect(),
                "slices" if value == "any" => needs.slices = Slices::Allowed,
                "slices" => needs.slices = Slices::Only(value.into()),
                "link" => needs.interconnect = link(value),
                "dirs" => needs.directories = value.split(',').map(Into::into).collect(),
                "spread" => needs.packing = Packing::Spread,
                "prefer" => needs.prefer = value.split(',').map(preference).collect(),
                _ => panic!("unknown word of a job: {word}"),
            }
        }
        needs.gpus = match (count, vram) {
            (None, None) => GpuRequest::None,
            (count, Some(bytes)) => GpuRequest::Vram {
                count: count.unwrap_or(1),
                bytes,
            },
            (Some(count), None) => GpuRequest::Whole(count),
        };
        job
    }

    fn bound(&mut self, words: &[&str]) {
        let gpus = words[2].split(',').filter(|at| *at != "-");
        let mut job = BoundJob {
            uid: words[0].into(),
            queue: "default".into(),
            attempt: 1,
            node: words[1].into(),
            gpus: gpus
                .map(|at| GpuUuid::from(format!("{}/{at}", words[1])))
                .collect(),
            bound_at: self.now,
            started: Some(self.now),
            ..BoundJob::default()
        };
        for word in &words[3..] {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "vram" => job.vram = Some(bytes(value)),
                "cpu" => job.cpu = cpu(value),
                "mem" => job.memory = bytes(value),
                "queue" => job.queue = value.into(),
                "whole" => job.whole_gpus = true,
                "prio" => job.priority = value.parse().unwrap(),
                "preemptible" => job.terms.preemptible = true,
                "limit" => job.terms.limit = Some(span(value)),
                "guard" => {
                    job.terms.limit = Some(span(value));
                    job.terms.limit_by_default = true;
                }
                "grace" => job.terms.grace = span(value),
                "runs" => job.estimate = Some(estimate(value)),
                "gang" => job.gang = Some(gang(value).id),
                "started" => job.started = Some(time(value)),
                "queued" => job.enqueued_micros = Some(time(value).0 * 1000),
                "checkpoint" => job.checkpointed = Some(time(value)),
                "stopping" => job.stopping = Some(time(value)),
                _ => panic!("unknown word of a bound job: {word}"),
            }
        }
        self.cluster.upsert_bound(job);
    }

    fn decide(&mut self, limit: usize) -> String {
        let mut text = String::new();
        for decision in self.cluster.decide(self.now, limit) {
            match decision {
                Decision::Bind(placement) => {
                    let gpus = gpus(&placement);
                    writeln!(text, "bind {} {}{gpus}", placement.job, placement.node).unwrap();
                    let uid = placement.job.to_string();
                    let job = &self.jobs[&uid];
                    let bound = BoundJob {
                        attempt: 1,
                        started: Some(self.now),
                        ..placement.bound(job, self.now)
                    };
                    self.placed.insert(uid, bound);
                }
                Decision::Infeasible { job, why } => {
                    writeln!(text, "never {job} {}: {why}", why.class()).unwrap();
                }
                Decision::Waiting { job, why } => {
                    writeln!(text, "wait {job} {}: {why}", why.class()).unwrap();
                }
                Decision::Reserve { job, reservation } => {
                    writeln!(text, "reserve {job} {}", reserved(reservation.as_ref())).unwrap();
                }
                Decision::Nominate { job, nomination } => {
                    writeln!(text, "nominate {job} {}", nominated(nomination.as_ref())).unwrap();
                }
            }
        }
        text
    }

    fn plan(&self, words: &[&str]) -> String {
        let job = words[0].into();
        let plans = match words.get(1) {
            None => preempt::plan_gang(&self.cluster, &job, self.now),
            Some(node) => preempt::plan_on(&self.cluster, &job, &(*node).into(), self.now)
                .map(|plan| vec![plan]),
        };
        let plans = match plans {
            Ok(plans) => plans,
            Err(why) => return format!("no plan: {why}\n"),
        };
        let mut text = String::new();
        for plan in plans {
            let gpus = gpus(&plan.placement);
            writeln!(text, "{}{gpus}", plan.placement.node).unwrap();
            for victim in plan.victims {
                writeln!(text, "stop {victim}").unwrap();
            }
            for job in plan.leaving {
                writeln!(text, "leaving {job}").unwrap();
            }
        }
        text
    }

    fn usage(&self, queues: &[&str]) -> String {
        let line = |queue: &&str| {
            let used = self.cluster.usage(&(*queue).into(), self.now);
            format!("{queue} {} GPU seconds\n", used.as_gpu_seconds())
        };
        queues.iter().map(line).collect()
    }

    fn explain(&self, job: &str) -> String {
        let why = self.cluster.why(&job.into(), self.now).unwrap();
        why.lines(&clock).join("\n") + "\n"
    }

    fn what_if(&self, job: &str) -> String {
        let remedies = self.cluster.what_if(&job.into(), self.now);
        let lines = remedies.iter().map(|remedy| remedy.line(&clock) + "\n");
        lines.collect()
    }

    fn dry_run(&mut self, words: &[&str]) -> String {
        let job = self.read_job(words);
        match self.cluster.dry_run(job, self.now).unwrap() {
            DryRun::Starts(placement) => {
                format!("starts on {}{}\n", placement.node, gpus(&placement))
            }
            DryRun::Never(why) => format!("{why}\n"),
            DryRun::Waits { why, plans } => {
                let mut text = why.lines(&clock).join("\n") + "\n";
                match plans {
                    Ok(plans) => {
                        for victim in plans.into_iter().flat_map(|plan| plan.victims) {
                            writeln!(text, "stop {victim}").unwrap();
                        }
                    }
                    Err(why) => writeln!(text, "no plan: {why}").unwrap(),
                }
                text
            }
        }
    }

    fn why(&self, job: &str) -> String {
        match self.cluster.explain(&job.into()) {
            None => "unknown\n".into(),
            Some(Standing::Bound(node)) => format!("bound to {node}\n"),
            Some(Standing::Fits(node)) => format!("fits {node}\n"),
            Some(Standing::Waits(why)) => format!("waits {}: {why}\n", why.class()),
            Some(Standing::Never(why)) => format!("never {}: {why}\n", why.class()),
        }
    }
}

/// Runs one file and answers it with the output that its commands have now.
fn replay(script: &str) -> String {
    let mut world = World::new();
    let mut result = String::new();
    let mut lines = script.lines().peekable();
    while let Some(line) = lines.next() {
        result.push_str(line);
        result.push('\n');
        if line.trim().is_empty() {
            continue;
        }
        if let Some(title) = line.strip_prefix('#') {
            // A line with two marks starts a new scenario in an empty world.
            if title.starts_with('#') {
                world = World::new();
            }
            continue;
        }
        let output = world.run(line);
        if lines.peek() == Some(&"----") {
            lines.next();
            while lines.peek().is_some_and(|line| !line.is_empty()) {
                lines.next();
            }
        }
        if let Some(output) = output {
            result.push_str("----\n");
            result.push_str(&output);
        }
    }
    result
}

#[test]
fn every_scenario_goes_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let rewrite = std::env::var_os("GCTL_REWRITE").is_some();
    let files: BTreeSet<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(!files.is_empty());
    for path in files {
        let script = std::fs::read_to_string(&path).unwrap();
        let result = replay(&script);
        if rewrite {
            std::fs::write(&path, &result).unwrap();
            continue;
        }
        let wanted = script.lines().zip(result.lines()).enumerate();
        for (at, (wanted, found)) in wanted {
            assert_eq!(wanted, found, "{}:{}", path.display(), at + 1);
        }
        assert!(
            rewrite || script == result,
            "{}: more or less output than written",
            path.display()
        );
    }
}
