//! The exit codes of `gctl`, which scripts may rely on.

use std::process::ExitCode;

/// How a command ended, as scripts see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything that was asked for was done.
    Ok,
    /// Something failed; the reason is on standard error.
    Error,
    /// The command line itself is wrong; nothing was done.
    Usage,
    /// Everything worked, but some job that was waited for did not succeed.
    JobFailed,
    /// The time given with `--timeout` ran out.
    TimedOut,
    /// Interrupted by Ctrl-C or TERM.
    Interrupted,
}

impl Exit {
    /// The number the process ends with.
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Error => 1,
            Exit::Usage => 2,
            Exit::JobFailed => 3,
            Exit::TimedOut => 4,
            Exit::Interrupted => 130,
        }
    }

    /// The worse of two ends: an error hides a failed job, a failed job hides success.
    #[must_use]
    pub fn worse(self, other: Exit) -> Exit {
        let rank = |exit: Exit| match exit {
            Exit::Ok => 0,
            Exit::JobFailed => 1,
            Exit::TimedOut => 2,
            Exit::Error => 3,
            Exit::Usage => 4,
            Exit::Interrupted => 5,
        };
        if rank(other) > rank(self) {
            other
        } else {
            self
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// The table of exit codes that `--help` shows.
pub const HELP: &str = "\
Exit codes:
  0    done
  1    something failed; the reason is on standard error
  2    the command line is wrong; nothing was done
  3    a job that was waited for did not succeed
  4    the time given with --timeout ran out
  130  interrupted";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_code() {
        for exit in [
            Exit::Ok,
            Exit::Error,
            Exit::Usage,
            Exit::JobFailed,
            Exit::TimedOut,
            Exit::Interrupted,
        ] {
            let line = format!("\n  {:<5}", exit.code());
            assert!(HELP.contains(&line), "{exit:?} is not in the help");
        }
    }

    #[test]
    fn an_error_hides_a_failed_job_and_a_failed_job_hides_success() {
        assert_eq!(Exit::Ok.worse(Exit::JobFailed), Exit::JobFailed);
        assert_eq!(Exit::Error.worse(Exit::JobFailed), Exit::Error);
        assert_eq!(Exit::JobFailed.worse(Exit::TimedOut), Exit::TimedOut);
    }
}
