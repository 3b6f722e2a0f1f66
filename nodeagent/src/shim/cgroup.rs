//! Cgroups, v1 and v2: the fence around an attempt's processes that none of them leaves by forking.
//!
//! The tree of a shim is complete as long as the shim lives. When it was killed, its orphans belong to init, and one
//! that took another session and an empty environment bears no sign of where it came from, except its cgroup. So each
//! attempt gets one, `gctl/UID-N` below the agent's own, where the host lets the agent make it. The shim stays outside.
//!
//! # Guarantees
//!
//! - **Best effort.** Whatever goes wrong here, the attempt runs without a cgroup and the tree is walked instead.
//! - **Only what we made.** A folder that was there already is left alone, so no attempt is killed for another's sake.
//! - **Removed means empty.** The kernel removes no cgroup with a process in it: [`Cgroup::remove`] is the proof.
//!
//! Only the hierarchy matters here and no controller is used: v2 as it is, else the v1 freezer.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// The folder of all attempts below the agent's own cgroup.
const FOLDER: &str = "gctl";
/// How often it is looked whether a cgroup is frozen, before its processes are killed as they are.
const FREEZE_LOOKS: u32 = 20;
const FREEZE_PAUSE: Duration = Duration::from_millis(1);

/// Which cgroups a runner puts attempts into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cgroups {
    /// The best the host offers.
    #[default]
    Best,
    /// The freezer of v1 alone.
    V1,
    /// v2 alone.
    V2,
    /// None: processes are found by walking their tree.
    Off,
}

/// The two kinds of cgroup hierarchies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Version {
    V1,
    V2,
}

/// A cgroup by its folder: an attempt's own, or the one in which those are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cgroup {
    version: Version,
    path: PathBuf,
}

impl Cgroup {
    /// Finds, or makes, the folder for attempts below this process's own cgroup; if there is none, says why.
    pub(crate) fn find(wanted: Cgroups) -> Result<Self, String> {
        let versions: &[Version] = match wanted {
            Cgroups::Best => &[Version::V2, Version::V1],
            Cgroups::V1 => &[Version::V1],
            Cgroups::V2 => &[Version::V2],
            Cgroups::Off => return Err("cgroups are switched off".to_owned()),
        };
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut reasons = Vec::with_capacity(versions.len());
        for version in versions {
            let name = match version {
                Version::V1 => "the freezer of cgroup v1",
                Version::V2 => "cgroup v2",
            };
            let Some(base) = own_folder(*version, &own, &mounts) else {
                reasons.push(format!("{name} is not mounted"));
                continue;
            };
            let parent = Self {
                version: *version,
                path: base.join(FOLDER),
            };
            match parent.prepare() {
                Ok(()) => return Ok(parent),
                Err(error) => reasons.push(format!(
                    "{name} cannot be used at `{}`: {error}",
                    base.display()
                )),
            }
        }
        Err(reasons.join("; "))
    }

    /// Makes this folder and tries whether cgroups can be made in it.
    fn prepare(&self) -> io::Result<()> {
        static PROBES: AtomicU32 = AtomicU32::new(0);
        match fs::create_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let number = PROBES.fetch_add(1, Ordering::Relaxed);
        let probe = self
            .path
            .join(format!("probe.{}.{number}", std::process::id()));
        fs::create_dir(&probe)?;
        let controls = fs::metadata(probe.join(self.freezer().file));
        fs::remove_dir(&probe)?;
        controls.map(|_| ())
    }

    /// Makes the cgroup of an attempt; none where it cannot be made or is there already.
    pub(crate) fn make(&self, name: &str) -> Option<Self> {
        let path = self.path.join(name);
        fs::create_dir(&path).ok()?;
        Some(Self {
            version: self.version,
            path,
        })
    }

    /// The folder to clone a child into; only v2 can.
    pub(crate) fn clone_target(&self) -> Option<File> {
        match self.version {
            Version::V1 => None,
            Version::V2 => File::open(&self.path).ok(),
        }
    }

    /// Moves this process into the cgroup.
    pub(crate) fn join(&self) -> io::Result<()> {
        write(&self.path.join("cgroup.procs"), "0")
    }

    /// Kills everything in the cgroup once. What cannot die now is still in it afterwards.
    pub(crate) fn kill(&self) {
        if self.version == Version::V2 && write(&self.path.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        // Frozen processes cannot fork away from the list, and they die when they are thawed.
        let freezer = self.freezer();
        let _ = write(&self.path.join(freezer.file), freezer.freeze);
        for _ in 0..FREEZE_LOOKS {
            if self.is_frozen() {
                break;
            }
            std::thread::sleep(FREEZE_PAUSE);
        }
        let folders = folders(&self.path);
        for folder in &folders {
            kill_members(folder);
        }
        // A folder that was frozen by itself is not thawed with the one above it.
        for folder in &folders {
            let _ = write(&folder.join(freezer.file), freezer.thaw);
        }
    }

    /// Begins to freeze everything in the cgroup.
    pub(crate) fn freeze(&self) {
        let freezer = self.freezer();
        let _ = write(&self.path.join(freezer.file), freezer.freeze);
    }

    /// Lets everything in the cgroup go on.
    pub(crate) fn thaw(&self) {
        let freezer = self.freezer();
        let _ = write(&self.path.join(freezer.file), freezer.thaw);
    }

    /// Is everything in the cgroup frozen?
    pub(crate) fn is_frozen(&self) -> bool {
        match self.version {
            Version::V1 => fs::read_to_string(self.path.join("freezer.state"))
                .is_ok_and(|state| state.trim() == "FROZEN"),
            Version::V2 => fs::read_to_string(self.path.join("cgroup.events"))
                .is_ok_and(|events| events.lines().any(|line| line == "frozen 1")),
        }
    }

    /// The processes in the cgroup and below it.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let folders = folders(&self.path);
        let members = folders.iter().flat_map(|folder| members(folder));
        members.map(|pid| pid.as_raw_nonzero().get()).collect()
    }

    /// Removes the cgroup and what was made below it; true when it is gone, so that no process can be in it.
    pub(crate) fn remove(&self) -> bool {
        if is_gone(&fs::remove_dir(&self.path)) {
            return true;
        }
        // Those below come after those above.
        folders(&self.path)
            .iter()
            .rev()
            .all(|folder| is_gone(&fs::remove_dir(folder)))
    }

    fn freezer(&self) -> Freezer {
        match self.version {
            Version::V1 => Freezer {
                file: "freezer.state",
                freeze: "FROZEN",
                thaw: "THAWED",
            },
            Version::V2 => Freezer {
                file: "cgroup.freeze",
                freeze: "1",
                thaw: "0",
            },
        }
    }
}

struct Freezer {
    file: &'static str,
    freeze: &'static str,
    thaw: &'static str,
}

/// Where the cgroup of the process with these two files of /proc lies.
fn own_folder(version: Version, own: &str, mounts: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let is_it = match version {
            Version::V1 => controllers.split(',').any(|name| name == "freezer"),
            Version::V2 => number == "0" && controllers.is_empty(),
        };
        is_it.then_some(path)
    })?;
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let (file_system, options) = (kind.next()?, kind.nth(1)?);
        let is_it = match version {
            Version::V1 => {
                file_system == "cgroup" && options.split(',').any(|name| name == "freezer")
            }
            Version::V2 => file_system == "cgroup2",
        };
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        // A space in a path is written as an escape; such a place is not used.
        if !is_it || point.contains('\\') {
            return None;
        }
        let below = Path::new(path).strip_prefix(root).ok()?;
        Some(Path::new(point).join(below))
    })
}

/// A folder and all below it, those above first.
fn folders(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while let Some(folder) = found.get(next) {
        let below: Vec<_> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        found.extend(below);
        next += 1;
    }
    found
}

fn kill_members(folder: &Path) {
    let handles: Vec<_> = members(folder)
        .into_iter()
        .filter_map(|pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?)))
        .collect();
    // Who is a member after its handle was opened is the process of that handle, or that one is dead.
    let still = members(folder);
    for (pid, handle) in handles {
        if still.contains(&pid) {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
        }
    }
}

fn members(folder: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    text.lines()
        .filter_map(|line| Pid::from_raw(line.parse().ok()?))
        .collect()
}

fn is_gone(removed: &io::Result<()>) -> bool {
    match removed {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 24 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 /pod /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
33 30 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
";

    #[test]
    fn the_own_folder_is_found_in_either_hierarchy_and_through_a_partial_mount() {
        let own = "7:cpu,cpuacct:/other\n6:freezer:/pod/agent\n0::/user.slice/agent.service\n";
        assert_eq!(
            own_folder(Version::V2, own, MOUNTS).expect("mounted"),
            Path::new("/sys/fs/cgroup/unified/user.slice/agent.service")
        );
        assert_eq!(
            own_folder(Version::V1, own, MOUNTS).expect("mounted"),
            Path::new("/sys/fs/cgroup/freezer/agent")
        );
    }

    #[test]
    fn a_cgroup_outside_of_what_is_mounted_is_not_guessed() {
        assert_eq!(own_folder(Version::V1, "6:freezer:/else\n", MOUNTS), None);
        assert_eq!(own_folder(Version::V2, "6:freezer:/pod\n", MOUNTS), None);
        assert_eq!(own_folder(Version::V2, "0::/\n", ""), None);
    }

    #[test]
    fn what_is_there_already_is_not_taken() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let parent = Cgroup {
            version: Version::V2,
            path: dir.path().to_owned(),
        };
        assert!(parent.make("a-1").is_some());
        assert_eq!(parent.make("a-1"), None);
    }

    #[test]
    fn removing_takes_what_was_made_below_and_stops_at_what_is_in_use() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let cgroup = Cgroup {
            version: Version::V1,
            path: dir.path().join("a-1"),
        };
        assert!(cgroup.remove(), "nothing there is nothing left");
        fs::create_dir_all(cgroup.path.join("b/c")).expect("writable");
        fs::write(cgroup.path.join("b/busy"), "").expect("writable");
        assert!(!cgroup.remove());
        fs::remove_file(cgroup.path.join("b/busy")).expect("removable");
        fs::create_dir_all(cgroup.path.join("b/c")).expect("writable");
        assert!(cgroup.remove());
        assert!(!cgroup.path.exists());
    }
}
