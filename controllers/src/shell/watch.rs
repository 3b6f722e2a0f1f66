//! One watch a kind, kept up for ever and fed into one bounded channel.
//!
//! kube's `watcher()` lists, watches, resumes and lists afresh when its revision has expired; here are only the pauses
//! after errors, because kube's own draw unseeded randomness.

use std::fmt::Debug;
use std::time::Duration;

use crds::{Job, LeanJob, Node, Profile, Queue};
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Events that wait to be taken in, of all kinds together. Beyond it the watches are read more slowly, and a server that
/// will not wait ends them, which leads to a resumption.
pub(crate) const CHANNEL_EVENTS: usize = 1024;
/// First pause after an error of a watch.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause after errors of a watch: five connections every two seconds cost a server that comes back nothing.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Job,
    Node,
    Queue,
    Profile,
    Lease,
}

/// What a watch has told.
#[derive(Debug)]
pub(crate) enum Observation {
    Job(Box<Event<Job>>),
    Node(Box<Event<Node>>),
    Queue(Event<Queue>),
    Profile(Event<Profile>),
    Lease(Event<Lease>),
    /// The watch broke off, and is tried again after a pause; what happened meanwhile comes with its resumption.
    Interrupted(Kind, Duration),
}

/// Starts the watches of all kinds. They end when the set is dropped or the channel is closed.
pub(crate) fn start(client: &Client, seed: u64, events: &mpsc::Sender<Observation>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let seed_of = |kind: Kind| seed ^ ((kind as u64) << 32);
    tasks.spawn(follow(
        Api::<Queue>::all(client.clone()),
        Kind::Queue,
        seed_of(Kind::Queue),
        events.clone(),
        Observation::Queue,
    ));
    tasks.spawn(follow(
        Api::<Profile>::all(client.clone()),
        Kind::Profile,
        seed_of(Kind::Profile),
        events.clone(),
        Observation::Profile,
    ));
    tasks.spawn(follow(
        Api::<Lease>::namespaced(client.clone(), crds::NODE_LEASE_NAMESPACE),
        Kind::Lease,
        seed_of(Kind::Lease),
        events.clone(),
        Observation::Lease,
    ));
    tasks.spawn(follow(
        Api::<Node>::all(client.clone()),
        Kind::Node,
        seed_of(Kind::Node),
        events.clone(),
        |event| Observation::Node(Box::new(event)),
    ));
    tasks.spawn(follow(
        Api::<LeanJob>::all(client.clone()),
        Kind::Job,
        seed_of(Kind::Job),
        events.clone(),
        |event| Observation::Job(Box::new(of_job(event))),
    ));
    tasks
}

async fn follow<K>(
    api: Api<K>,
    kind: Kind,
    seed: u64,
    events: mpsc::Sender<Observation>,
    wrap: fn(Event<K>) -> Observation,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut jitter = StdRng::seed_from_u64(seed);
    let mut failures = 0_u32;
    let mut stream = Box::pin(watcher(api, watcher::Config::default()));
    while let Some(next) = stream.next().await {
        match next {
            Ok(event) => {
                // The beginning of a list is no success yet: it is said before the request is sent.
                if !matches!(event, Event::Init) {
                    failures = 0;
                }
                if events.send(wrap(event)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                let pause = FIRST_PAUSE
                    .saturating_mul(1 << failures.min(16))
                    .min(LONGEST_PAUSE);
                let pause = pause + pause.mul_f64(jitter.random_range(0.0..0.25));
                failures = failures.saturating_add(1);
                if failures == 5 {
                    tracing::warn!(?kind, error = %chain(&error), "watch keeps failing");
                } else {
                    tracing::debug!(?kind, error = %chain(&error), "watch interrupted");
                }
                if events
                    .send(Observation::Interrupted(kind, pause))
                    .await
                    .is_err()
                {
                    return;
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}

fn of_job(event: Event<LeanJob>) -> Event<Job> {
    match event {
        Event::Apply(LeanJob(job)) => Event::Apply(job),
        Event::Delete(LeanJob(job)) => Event::Delete(job),
        Event::Init => Event::Init,
        Event::InitApply(LeanJob(job)) => Event::InitApply(job),
        Event::InitDone => Event::InitDone,
    }
}

/// An error and its causes, joined by colons.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // kube repeats the cause in its own words.
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}
