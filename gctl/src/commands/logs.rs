//! `gctl logs`: a job's output, from any offset, and on as it is written.
//!
//! **Guarantees.** A lost connection loses and repeats nothing: reading goes on from the byte that was reached, in the same attempt.
//! Who follows a job gets the attempts that come after, whole and in order, until the job has ended.

use std::time::Duration;

use crds::Job;
use futures::StreamExt;
use http_body_util::BodyExt;

use crate::api;
use crate::error::Error;
use crate::exit::Exit;
use crate::follow;
use crate::session::{Session, Target};

/// First look back for `--tail`, in bytes; four times as much each time it holds too few lines.
const TAIL_START: u64 = 64 << 10;
/// Pauses while there is nothing to read yet, or no server.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Failures in a row to reach the server after which following ends.
const FAILURE_LIMIT: u32 = 60;

/// Arguments of `gctl logs`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Name of the job
    #[arg(value_name = "JOB")]
    pub job: String,
    /// Go on until the job has ended, through all attempts that follow (with --attempt, until that has); waits for a job that
    /// has not started
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES", conflicts_with = "tail_bytes")]
    pub tail: Option<u64>,
    /// Only the last bytes
    #[arg(long, value_name = "BYTES")]
    pub tail_bytes: Option<u64>,
    /// Of the member of a gang with this rank
    #[arg(long, value_name = "N")]
    pub rank: Option<u32>,
    /// Of this attempt; without it the latest that has written anything
    #[arg(long)]
    pub attempt: Option<u32>,
}

/// Runs the command.
///
/// # Errors
/// When the job does not exist or has no log.
pub async fn run(session: &mut Session, args: &Args) -> Result<Exit, Error> {
    let name = match args.rank {
        Some(rank) => format!("{}-{rank}", args.job),
        None => args.job.clone(),
    };
    let target = session
        .job_targets(std::slice::from_ref(&name))
        .await?
        .remove(0);
    let mut reader = Reader::new(session, &target, args.attempt, args.follow);
    if let Some(lines) = args.tail {
        reader.tail_lines(session, lines).await?;
    }
    reader.tail_bytes = args.tail_bytes.filter(|_| args.tail.is_none());
    reader.copy(session).await?;
    Ok(Exit::Ok)
}

/// Copies a job's output to standard output until it has ended.
///
/// # Errors
/// When the log cannot be read.
pub async fn copy_all(session: &mut Session, target: &Target) -> Result<(), Error> {
    Reader::new(session, target, None, true).copy(session).await
}

struct Reader {
    path: String,
    object: String,
    attempted: String,
    attempt: Option<u32>,
    /// True when that attempt was asked for, and no other.
    only: bool,
    offset: Option<u64>,
    tail_bytes: Option<u64>,
    follow: bool,
}

/// What comes after all that an attempt has written so far.
enum Next {
    /// It may write more, or the job may run again.
    Wait,
    /// Another attempt.
    Attempt(u32),
    /// Nothing.
    Over,
}

/// How a stream of bytes came to its end.
enum End {
    Clean,
    Broken(String),
}

impl Reader {
    fn new(session: &Session, target: &Target, attempt: Option<u32>, follow: bool) -> Self {
        let namespace = target.namespace.as_deref().unwrap_or(&session.namespace);
        Reader {
            path: path(namespace, &target.name),
            object: target.path(),
            attempted: format!("read the log of {}", target.label()),
            attempt,
            only: attempt.is_some(),
            offset: None,
            tail_bytes: None,
            follow,
        }
    }

    async fn open(
        &mut self,
        session: &Session,
        follow: bool,
    ) -> Result<http::Response<kube::client::Body>, Error> {
        let number = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
        let uri = format!(
            "{}{}",
            self.path,
            api::query(&[
                ("attempt", &number(self.attempt.map(u64::from))),
                ("sinceOffset", &number(self.offset)),
                (
                    "tailBytes",
                    &number(self.tail_bytes.filter(|_| self.offset.is_none()))
                ),
                ("follow", if follow { "true" } else { "" }),
            ])
        );
        let response = session.api.stream(&uri, &self.attempted).await?;
        let header = |name: &str| -> Option<u64> {
            response.headers().get(name)?.to_str().ok()?.parse().ok()
        };
        self.attempt = header("gctl-log-attempt")
            .and_then(|attempt| u32::try_from(attempt).ok())
            .or(self.attempt);
        self.offset = header("gctl-log-offset").or(self.offset).or(Some(0));
        Ok(response)
    }

    async fn copy(&mut self, session: &mut Session) -> Result<(), Error> {
        let mut pause = PAUSE.0;
        let mut failures = 0;
        let mut read = false;
        loop {
            let opened = self.open(session, self.follow).await;
            let reason = match opened {
                Ok(response) => {
                    failures = 0;
                    read = true;
                    let from = self.offset;
                    let end = self.pour(session, response).await?;
                    if self.offset != from {
                        pause = PAUSE.0;
                    }
                    match end {
                        End::Clean if !self.follow => return Ok(()),
                        End::Clean => {
                            if self.is_over(session).await? {
                                return Ok(());
                            }
                            None
                        }
                        End::Broken(reason) => Some(reason),
                    }
                }
                Err(error) if error.is_not_found() && read && self.follow => {
                    // An attempt after one that was read has written nothing, or not yet.
                    if self.is_over(session).await? {
                        return Ok(());
                    }
                    None
                }
                Err(error) if error.is_not_found() => {
                    self.explain_missing(session, error).await?;
                    None
                }
                Err(error) if error.is_transient() && self.follow && failures < FAILURE_LIMIT => {
                    failures += 1;
                    (failures == 1).then(|| error.to_string())
                }
                Err(error) => return Err(error),
            };
            if let Some(reason) = reason {
                session.output.say(format!(
                    "the log was interrupted and goes on when it can: {reason}"
                ));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Writes out what comes, counting the bytes.
    async fn pour(
        &mut self,
        session: &mut Session,
        response: http::Response<kube::client::Body>,
    ) -> Result<End, Error> {
        let mut stream = response.into_body().into_data_stream();
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(bytes) => {
                    session.output.raw(&bytes)?;
                    self.offset = self.offset.map(|offset| offset + bytes.len() as u64);
                }
                Err(error) => return Ok(End::Broken(api::chain(&error))),
            }
        }
        Ok(End::Clean)
    }

    /// A stream was followed to its end: is there no more to come? Goes on to the next attempt if there is one.
    async fn is_over(&mut self, session: &mut Session) -> Result<bool, Error> {
        let job = session.api.find(&self.object, &self.attempted).await?;
        match job
            .and_then(follow::read_job)
            .map_or(Next::Over, |job| self.next(&job))
        {
            Next::Wait => Ok(false),
            Next::Over => Ok(true),
            Next::Attempt(attempt) => {
                session.output.say(format!("attempt {attempt} follows"));
                self.attempt = Some(attempt);
                self.offset = None;
                self.tail_bytes = None;
                Ok(false)
            }
        }
    }

    fn next(&self, job: &Job) -> Next {
        let latest = job.status.as_ref().map_or(0, |status| status.attempt);
        let later = self.attempt.filter(|attempt| *attempt < latest);
        match later {
            Some(_) if self.only => Next::Over,
            Some(attempt) => Next::Attempt(attempt + 1),
            None if follow::phase_of(job).is_terminal() => Next::Over,
            None if self.only => {
                let status = job.status.as_ref();
                let over = status.is_some_and(|s| s.finish_time.is_some() && s.release.is_some());
                if over { Next::Over } else { Next::Wait }
            }
            None => Next::Wait,
        }
    }

    /// Nothing was written yet: an error, unless it can still come and is waited for.
    async fn explain_missing(&self, session: &Session, missing: Error) -> Result<(), Error> {
        let object = session
            .api
            .get(&self.object, api::JSON, &self.attempted)
            .await?;
        let Some(job) = follow::read_job(object) else {
            return Err(missing);
        };
        let status = job.status.clone().unwrap_or_default();
        let phase = follow::phase_of(&job);
        let name = job.metadata.name.clone().unwrap_or_default();
        if status.array.is_some() || job.spec.array.is_some() {
            return Err(Error::State(format!(
                "failed to {}: it is an array and writes nothing itself; its members do: gctl logs {name}-0",
                self.attempted
            )));
        }
        if let Some(size) = follow::gang_size(&job) {
            let last = size - 1;
            return Err(Error::State(format!(
                "failed to {}: it is a gang and writes nothing itself; its members {name}-0 to {name}-{last} do: gctl logs {name} --rank 0",
                self.attempted
            )));
        }
        if phase.is_terminal() {
            let words = if status.attempt == 0 {
                "it never ran"
            } else {
                "it wrote nothing"
            };
            return Err(Error::State(format!(
                "failed to {}: {words} ({phase:?}{})",
                self.attempted,
                status
                    .message
                    .map_or_else(String::new, |message| format!(": {message}"))
            )));
        }
        if self.follow {
            return Ok(());
        }
        let advice = if status.claim.is_some() {
            "it has written nothing yet"
        } else {
            "it has not started"
        };
        Err(Error::State(format!(
            "failed to {}: {advice} ({phase:?}); -f waits for it",
            self.attempted
        )))
    }

    /// Moves to where the last lines begin.
    async fn tail_lines(&mut self, session: &mut Session, lines: u64) -> Result<(), Error> {
        let mut back = TAIL_START;
        loop {
            self.offset = None;
            self.tail_bytes = Some(back);
            let response = match self.open(session, false).await {
                Ok(response) => response,
                // `copy` says what a missing log means, and waits for it where that was asked.
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(error),
            };
            let start = self.offset.unwrap_or(0);
            let bytes = response
                .into_body()
                .collect()
                .await
                .map_err(|error| Error::BadAnswer {
                    attempted: self.attempted.clone(),
                    reason: api::chain(&error),
                })?
                .to_bytes();
            match last_lines(&bytes, lines) {
                Some(from) => self.offset = Some(start + from as u64),
                None if start == 0 => self.offset = Some(0),
                None => {
                    back = back.saturating_mul(4);
                    continue;
                }
            }
            return Ok(());
        }
    }
}

/// Where the last `lines` lines begin; nothing when the bytes may hold fewer.
fn last_lines(bytes: &[u8], lines: u64) -> Option<usize> {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if lines == 0 {
        return Some(bytes.len());
    }
    let mut seen = 0;
    for (index, byte) in body.iter().enumerate().rev() {
        if *byte == b'\n' {
            seen += 1;
            if seen == lines {
                return Some(index + 1);
            }
        }
    }
    None
}

/// The path of a job's log.
fn path(namespace: &str, name: &str) -> String {
    format!(
        "/apis/streams.gctl.dev/v1/namespaces/{}/jobs/{}/log",
        api::encode(namespace),
        api::encode(name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(attempt: u32, phase: &str, over: bool) -> Job {
        let mut status = serde_json::json!({"attempt": attempt, "phase": phase});
        if over {
            status["finishTime"] = "2026-01-01T00:00:00.000000Z".into();
            status["release"] =
                serde_json::json!({"attempt": attempt, "time": "2026-01-01T00:00:00.000000Z"});
        }
        serde_json::from_value(serde_json::json!({
            "apiVersion": "gctl.dev/v1", "kind": "Job", "metadata": {"name": "x"},
            "spec": {"command": ["x"]}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_job_is_followed_through_its_attempts_and_an_attempt_until_it_is_over() {
        let rows = [
            // read, asked for, latest, phase, over, next
            (1, false, 1, "Running", false, "wait"),
            (1, false, 1, "Succeeded", true, "over"),
            // It ended, and may be put back into the queue.
            (1, false, 1, "Stopping", true, "wait"),
            (1, false, 1, "Pending", false, "wait"),
            (1, false, 2, "Scheduled", false, "2"),
            (1, false, 3, "Failed", true, "2"),
            (3, false, 3, "Failed", true, "over"),
            (1, true, 1, "Running", false, "wait"),
            (1, true, 1, "Stopping", true, "over"),
            (1, true, 2, "Running", false, "over"),
        ];
        for (attempt, only, latest, phase, over, expected) in rows {
            let reader = Reader {
                path: String::new(),
                object: String::new(),
                attempted: String::new(),
                attempt: Some(attempt),
                only,
                offset: None,
                tail_bytes: None,
                follow: true,
            };
            let next = match reader.next(&job(latest, phase, over)) {
                Next::Wait => "wait".to_owned(),
                Next::Over => "over".to_owned(),
                Next::Attempt(attempt) => attempt.to_string(),
            };
            assert_eq!(next, expected, "{attempt} {only} {latest} {phase}");
        }
    }

    #[test]
    fn the_last_lines_are_found_with_and_without_a_final_newline() {
        for (text, lines, from) in [
            ("a\nb\nc\n", 1, Some(4)),
            ("a\nb\nc", 1, Some(4)),
            ("a\nb\nc\n", 2, Some(2)),
            ("a\nb\nc\n", 3, None),
            ("a\n\n", 1, Some(2)),
            ("abc", 0, Some(3)),
            ("", 1, None),
        ] {
            assert_eq!(last_lines(text.as_bytes(), lines), from, "{text:?} {lines}");
        }
    }
}
