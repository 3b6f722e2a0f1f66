//! Bearer tokens, kept as SHA-256 hashes.
//!
//! `DIR/tokens` has one line a token: `sha256:<hex> <user> <group>[,<group>...]`; `#` starts a comment. A token is
//! 32 random bytes, so a plain hash of it cannot be guessed. The first start makes a token for the user `admin` in
//! `system:masters` and leaves a readable copy for the owner in `DIR/admin.token` (mode 0600); later starts reuse it.
//! Tokens added to the file are seen without a restart.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::{Mutex, RwLock};
use rand::TryRngCore as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use super::{Identity, MASTERS, hex, write_private};

/// Unknown tokens make the file be looked at again, but not more often than this.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
/// More tokens than this in the file are refused.
const MAX_TOKENS: usize = 10_000;

const HEADER: &str =
    "# Bearer tokens: sha256:<hex of the token's hash> <user> <group>[,<group>...]\n";

/// Why the tokens could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// A file could not be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A line is not understood.
    #[error("{path}, line {line}: {why}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The file holds no token, so nobody could be told apart from anybody.
    #[error("{0} holds no token: delete it to have a new admin token made, or add one")]
    Empty(PathBuf),
    /// The operating system gave no randomness.
    #[error("the system gives no random bytes")]
    Random(#[source] rand::rand_core::OsError),
}

type Hash = [u8; 32];
type Table = HashMap<Hash, Identity>;

/// The tokens that the server accepts.
pub struct Tokens {
    table: RwLock<Table>,
    admin: Option<String>,
    file: Option<Mutex<WatchedFile>>,
}

struct WatchedFile {
    path: PathBuf,
    modified: Option<SystemTime>,
    looked: Option<Instant>,
}

fn hash(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

impl Tokens {
    /// Opens `DIR/tokens` and `DIR/admin.token`, making both on the first start.
    pub fn open(folder: &Path) -> Result<Self, TokensError> {
        let path = folder.join("tokens");
        let plain = folder.join("admin.token");
        let mut admin = read(&plain)?
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty());
        if read(&path)?.is_none() {
            let token = match admin.take() {
                Some(token) => token,
                None => generate()?,
            };
            // The plain copy first: a crash in between leaves a token that the next start will register.
            write(&plain, format!("{token}\n").as_bytes())?;
            let line = format!("{HEADER}sha256:{} admin {MASTERS}\n", hex(&hash(&token)));
            write(&path, line.as_bytes())?;
            admin = Some(token);
        }
        let modified = modified(&path);
        let table = parse(&path, &read(&path)?.unwrap_or_default())?;
        if table.is_empty() {
            return Err(TokensError::Empty(path));
        }
        if admin
            .as_ref()
            .is_some_and(|token| !table.contains_key(&hash(token)))
        {
            tracing::warn!(file = %plain.display(), "the admin token on disk is not among the accepted tokens");
            admin = None;
        }
        let file = WatchedFile {
            path,
            modified,
            looked: None,
        };
        Ok(Self {
            table: RwLock::new(table),
            admin,
            file: Some(Mutex::new(file)),
        })
    }

    /// One admin token and no files.
    pub fn in_memory(admin: &str) -> Self {
        let table = [(hash(admin), Identity::new("admin", [MASTERS.to_owned()]))].into();
        Self {
            table: RwLock::new(table),
            admin: Some(admin.to_owned()),
            file: None,
        }
    }

    /// The admin token, where a plain copy exists.
    pub fn admin(&self) -> Option<&str> {
        self.admin.as_deref()
    }

    /// Whose token this is.
    pub fn identify(&self, token: &str) -> Option<Identity> {
        let hash = hash(token);
        self.look_up(&hash).or_else(|| {
            self.reload();
            self.look_up(&hash)
        })
    }

    fn look_up(&self, hash: &Hash) -> Option<Identity> {
        let table = self.table.read();
        let (known, identity) = table.get_key_value(hash)?;
        bool::from(known.ct_eq(hash)).then(|| identity.clone())
    }

    fn reload(&self) {
        let Some(file) = &self.file else { return };
        let mut file = file.lock();
        if file
            .looked
            .is_some_and(|looked| looked.elapsed() < RELOAD_INTERVAL)
        {
            return;
        }
        file.looked = Some(Instant::now());
        let modified = modified(&file.path);
        if modified == file.modified {
            return;
        }
        file.modified = modified;
        let table = read(&file.path).and_then(|text| parse(&file.path, &text.unwrap_or_default()));
        match table {
            Ok(table) if !table.is_empty() => *self.table.write() = table,
            Ok(_) => {
                tracing::warn!(file = %file.path.display(), "the tokens file is empty; keeping the old tokens");
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the tokens file; keeping the old tokens");
            }
        }
    }
}

/// A new token: 32 bytes from the operating system, in base64.
pub fn generate() -> Result<String, TokensError> {
    let mut bytes = [0u8; 32];
    rand::rngs::OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(TokensError::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn unhex(text: &str) -> Option<Hash> {
    let mut hash = [0u8; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(hash)
}

fn parse(path: &Path, text: &str) -> Result<Table, TokensError> {
    let mut table = Table::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why| TokensError::Line {
            path: path.to_owned(),
            line: number + 1,
            why,
        };
        let mut words = line.split_ascii_whitespace();
        let hash = words
            .next()
            .and_then(|word| word.strip_prefix("sha256:"))
            .and_then(unhex)
            .ok_or_else(|| wrong("expected sha256: and 64 hexadecimal digits"))?;
        let user = words
            .next()
            .ok_or_else(|| wrong("expected a user after the hash"))?;
        let groups = words.next().unwrap_or("");
        if words.next().is_some() {
            return Err(wrong("expected at most three words: hash, user, groups"));
        }
        let groups = groups
            .split(',')
            .filter(|group| !group.is_empty())
            .map(str::to_owned);
        table.insert(hash, Identity::new(user, groups));
        if table.len() > MAX_TOKENS {
            return Err(wrong("too many tokens in one file"));
        }
    }
    Ok(table)
}

fn read(path: &Path) -> Result<Option<String>, TokensError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokensError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TokensError> {
    write_private(path, bytes).map_err(|source| TokensError::File {
        path: path.to_owned(),
        source,
    })
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_token_is_made_once_and_its_hash_alone_is_in_the_tokens_file() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(folder.path()).unwrap();
        let admin = tokens.admin().unwrap().to_owned();
        assert!(tokens.identify(&admin).unwrap().is_in(MASTERS));
        assert!(tokens.identify("wrong").is_none());
        assert!(
            !fs::read_to_string(folder.path().join("tokens"))
                .unwrap()
                .contains(&admin)
        );
        let again = Tokens::open(folder.path()).unwrap();
        assert_eq!(again.admin(), Some(admin.as_str()));
    }

    #[test]
    fn a_crash_between_the_two_files_is_repaired_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let admin = Tokens::open(folder.path())
            .unwrap()
            .admin()
            .unwrap()
            .to_owned();
        fs::remove_file(folder.path().join("tokens")).unwrap();
        let tokens = Tokens::open(folder.path()).unwrap();
        assert!(tokens.identify(&admin).is_some());
    }

    #[test]
    fn an_empty_or_broken_tokens_file_refuses_the_start_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        fs::write(&path, "# nothing\n").unwrap();
        assert!(matches!(
            Tokens::open(folder.path()),
            Err(TokensError::Empty(_))
        ));
        fs::write(&path, "\nsha256:12 admin\n").unwrap();
        assert!(matches!(
            Tokens::open(folder.path()),
            Err(TokensError::Line { line: 2, .. })
        ));
    }

    #[test]
    fn tokens_added_to_the_file_are_accepted_without_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(folder.path()).unwrap();
        let path = folder.path().join("tokens");
        let text = fs::read_to_string(&path).unwrap();
        let line = format!("sha256:{} ada viewers,team\n", hex(&hash("t0ken")));
        fs::write(&path, text + &line).unwrap();
        fs::File::open(&path)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
        let ada = tokens.identify("t0ken").unwrap();
        assert_eq!(&*ada.user, "ada");
        assert!(ada.is_in("team") && ada.is_in("system:authenticated"));
    }
}
