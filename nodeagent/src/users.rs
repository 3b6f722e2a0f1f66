//! Whom a job runs as: resolved by the agent, because name services do not belong in the spawner.

use nix::unistd::{Gid, Uid, getgrouplist};

use crate::attempt::RunAs;

/// A user that a command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) home: String,
    /// Absent: the agent's own user, nothing to switch.
    pub(crate) run_as: Option<RunAs>,
}

/// Why a job cannot run as the user it asks for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoUser {
    #[error("user `{0}` is not known on this node")]
    Unknown(String),
    #[error(
        "cannot run as `{0}`: the agent of this node is not root and runs jobs as its own user only"
    )]
    NotRoot(String),
    #[error(
        "runAsUser is needed: the agent of this node is root and was started without a default user"
    )]
    NeedsUser,
    #[error("failed to look up user `{name}`")]
    Lookup {
        name: String,
        #[source]
        source: nix::errno::Errno,
    },
}

/// Resolves the user of a job: the one that it names, else the default, else the agent's own if that is not root.
pub(crate) fn resolve(wanted: Option<&str>, default: Option<&str>) -> Result<User, NoUser> {
    let own = Uid::effective();
    let Some(name) = wanted.or(default) else {
        return if own.is_root() {
            Err(NoUser::NeedsUser)
        } else {
            Ok(describe(own))
        };
    };
    let lookup = |source| NoUser::Lookup {
        name: name.to_owned(),
        source,
    };
    let entry = match name.parse() {
        Ok(uid) => nix::unistd::User::from_uid(Uid::from_raw(uid)).map_err(lookup)?,
        Err(_) => nix::unistd::User::from_name(name).map_err(lookup)?,
    };
    let (uid, gid, known) = match (entry, name.parse()) {
        (Some(entry), _) => (entry.uid, entry.gid, Some(entry)),
        // A number needs no entry, as in containers; its group has the same number.
        (None, Ok(number)) => (Uid::from_raw(number), Gid::from_raw(number), None),
        (None, Err(_)) => return Err(NoUser::Unknown(name.to_owned())),
    };
    if uid == own {
        return Ok(describe(own));
    }
    if !own.is_root() {
        return Err(NoUser::NotRoot(name.to_owned()));
    }
    let groups = match &known {
        Some(entry) => std::ffi::CString::new(entry.name.clone())
            .ok()
            .and_then(|name| getgrouplist(&name, gid).ok())
            .unwrap_or_else(|| vec![gid]),
        None => vec![gid],
    };
    Ok(User {
        name: known
            .as_ref()
            .map_or_else(|| uid.to_string(), |entry| entry.name.clone()),
        home: known
            .as_ref()
            .map_or_else(|| "/".to_owned(), |entry| entry.dir.display().to_string()),
        run_as: Some(RunAs {
            uid: uid.as_raw(),
            gid: gid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
        }),
    })
}

/// The name of the user that this process runs as, for a default.
pub fn current_user() -> String {
    describe(Uid::effective()).name
}

fn describe(uid: Uid) -> User {
    let entry = nix::unistd::User::from_uid(uid).ok().flatten();
    User {
        name: entry
            .as_ref()
            .map_or_else(|| uid.to_string(), |entry| entry.name.clone()),
        home: entry.map_or_else(|| "/".to_owned(), |entry| entry.dir.display().to_string()),
        run_as: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_refused_and_the_own_user_needs_no_switch() {
        let unknown = resolve(Some("no-such-user-here"), None);
        assert!(matches!(unknown, Err(NoUser::Unknown(_))), "{unknown:?}");
        let own = resolve(Some(&Uid::effective().to_string()), None).expect("it exists");
        assert_eq!(own.run_as, None);
    }

    #[test]
    fn without_any_user_only_an_agent_that_is_not_root_runs_a_job() {
        let resolved = resolve(None, None);
        assert_eq!(resolved.is_err(), Uid::effective().is_root());
        assert!(resolve(None, Some(&current_user())).is_ok());
    }
}
