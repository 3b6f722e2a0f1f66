//! What can go wrong in a command, said as: what was wrong, where, and what to do.

use std::path::PathBuf;

use apiserver::schema::jsonpath::JsonPathError;
use kube::core::Status;

use crate::exit::Exit;
use crate::manifest::{ManifestError, Place};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The server refused a request.
    #[error("failed to {attempted}: {}", describe_status(.status))]
    Refused {
        /// What was being attempted, as a phrase after "failed to".
        attempted: String,
        /// The server's answer.
        status: Box<Status>,
    },
    /// The server could not be reached, or broke off.
    #[error("failed to {attempted}: {reason}")]
    Unreachable {
        /// What was being attempted.
        attempted: String,
        /// What the network said, and what to do.
        reason: String,
    },
    /// The server answered something that is not what was asked for.
    #[error("failed to {attempted}: the server's answer was not understood: {reason}")]
    BadAnswer {
        /// What was being attempted.
        attempted: String,
        /// What was wrong with it.
        reason: String,
    },
    /// No kubeconfig could be used.
    #[error("{0}")]
    Kubeconfig(String),
    /// A manifest could not be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A resource name means nothing to the server.
    #[error("the server has no resource type `{name}`{hint}")]
    UnknownResource {
        /// The name as it was given.
        name: String,
        /// What may have been meant, with a leading `; `, or nothing.
        hint: String,
    },
    /// A jsonpath expression is malformed.
    #[error("invalid jsonpath `{expression}`: {reason}")]
    Jsonpath {
        /// The expression as it was given.
        expression: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("failed to {attempted} `{}`: {source}", .path.display())]
    File {
        /// What was being attempted.
        attempted: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A part of the cluster that `up` runs could not start or broke.
    #[error("{part}: {reason}")]
    Cluster {
        /// Which part.
        part: &'static str,
        /// What happened, and what to do.
        reason: String,
    },
    /// A document of a manifest could not be carried out.
    #[error("{place}: {source}")]
    At {
        /// Where the document stands.
        place: Place,
        /// Why not.
        source: Box<Error>,
    },
    /// Something that was asked about is not as it must be.
    #[error("{0}")]
    State(String),
    /// Standard output was closed by its reader.
    #[error("standard output was closed")]
    OutputClosed,
    /// Standard output could not be written.
    #[error("failed to write the output: {0}")]
    Output(#[source] std::io::Error),
}

impl Error {
    /// The exit code a command that failed so ends with.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Usage(_) | Error::Jsonpath { .. } => Exit::Usage,
            Error::OutputClosed => Exit::Ok,
            Error::At { source, .. } => source.exit(),
            Error::Refused { .. }
            | Error::Unreachable { .. }
            | Error::BadAnswer { .. }
            | Error::Kubeconfig(_)
            | Error::Manifest(_)
            | Error::UnknownResource { .. }
            | Error::File { .. }
            | Error::Cluster { .. }
            | Error::State(_)
            | Error::Output(_) => Exit::Error,
        }
    }

    /// A path or template that cannot be read.
    pub fn jsonpath(expression: &str, error: JsonPathError) -> Self {
        Error::Jsonpath {
            expression: expression.to_owned(),
            reason: error.reason,
        }
    }

    /// Adds how jobs are named, where the words of a command line begin with no kind and none is alike.
    #[must_use]
    pub fn or_jobs(self, words: &[String]) -> Self {
        match self {
            Error::UnknownResource { name, hint } if hint.is_empty() => Error::UnknownResource {
                name,
                hint: format!("; jobs are named as `job {}`", words.join(" ")),
            },
            other => other,
        }
    }

    /// The HTTP code of the server's refusal.
    pub fn status_code(&self) -> Option<u16> {
        match self {
            Error::Refused { status, .. } => Some(status.code),
            Error::At { source, .. } => source.status_code(),
            _ => None,
        }
    }

    /// The object asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status_code() == Some(404)
    }

    /// The object was changed by somebody else in between.
    pub fn is_conflict(&self) -> bool {
        self.status_code() == Some(409)
    }

    /// Asking again may help: the network or a busy server was the cause.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Unreachable { .. } => true,
            Error::Refused { status, .. } => status.code == 429 || status.code >= 500,
            _ => false,
        }
    }
}

/// The server's refusal in words: its message, or for a validation failure one line for each cause.
pub fn describe_status(status: &Status) -> String {
    let causes: Vec<_> = status
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .filter(|cause| !cause.message.is_empty())
        .collect();
    if status.code == 422 && !causes.is_empty() {
        let details = status.details.as_ref();
        let subject = details.map_or_else(
            || "the object is invalid".to_owned(),
            |details| format!("{} `{}` is invalid", details.kind, details.name),
        );
        let mut text = subject;
        for cause in causes {
            text.push_str("\n  ");
            if !cause.field.is_empty() {
                text.push_str(&cause.field);
                text.push_str(": ");
            }
            text.push_str(&cause.message);
        }
        return text;
    }
    let mut text = if status.message.is_empty() {
        format!("the server answered {}", status.code)
    } else {
        status.message.clone()
    };
    if status.code == 401 {
        text.push_str(
            ": the server does not accept the token in the kubeconfig; a new data directory means a new kubeconfig",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::response::{StatusCause, StatusDetails};

    fn refused(status: Status) -> Error {
        Error::Refused {
            attempted: "create job/x".into(),
            status: Box::new(status),
        }
    }

    #[test]
    fn a_validation_failure_names_each_field_on_a_line() {
        let details = StatusDetails {
            name: "x".into(),
            group: "gctl.dev".into(),
            kind: "Job".into(),
            causes: vec![
                StatusCause {
                    reason: "FieldValueInvalid".into(),
                    field: "spec.resources.gpus".into(),
                    message: "Invalid value: -1: should be at least 0".into(),
                },
                StatusCause {
                    reason: "FieldValueRequired".into(),
                    field: "spec.command".into(),
                    message: "Required value".into(),
                },
            ],
            uid: String::new(),
            retry_after_seconds: 0,
        };
        let status = Status::failure("long", "Invalid")
            .with_code(422)
            .with_details(details);
        insta::assert_snapshot!(refused(status), @r"
        failed to create job/x: Job `x` is invalid
          spec.resources.gpus: Invalid value: -1: should be at least 0
          spec.command: Required value
        ");
    }

    #[test]
    fn other_refusals_say_the_servers_message() {
        let status = Status::failure("jobs.gctl.dev \"x\" not found", "NotFound").with_code(404);
        let error = refused(status);
        assert!(error.is_not_found());
        insta::assert_snapshot!(error, @r#"failed to create job/x: jobs.gctl.dev "x" not found"#);
    }

    #[test]
    fn usage_errors_have_their_own_code_and_a_closed_pipe_is_no_error() {
        assert_eq!(Error::Usage(String::new()).exit(), Exit::Usage);
        assert_eq!(Error::OutputClosed.exit(), Exit::Ok);
        assert_eq!(refused(Status::failure("", "")).exit(), Exit::Error);
    }
}
