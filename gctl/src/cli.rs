//! The command line: global flags and the list of commands.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands::{
    apply, cancel, completion, delete, describe, get, logs, node, preempt, priority, submit,
    version, wait, why,
};
use crate::connection::Choice;
use crate::{exit, sync, up};

/// A queue for GPU and batch work on the machines you own, behind a Kubernetes-style API.
#[derive(Clone, Debug, Parser)]
#[command(name = "gctl", version, after_help = exit::HELP, propagate_version = false, max_term_width = 100)]
pub struct Cli {
    /// Which server, and how.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Global {
    /// Kubeconfig; without it $KUBECONFIG, then ./.gctl/kubeconfig, then ~/.kube/config
    #[arg(long, global = true, value_name = "FILE", help_heading = "Server")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true, help_heading = "Server")]
    pub context: Option<String>,
    /// Namespace
    #[arg(short, long, global = true, help_heading = "Server")]
    pub namespace: Option<String>,
    /// URL of the server, instead of the kubeconfig's
    #[arg(long, global = true, value_name = "URL", help_heading = "Server")]
    pub server: Option<String>,
}

impl Global {
    /// How to reach the server.
    pub fn choice(&self) -> Choice {
        Choice {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            server: self.server.clone(),
        }
    }
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster here: API server, controllers and node agent
    Up(up::Args),
    /// Make objects be as files say
    Apply(apply::Args),
    /// Show objects, once or as they change
    Get(get::Args),
    /// Tell everything about objects, for a person
    Describe(describe::Args),
    /// Remove objects
    Delete(delete::Args),
    /// Make one job from flags
    Submit(Box<submit::Args>),
    /// Wait until jobs have ended, or objects are as a condition says
    Wait(wait::Args),
    /// Show a job's output
    Logs(logs::Args),
    /// End jobs for good and keep their objects
    Cancel(cancel::Args),
    /// Displace running jobs, or what keeps a job waiting
    Preempt(preempt::Args),
    /// Set a job's priority, also while it waits
    Priority(priority::Args),
    /// Add to a job's priority, also while it waits
    Nudge(priority::NudgeArgs),
    /// Say why a job waits, who is ahead, when it may start, and what would start it now
    Why(why::Args),
    /// Say what became of a node
    Node(node::Args),
    /// Keep objects as a directory of files says
    Sync(sync::Args),
    /// Show the versions of this binary and of the server
    Version(version::Args),
    /// Print a script that completes commands in a shell
    Completion(completion::Args),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
