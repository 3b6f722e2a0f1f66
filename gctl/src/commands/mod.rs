//! One file a command. Each takes its arguments and a [`Session`](crate::session::Session), and gives how it ended.

mod advice;
pub mod apply;
pub mod cancel;
pub mod completion;
pub mod delete;
pub mod describe;
pub mod get;
pub mod logs;
pub mod node;
pub mod preempt;
pub mod priority;
mod snapshot;
pub mod submit;
pub mod version;
pub mod wait;
pub mod why;

/// Whether a command only says what it would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DryRun {
    /// Do it.
    #[default]
    None,
    /// Say what would be done, without asking the server to check it.
    Client,
    /// Let the server check everything, and change nothing.
    Server,
}

impl DryRun {
    /// What follows a result line.
    pub fn suffix(self) -> &'static str {
        match self {
            DryRun::None => "",
            DryRun::Client => " (dry run)",
            DryRun::Server => " (server dry run)",
        }
    }

    /// The value of the query parameter `dryRun`.
    pub fn query(self) -> &'static str {
        match self {
            DryRun::None | DryRun::Client => "",
            DryRun::Server => "All",
        }
    }
}
