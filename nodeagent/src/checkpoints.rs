//! Where the jobs of a node keep their checkpoints.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The folder below which jobs keep their checkpoints, each in one of its own: the one that was asked for, or one in the data
/// directory, which is made. The answer's second half says whether it is this node's own.
///
/// # Errors
/// When the one that was asked for is no absolute path in UTF-8 of a directory, or the own one cannot be made.
pub fn checkpoint_root(wanted: Option<PathBuf>, data_dir: &Path) -> io::Result<(String, bool)> {
    let own = wanted.is_none();
    let root = if let Some(root) = wanted {
        if !root.is_absolute() || !root.is_dir() {
            let what = format!("`{}` is no absolute path of a directory", root.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        root
    } else {
        let root = std::path::absolute(data_dir)?.join("checkpoints");
        // Passable, but not listable, for the users that jobs run as.
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&root)?;
        root
    };
    let root = root.into_os_string().into_string();
    let root = root.map_err(|_| io::Error::other("the path of the folder is not UTF-8"))?;
    Ok((root, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_there_or_refused_with_its_name() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (root, own) = checkpoint_root(None, &dir.path().join("data")).expect("it is made");
        assert!(own && Path::new(&root).is_dir());
        let given = checkpoint_root(Some(dir.path().to_owned()), dir.path());
        assert!(given.is_ok_and(|(_, own)| !own));
        for bad in ["relative", "/no/such/folder"] {
            let refused = checkpoint_root(Some(bad.into()), dir.path()).expect_err("refused");
            assert!(refused.to_string().contains(bad), "{refused}");
        }
    }
}
