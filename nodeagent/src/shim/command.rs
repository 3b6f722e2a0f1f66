//! Starts an attempt's command below its shim: own session, own user, own environment, output into one file.
//!
//! The child shares the shim's memory until its exec, and the shim waits for that, so a command that cannot be started is
//! known before anything else happens, with the reason in words.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::unistd::{Gid, Pid, Uid};

use super::cgroup::Cgroup;
use super::checkpoint::Place;
use super::{record, sys};
use crate::attempt::{HOSTFILE_VARIABLE, Program, RunAs, StartRequest};

/// Exit code for a command that was not found, as shells have it.
const NOT_FOUND: i32 = 127;
/// Exit code for a command that was found and could not be executed.
const NOT_EXECUTABLE: i32 = 126;

/// Where the command is searched when the job's environment has no PATH.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a command could not be started.
#[derive(Debug)]
pub(crate) struct StartFailure {
    pub(crate) code: i32,
    pub(crate) text: String,
}

/// What a child was about to do when it failed.
#[derive(Clone, Copy)]
enum Stage {
    User,
    Directory,
    Exec,
    Output,
    Checkpoints,
}

/// Makes the child and executes. Returns once exec succeeded or failed.
pub(crate) fn start(
    request: &StartRequest,
    dir: &Path,
    log: &File,
    oom_score_adj: Option<i32>,
    cgroup: Option<&Cgroup>,
) -> Result<Pid, StartFailure> {
    let plan = Plan::new(request, dir)?;
    let mut failure = None;
    let pid = start_in(cgroup, |to_join| {
        if let Some(cgroup) = to_join {
            // Best effort: without it, the shim still holds the tree.
            let _ = cgroup.join();
        }
        let (stage, error) = plan.try_become(log, oom_score_adj);
        failure = Some((stage, error));
        if error == Errno::ENOENT {
            NOT_FOUND
        } else {
            NOT_EXECUTABLE
        }
    })
    .map_err(|error| failed(format!("cannot make a process: {error}")))?;
    match failure {
        None => Ok(pid),
        // The child is left to the shim's wait for everything below it.
        Some((stage, error)) => Err(plan.explain(stage, error)),
    }
}

/// Makes the child in the cgroup where that can be; else it has yet to join the one that `act` is given.
fn start_in(
    cgroup: Option<&Cgroup>,
    mut act: impl FnMut(Option<&Cgroup>) -> i32,
) -> io::Result<Pid> {
    if let Some(target) = cgroup.and_then(Cgroup::clone_target)
        && let Ok(pid) = sys::start_sharing(Some(target.as_fd()), &mut || act(None))
    {
        return Ok(pid);
    }
    sys::start_sharing(None, &mut || act(cgroup))
}

fn failed(text: String) -> StartFailure {
    StartFailure {
        code: NOT_EXECUTABLE,
        text,
    }
}

/// Everything that needs memory or files, made before the fork.
struct Plan {
    candidates: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    directory: CString,
    /// The attempt's own directory, opened while this process may pass the folders above it.
    opened: Option<OwnedFd>,
    checkpoints: Option<Place>,
    run_as: Option<RunAs>,
}

impl Plan {
    fn new(request: &StartRequest, dir: &Path) -> Result<Self, StartFailure> {
        let words = match &request.program {
            Program::Command(words) => words.clone(),
            Program::Script(text) => script_words(
                text,
                request.run_as.as_ref(),
                dir,
                request.working_dir.is_none(),
            )
            .map_err(|error| failed(format!("cannot write the script: {error}")))?,
        };
        let program = words
            .first()
            .filter(|word| !word.is_empty())
            .ok_or_else(|| failed("the command is empty".to_owned()))?;
        let path = request
            .env
            .iter()
            .rev()
            .find(|(name, _)| name == "PATH")
            .map_or(DEFAULT_PATH, |(_, value)| value.as_str());
        let directory = if let Some(directory) = &request.working_dir {
            directory.clone()
        } else {
            let work = dir.join(record::WORK);
            make_work(&work, request.run_as.as_ref())?;
            work.to_string_lossy().into_owned()
        };
        let opened = match (&request.working_dir, &request.run_as) {
            (None, Some(_)) => Some(OwnedFd::from(File::open(&directory).map_err(|error| {
                failed(format!("cannot open the working directory: {error}"))
            })?)),
            _ => None,
        };
        let mut env = request.env.clone();
        if let Some(hosts) = &request.hostfile {
            let own_directory = request.working_dir.is_none();
            let path = write_hosts(hosts, request.run_as.as_ref(), dir, own_directory)
                .map_err(|error| failed(format!("cannot write the hosts of its gang: {error}")))?;
            env.push((
                HOSTFILE_VARIABLE.to_owned(),
                path.to_string_lossy().into_owned(),
            ));
        }
        let checkpoints = request.checkpoint_dir.as_ref();
        let checkpoints = checkpoints
            .map(|directory| Place::prepare(Path::new(directory), dir, request.run_as.as_ref()))
            .transpose()
            .map_err(|error| failed(format!("cannot prepare for checkpoints: {error}")))?;
        env.extend(checkpoints.iter().flat_map(Place::variables));
        let candidates = if program.contains('/') {
            vec![c_string(program.clone())?]
        } else {
            path.split(':')
                .filter(|folder| !folder.is_empty())
                .map(|folder| c_string(format!("{folder}/{program}")))
                .collect::<Result<_, _>>()?
        };
        Ok(Self {
            candidates,
            arguments: words.into_iter().map(c_string).collect::<Result<_, _>>()?,
            environment: environment(&env)?,
            directory: c_string(directory)?,
            opened,
            checkpoints,
            run_as: request.run_as.clone(),
        })
    }

    /// In the child: becomes the command, or says why not. It has the shim's memory, and what it allocates before it
    /// becomes the command stays allocated there.
    fn try_become(&self, log: &File, oom_score_adj: Option<i32>) -> (Stage, Errno) {
        let _ = nix::unistd::setsid();
        if let Some(score) = oom_score_adj {
            let _ = fs::write("/proc/self/oom_score_adj", score.to_string());
        }
        if let Err(error) =
            nix::unistd::dup2_stdout(log).and_then(|()| nix::unistd::dup2_stderr(log))
        {
            return (Stage::Output, error);
        }
        if let Some(run_as) = &self.run_as
            && let Err(error) = switch_user(run_as)
        {
            return (Stage::User, error);
        }
        if let Some(checkpoints) = &self.checkpoints
            && let Err(error) = checkpoints.enter()
        {
            return (Stage::Checkpoints, error);
        }
        let entered = match &self.opened {
            Some(opened) => nix::unistd::fchdir(opened),
            None => nix::unistd::chdir(self.directory.as_c_str()),
        };
        if let Err(error) = entered {
            return (Stage::Directory, error);
        }
        let _ = SigSet::empty().thread_set_mask();
        (Stage::Exec, self.exec())
    }

    /// As execvp does it: the first that can be executed; a forbidden one counts more than a missing one; a file
    /// without `#!` goes to /bin/sh.
    fn exec(&self) -> Errno {
        let mut worst = Errno::ENOENT;
        for candidate in &self.candidates {
            let Err(error) = nix::unistd::execve(candidate, &self.arguments, &self.environment);
            match error {
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => worst = Errno::EACCES,
                Errno::ENOEXEC => {
                    let mut arguments = vec![c"/bin/sh".to_owned(), candidate.clone()];
                    arguments.extend(self.arguments.iter().skip(1).cloned());
                    let Err(error) = nix::unistd::execve(c"/bin/sh", &arguments, &self.environment);
                    return error;
                }
                other => return other,
            }
        }
        worst
    }

    fn explain(&self, stage: Stage, error: Errno) -> StartFailure {
        let word = |text: &CString| text.to_string_lossy().into_owned();
        let program = self.arguments.first().map(word).unwrap_or_default();
        let (code, text) = match stage {
            Stage::User => {
                let user = self.run_as.as_ref().map_or(0, |run_as| run_as.uid);
                let text = format!("cannot become user {user}: {}", error.desc());
                (NOT_EXECUTABLE, text)
            }
            Stage::Directory => {
                let directory = word(&self.directory);
                let text = format!(
                    "cannot enter the working directory `{directory}`: {}",
                    error.desc()
                );
                (NOT_EXECUTABLE, text)
            }
            Stage::Checkpoints => (
                NOT_EXECUTABLE,
                self.checkpoints
                    .as_ref()
                    .map(|place| place.explain(error))
                    .unwrap_or_default(),
            ),
            Stage::Output => (
                NOT_EXECUTABLE,
                format!("cannot direct the output: {}", error.desc()),
            ),
            Stage::Exec if error == Errno::ENOENT && self.candidates.len() > 1 => (
                NOT_FOUND,
                format!("command `{program}` was not found in PATH"),
            ),
            Stage::Exec => (
                if error == Errno::ENOENT {
                    NOT_FOUND
                } else {
                    NOT_EXECUTABLE
                },
                format!("cannot execute `{program}`: {}", error.desc()),
            ),
        };
        StartFailure { code, text }
    }
}

fn switch_user(run_as: &RunAs) -> nix::Result<()> {
    let groups: Vec<Gid> = run_as.groups.iter().copied().map(Gid::from_raw).collect();
    let gid = Gid::from_raw(run_as.gid);
    let uid = Uid::from_raw(run_as.uid);
    nix::unistd::setgroups(&groups)?;
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)
}

/// Writes the script. Another user may not be able to pass the folders above the attempt's own, so for him it is named
/// from his working directory, where that is the attempt's own.
fn script_words(
    text: &str,
    run_as: Option<&RunAs>,
    dir: &Path,
    own_directory: bool,
) -> std::io::Result<Vec<String>> {
    let path = dir.join(record::SCRIPT);
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o700)
        .open(&path)?;
    file.write_all(text.as_bytes())?;
    drop(file);
    give(&path, run_as)?;
    let path = if run_as.is_some() && own_directory {
        format!("../{}", record::SCRIPT)
    } else {
        path.to_string_lossy().into_owned()
    };
    Ok(if text.starts_with("#!") {
        vec![path]
    } else {
        vec!["/bin/sh".to_owned(), path]
    })
}

/// Writes the hosts of the gang where the job's user can read them, and says how he gets there: from his working directory
/// where he may not pass the folders above, and that is the attempt's own.
fn write_hosts(
    hosts: &str,
    run_as: Option<&RunAs>,
    dir: &Path,
    own_directory: bool,
) -> io::Result<PathBuf> {
    let path = dir.join(record::HOSTS);
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(hosts.as_bytes())?;
    drop(file);
    give(&path, run_as)?;
    Ok(match run_as {
        Some(run_as) if own_directory && !may_pass(dir, run_as) => {
            Path::new("..").join(record::HOSTS)
        }
        _ => path,
    })
}

/// May a user pass a folder and all above it? As far as their modes say.
fn may_pass(dir: &Path, run_as: &RunAs) -> bool {
    const EXECUTE: u32 = 0o1;
    run_as.uid == 0
        || dir.ancestors().all(|folder| {
            fs::metadata(folder).is_ok_and(|data| {
                let shift = if data.uid() == run_as.uid {
                    6
                } else if data.gid() == run_as.gid || run_as.groups.contains(&data.gid()) {
                    3
                } else {
                    0
                };
                data.mode() & (EXECUTE << shift) != 0
            })
        })
}

/// Makes the attempt's own working directory; a spare directory brings an empty one of the same user and group.
fn make_work(work: &Path, run_as: Option<&RunAs>) -> Result<(), StartFailure> {
    match fs::DirBuilder::new().mode(0o700).create(work) {
        Ok(()) => give(work, run_as)
            .map_err(|error| failed(format!("cannot give away the working directory: {error}"))),
        Err(_)
            if fs::symlink_metadata(work)
                .is_ok_and(|data| data.is_dir() && (data.uid(), data.gid()) == owner(run_as)) =>
        {
            Ok(())
        }
        Err(error) => Err(failed(format!(
            "cannot make the working directory: {error}"
        ))),
    }
}

/// User and group of what is made for a job.
pub(crate) fn owner(run_as: Option<&RunAs>) -> (u32, u32) {
    match run_as {
        Some(run_as) => (run_as.uid, run_as.gid),
        None => (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        ),
    }
}

pub(super) fn give(path: &Path, run_as: Option<&RunAs>) -> std::io::Result<()> {
    match run_as {
        Some(run_as) => std::os::unix::fs::chown(path, Some(run_as.uid), Some(run_as.gid)),
        None => Ok(()),
    }
}

/// `NAME=value` entries, each name once, the last value in force.
fn environment(pairs: &[(String, String)]) -> Result<Vec<CString>, StartFailure> {
    let mut kept: Vec<(&str, &str)> = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        match kept.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = value,
            None => kept.push((name, value)),
        }
    }
    kept.into_iter()
        .map(|(name, value)| c_string(format!("{name}={value}")))
        .collect()
}

fn c_string(text: String) -> Result<CString, StartFailure> {
    CString::new(text)
        .map_err(|_| failed("a NUL byte is in the command or the environment".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_names_the_last_value_counts() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let entries =
            environment(&[pair("A", "1"), pair("B", "2"), pair("A", "3")]).expect("no NUL bytes");
        assert_eq!(entries, [c"A=3".to_owned(), c"B=2".to_owned()]);
    }
}
