//! Directories of forgotten attempts that are used again: what may be handed on, and to whom.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::PathBuf;

use super::*;
use crate::attempt::{AttemptId, Ended};
use crate::ledger::Ledger;
use crate::ledger::adopt::{Found, adopt};
use crate::shim::record::{Line, append};

/// A data directory, and a ledger over it.
struct Host {
    dir: tempfile::TempDir,
    ledger: Ledger,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ledger = Ledger::open(dir.path()).expect("a fresh directory");
        Self { dir, ledger }
    }

    fn attempts(&self) -> PathBuf {
        self.dir.path().join("attempts")
    }

    /// The directory of an attempt that ended, as its shim leaves it.
    fn ended(&self, uid: &str) -> PathBuf {
        let dir = self.attempts().join(id(uid).to_string());
        self.ledger.seal(&id(uid)).expect("writable");
        let mut record = File::create(dir.join(RECORD)).expect("writable");
        append(&mut record, &[intent(uid), exited(7), emptied()]).expect("writable");
        File::create(dir.join(LOG)).expect("writable");
        fs::DirBuilder::new()
            .mode(0o700)
            .create(dir.join(WORK))
            .expect("writable");
        dir
    }

    fn forget(&self, uid: &str) -> Option<Spare> {
        self.ledger.forget(&id(uid)).expect("removable")
    }

    fn names_in(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join(folder)).expect("readable");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("readable").file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

fn id(uid: &str) -> AttemptId {
    AttemptId {
        uid: uid.to_owned(),
        attempt: 1,
    }
}

fn intent(uid: &str) -> Line {
    Line::Intent {
        shim_pid: 1,
        shim_start_ticks: 1,
        boot_id: String::new(),
        namespace: "default".to_owned(),
        name: uid.to_owned(),
        grace_secs: 0,
        charge: crate::attempt::Charge::default(),
        cgroup: None,
        id: Some(id(uid)),
    }
}

fn exited(code: i32) -> Line {
    Line::Exited {
        micros: 1,
        code: Some(code),
        signal: None,
        start_error: None,
    }
}

fn emptied() -> Line {
    Line::Emptied {
        micros: 1,
        cpu_millis: None,
        peak_memory_bytes: None,
    }
}

fn own() -> Owner {
    crate::shim::command::owner(None)
}

#[test]
fn a_forgotten_attempt_leaves_a_spare_that_says_nothing_of_it() {
    let host = Host::new();
    host.ended("a");
    let spare = host.forget("a").expect("as good as new");
    assert_eq!(spare.owner, Some(own()));
    assert_eq!(host.names_in("attempts"), std::slice::from_ref(&spare.name));
    assert!(host.ledger.scan().expect("readable").is_empty());
    let record = host.attempts().join(&spare.name).join(RECORD);
    assert_eq!(fs::read(record).expect("readable"), BLANK);
}

#[test]
fn a_log_with_something_in_it_and_a_script_do_not_pass_on() {
    let host = Host::new();
    let dir = host.ended("a");
    fs::write(dir.join(LOG), "secret\n").expect("writable");
    fs::write(dir.join(SCRIPT), "echo secret").expect("writable");
    let spare = host.forget("a").expect("as good as new");
    let mut names = host.names_in(&format!("attempts/{}", spare.name));
    names.sort();
    assert_eq!(names, [RECORD, WORK]);
}

#[test]
fn a_log_that_somebody_still_has_open_does_not_pass_on() {
    let host = Host::new();
    for (uid, write) in [("reads", false), ("writes", true)] {
        let dir = host.ended(uid);
        let open = OpenOptions::new()
            .read(!write)
            .write(write)
            .open(dir.join(LOG));
        let spare = host.forget(uid).expect("as good as new");
        let log = host.attempts().join(spare.name).join(LOG);
        assert!(!log.exists(), "{uid}");
        drop(open.expect("it is there"));
    }
    host.ended("alone");
    let spare = host.forget("alone").expect("as good as new");
    assert!(host.attempts().join(spare.name).join(LOG).exists());
}

#[test]
fn a_directory_in_which_anything_is_not_as_new_is_no_spare() {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil); 6] = [
        ("file", |dir| {
            fs::write(dir.join(WORK).join("left"), "").expect("writable");
        }),
        ("mode", |dir| {
            let open = fs::Permissions::from_mode(0o777);
            fs::set_permissions(dir.join(WORK), open).expect("ours");
        }),
        ("stranger", |dir| {
            fs::write(dir.join("stranger"), "").expect("writable");
        }),
        ("link", |dir| {
            fs::remove_dir(dir.join(WORK)).expect("empty");
            symlink("/tmp", dir.join(WORK)).expect("writable");
        }),
        ("record", |dir| {
            fs::rename(dir.join(RECORD), dir.join("../moved")).expect("writable");
            symlink("../moved", dir.join(RECORD)).expect("writable");
        }),
        ("name", |dir| {
            fs::hard_link(dir.join(RECORD), dir.join("../second")).expect("writable");
        }),
    ];
    for (uid, spoil) in cases {
        let host = Host::new();
        spoil(&host.ended(uid));
        assert_eq!(host.forget(uid), None, "{uid}");
        assert_eq!(host.names_in("trash"), [id(uid).to_string()]);
    }
}

#[test]
fn a_working_directory_goes_to_its_own_user_only() {
    let spare = |name: &str, owner| Spare {
        name: name.to_owned(),
        owner,
    };
    let mut spares = Spares::default();
    spares.add(spare("of-7", Some((7, 7))));
    spares.add(spare("of-8", Some((8, 8))));
    assert_eq!(spares.take((7, 8)), None);
    assert_eq!(spares.take((7, 7)), Some(spare("of-7", Some((7, 7)))));
    assert_eq!(spares.take((7, 7)), None);
    spares.add(spare("of-nobody", None));
    assert_eq!(spares.take((7, 7)), Some(spare("of-nobody", None)));
}

#[test]
fn there_are_never_more_spares_than_allowed() {
    let mut spares = Spares::default();
    let spare = |number: usize| Spare {
        name: number.to_string(),
        owner: None,
    };
    for number in 0..MOST_SPARES {
        assert_eq!(spares.add(spare(number)), None);
    }
    assert_eq!(spares.add(spare(MOST_SPARES)), Some(spare(0)));
}

/// The agent ends after the rename to the spare's name and before the record is cut, or at any time after it.
#[test]
fn the_spares_of_an_agent_that_ended_are_thrown_away_unread() {
    let host = Host::new();
    let dir = host.ended("a");
    fs::rename(dir, host.attempts().join("spare.1.1.0")).expect("writable");
    let path = host.dir.path().to_owned();
    drop(host.ledger);
    let ledger = Ledger::open(&path).expect("free again");
    assert!(ledger.scan().expect("readable").is_empty());
    assert!(!path.join("attempts/spare.1.1.0").exists());
    assert!(path.join("trash/spare.1.1.0").exists());
    ledger.empty_trash().expect("removable");
    assert!(!path.join("trash/spare.1.1.0").exists());
}

/// The shim is killed after the rename to the attempt's name and before its first word.
#[test]
fn a_spare_that_became_an_attempt_and_never_spoke_is_lost_and_stays_taken() {
    let host = Host::new();
    host.ended("old");
    let spare = host.forget("old").expect("as good as new");
    let dir = host.attempts().join(id("new").to_string());
    fs::rename(host.attempts().join(spare.name), dir).expect("writable");
    assert!(!host.ledger.seal(&id("new")).expect("readable"));
    let Found::Ended(held) = adopt(&host.ledger, &id("new")).expect("readable") else {
        panic!("nobody holds it");
    };
    let ended = held.ended.expect("buried");
    assert!(ended.lost.is_some() && ended.code.is_none(), "{ended:?}");
    assert!(!host.ledger.seal(&id("new")).expect("readable"));
}

/// After a power cut on a file system that keeps renames and loses cuts.
#[test]
fn what_a_record_says_of_another_attempt_is_not_believed() {
    let host = Host::new();
    let dir = host.ended("old");
    fs::rename(dir, host.attempts().join(id("new").to_string())).expect("writable");
    let record = host.ledger.record(&id("new")).expect("readable");
    let ended = record.expect("it is there").ended;
    assert_eq!(ended, Ended::default());
}
