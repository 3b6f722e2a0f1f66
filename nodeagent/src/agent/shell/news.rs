//! What the shell hears: the watch of jobs, the server's answers, and ends of attempts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::job_status::{Usage, VramVerdict};
use crds::{Job, LeanJob};
use kube::ResourceExt;
use kube::runtime::watcher;
use tokio::time::Instant;

use super::{JobSlot, Known, Shell, version};
use crate::attempt::{AttemptId, Charge, Ended};

impl Shell {
    pub(super) fn on_watch(&mut self, event: watcher::Event<LeanJob>) {
        match event {
            watcher::Event::Init => self.listing = Some(BTreeSet::new()),
            watcher::Event::InitApply(LeanJob(job)) => {
                if let Some(listing) = &mut self.listing {
                    listing.extend(job.uid());
                }
                self.on_job(job, false);
            }
            watcher::Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                if !std::mem::replace(&mut self.listed, true) {
                    self.enqueue_all();
                }
                let vanished: Vec<_> = self
                    .jobs
                    .keys()
                    .filter(|uid| !listed.contains(*uid))
                    .cloned()
                    .collect();
                for uid in vanished {
                    self.doubt(&uid);
                }
            }
            watcher::Event::Apply(LeanJob(job)) => self.on_job(job, false),
            watcher::Event::Delete(LeanJob(job)) => {
                // Only a hint: it is read again by name, unless an answer that is under way tells.
                if let Some(uid) = job.uid()
                    && let Some(slot) = self.jobs.get_mut(&uid)
                {
                    slot.hinted = true;
                    if slot.operations == 0 {
                        self.heed_hint(&uid);
                    }
                }
            }
        }
    }

    pub(super) fn on_job(&mut self, job: Job, fresh: bool) {
        let Some(uid) = job.uid() else { return };
        let version = version(&job);
        if self
            .tomb_versions
            .get(&uid)
            .is_some_and(|tomb| version <= *tomb)
        {
            return;
        }
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        let job = Arc::new(job);
        let node = &self.context.options.node_name;
        let boot_id = &self.context.facts.boot_id;
        let Some(slot) = self.jobs.get_mut(&uid) else {
            let mut slot = JobSlot::new(namespace, name, Known::Job { job, fresh });
            slot.update_hold(node, boot_id);
            self.jobs.insert(uid.clone(), slot);
            self.enqueue(&uid);
            return;
        };
        let newer_than = |known: &Job| version > super::version(known);
        let seen = match &mut slot.seen {
            Known::Gone => return,
            Known::Unverified { news } if fresh => match news.take() {
                // The watch overtook the answer.
                Some(news) if super::version(&news) > version => Known::Job {
                    job: news,
                    fresh: false,
                },
                _ => Known::Job { job, fresh },
            },
            Known::Unverified { news } => {
                if news.as_deref().is_none_or(newer_than) {
                    *news = Some(job);
                    slot.update_hold(node, boot_id);
                }
                return;
            }
            Known::Job { job: known, .. } if newer_than(known) => Known::Job { job, fresh },
            Known::Job { fresh: known, .. } => {
                *known |= fresh;
                return;
            }
        };
        slot.namespace = namespace;
        slot.name = name;
        slot.seen = seen;
        slot.update_hold(node, boot_id);
        self.enqueue(&uid);
    }

    /// Reads a job again that left the watch, unless it is known to have ended.
    pub(super) fn heed_hint(&mut self, uid: &str) {
        let Some(slot) = self.jobs.get_mut(uid) else {
            return;
        };
        let ended = match &slot.seen {
            Known::Job { job, .. } => {
                let status = job.status.as_ref();
                status.is_some_and(|status| status.outcome.is_some())
            }
            Known::Gone => true,
            Known::Unverified { .. } => false,
        };
        if std::mem::take(&mut slot.hinted) && !ended {
            self.doubt(uid);
        }
    }

    pub(super) fn doubt(&mut self, uid: &str) {
        if let Some(slot) = self.jobs.get_mut(uid) {
            if !matches!(slot.seen, Known::Unverified { .. }) {
                slot.seen = Known::Unverified { news: None };
            }
            self.enqueue(uid);
        }
    }

    pub(super) fn on_end(&mut self, id: &AttemptId, ended: Ended) {
        let Some(attempt) = self.attempts.get_mut(id) else {
            return;
        };
        if attempt.ended.is_some() || (ended.lingering.is_some() && attempt.lingering.is_some()) {
            return;
        }
        let lingers = ended.lingering.is_some();
        let lingered = attempt.lingering.take().is_some();
        let told = Some((ended, Instant::now()));
        if lingers {
            attempt.lingering = told;
        } else {
            attempt.ended = told;
        }
        if !lingered {
            let peaks = self.context.take_peaks(id);
            attempt.usage = gpu_usage(&attempt.charge, peaks);
            self.publish_running();
        }
        if lingers || lingered {
            self.publish_lingering();
        }
        self.send_log(id);
        self.enqueue(&id.uid);
    }

    /// An attempt was frozen: whether it may go on is read once there is contact.
    pub(super) fn on_fence(&mut self, id: &AttemptId) {
        if let Some(attempt) = self.attempts.get_mut(id) {
            attempt.fenced = true;
            self.doubt(&id.uid);
        }
    }

    /// A renewal was acknowledged: what is frozen is read again, because what was known is of before.
    pub(super) fn on_contact(&mut self) {
        let fenced = self.attempts.iter().filter(|(_, attempt)| attempt.fenced);
        let uids: Vec<_> = fenced.map(|(id, _)| id.uid.clone()).collect();
        for uid in uids {
            match self.jobs.get_mut(&uid) {
                // What is under way may have been answered before.
                Some(slot) if slot.operations > 0 => slot.hinted = true,
                _ => self.doubt(&uid),
            }
        }
    }

    pub(super) fn on_timer(&mut self) {
        let now = Instant::now();
        while let Some((time, _)) = self.timers.first() {
            if *time > now {
                return;
            }
            let Some((time, uid)) = self.timers.pop_first() else {
                return;
            };
            if let Some(slot) = self.jobs.get_mut(&uid)
                && slot.timer == Some(time)
            {
                slot.timer = None;
            }
            if self.waits_for_its_gang(&uid) {
                self.doubt(&uid);
            } else {
                self.enqueue(&uid);
            }
        }
    }
}

/// What an attempt used of its GPUs, where it was seen on any.
fn gpu_usage(charge: &Charge, peaks: BTreeMap<String, u64>) -> Option<Usage> {
    let most = peaks.values().copied().max()?;
    let verdict = match charge.vram_bytes.filter(|_| !charge.whole_gpus) {
        None => VramVerdict::Undeclared,
        Some(declared) if most > declared => VramVerdict::Exceeded,
        Some(declared) if most < declared / 2 => VramVerdict::Overdeclared,
        Some(_) => VramVerdict::Fitting,
    };
    Some(Usage {
        peak_vram_bytes: peaks,
        vram_verdict: Some(verdict),
        ..Usage::default()
    })
}
