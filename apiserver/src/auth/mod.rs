//! Who is asking, and may they: TLS material, bearer tokens, and the authoriser.
//!
//! Invariants: a request without valid credentials reaches nothing but `/version` and the health endpoints; wrong
//! credentials are refused even there; impersonation headers are refused, never ignored; tokens are kept as hashes.

pub mod authorize;
mod files;
pub mod layer;
pub mod pki;
pub mod tokens;

use std::sync::Arc;

pub use files::write_private;

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// An authenticated user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user name, such as `admin` or `system:node:a`.
    pub user: Arc<str>,
    /// The groups, `system:authenticated` among them.
    pub groups: Arc<[String]>,
}

/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of all who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";

impl Identity {
    /// An authenticated user in these groups and in `system:authenticated`.
    pub fn new(user: &str, groups: impl IntoIterator<Item = String>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self {
            user: user.into(),
            groups: groups.into(),
        }
    }

    /// The user that a request without credentials acts as.
    pub fn anonymous() -> Self {
        Self {
            user: "system:anonymous".into(),
            groups: Arc::new(["system:unauthenticated".to_owned()]),
        }
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|member| member == group)
    }
}
