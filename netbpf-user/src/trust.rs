//! Whether files are root's alone: nobody else has made them, can change them, or can lead root elsewhere.
//!
//! What root reads it believes, and what root writes or removes it writes or removes wherever a link leads. So what is not root's alone is
//! refused, before anything is touched, and left as it is.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use nix::unistd::Uid;

use crate::error::{Context as _, Error, Result};

/// Who may write besides the owner (mode bits of inode(7)).
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

/// Entries of such a directory can be renamed and removed by their owners alone.
const STICKY: u32 = 0o1000;

/// What a path should lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Socket,
}

/// A directory of the instance, or none: its own, and reached through nothing that others can change.
pub(crate) fn directory(path: &Path) -> Result<()> {
    way_to(path)?;
    match found(path)? {
        Some(metadata) => of_kind(path, &metadata, Kind::Directory).and_then(|()| own(path, &metadata)),
        None => Ok(()),
    }
}

/// A file of the instance, or none, in a directory that was looked at before.
pub(crate) fn file(path: &Path) -> Result<()> {
    match found(path)? {
        Some(metadata) => of_kind(path, &metadata, Kind::File).and_then(|()| own(path, &metadata)),
        None => Ok(()),
    }
}

/// A socket of the instance, or none. Its mode is the peers' business.
pub(crate) fn socket(path: &Path) -> Result<()> {
    match found(path)? {
        Some(metadata) => of_kind(path, &metadata, Kind::Socket).and_then(|()| owned(path, &metadata)),
        None => Ok(()),
    }
}

/// All files, or all directories, of a directory, or of none.
pub(crate) fn files_of(directory: &Path) -> Result<()> {
    each(directory, file)
}

/// The same of its directories.
pub(crate) fn directories_of(parent: &Path) -> Result<()> {
    each(parent, directory)
}

/// What was opened, however it was reached.
pub(crate) fn own(path: &Path, metadata: &Metadata) -> Result<()> {
    owned(path, metadata)?;
    if others_write(metadata) {
        return refused(format!(
            "{0} can be written to by others than root (mode {1:04o}): look at it, and keep them out (chmod go-w {0})",
            path.display(),
            metadata.mode() & 0o7777
        ));
    }
    Ok(())
}

fn owned(path: &Path, metadata: &Metadata) -> Result<()> {
    let owner = metadata.uid();
    if owner == 0 || owner == Uid::effective().as_raw() {
        return Ok(());
    }
    refused(format!(
        "{0} belongs to user {owner}, who could change it: look at it, and make it root's (chown root: {0})",
        path.display()
    ))
}

fn each(directory: &Path, check: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let what = || format!("read {}", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.context(what)?,
    };
    entries.into_iter().try_for_each(|entry| check(&entry.context(what)?.path()))
}

/// What is at a path, without following a link.
fn found(path: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(None),
        metadata => metadata.map(Some).context(|| format!("look at {}", path.display())),
    }
}

fn of_kind(path: &Path, metadata: &Metadata, wanted: Kind) -> Result<()> {
    let is = metadata.file_type();
    if is.is_symlink() {
        return refused(format!(
            "{} is a symbolic link, which netbpf does not follow: remove it, or name what it leads to",
            path.display()
        ));
    }
    let (is_right, what) = match wanted {
        Kind::Directory => (is.is_dir(), "directory"),
        Kind::File => (is.is_file(), "ordinary file"),
        Kind::Socket => (is.is_socket(), "socket"),
    };
    if is_right {
        return Ok(());
    }
    refused(format!("{} is no {what}: remove it, or choose another directory for the instance", path.display()))
}

/// The directories that lead to a path: as they are named, and as they are when links are followed.
fn way_to(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    // What is not there yet is made by root, below what is.
    let real = parent.ancestors().find_map(|ancestor| fs::canonicalize(ancestor).ok());
    let real = real.as_deref().into_iter().flat_map(Path::ancestors);
    for ancestor in parent.ancestors().chain(real) {
        let Some(metadata) = found(ancestor)? else { continue };
        // A link is its owner's, and its mode says nothing. In a sticky directory entries of root stay where they are.
        let is_harmless = metadata.is_symlink() || metadata.mode() & STICKY != 0;
        if is_harmless && metadata.uid() == 0 {
            continue;
        }
        own(ancestor, &metadata)?;
    }
    Ok(())
}

/// Whether somebody besides the owner and the group root can write.
fn others_write(metadata: &Metadata) -> bool {
    let mode = metadata.mode();
    mode & OTHERS_WRITE != 0 || (mode & GROUP_WRITES != 0 && metadata.gid() != 0)
}

fn refused(line: String) -> Result<()> {
    Err(Error::Conflict(line))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn refusal(result: Result<()>, words: &str) {
        let line = result.unwrap_err().to_string();
        assert!(line.contains(words) && line.contains(": ") && !line.contains('\n'), "{line}");
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_not_there_and_what_is_ones_own_is_good() {
        let scratch = tempfile::tempdir().unwrap();
        directory(&scratch.path().join("none/of/these")).unwrap();
        file(&scratch.path().join("none")).unwrap();
        files_of(&scratch.path().join("none")).unwrap();
        directory(scratch.path()).unwrap();
        fs::write(scratch.path().join("file"), "").unwrap();
        files_of(scratch.path()).unwrap();
    }

    #[test]
    fn a_link_is_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let (target, link) = (scratch.path().join("target"), scratch.path().join("link"));
        fs::create_dir(&target).unwrap();
        symlink(&target, &link).unwrap();
        refusal(directory(&link), "symbolic link");
        refusal(file(&link), "symbolic link");
        refusal(directories_of(scratch.path()), "symbolic link");
        directory(&link.join("below")).unwrap();
    }

    #[test]
    fn a_thing_of_another_kind_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("thing");
        fs::write(&path, "").unwrap();
        refusal(directory(&path), "no directory");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refusal(file(&path), "no ordinary file");
        refusal(files_of(scratch.path()), "no ordinary file");
    }

    #[test]
    fn what_others_can_write_to_is_refused_and_so_is_what_lies_below() {
        let scratch = tempfile::tempdir().unwrap();
        let open = scratch.path().join("open");
        fs::create_dir(&open).unwrap();
        mode(&open, 0o777);
        refusal(directory(&open), "mode 0777");
        refusal(directory(&open.join("below/it")), "chmod go-w");
        let led = scratch.path().join("led");
        symlink(&open, &led).unwrap();
        refusal(directory(&led.join("below")), "mode 0777");
        mode(&open, 0o755);
        directory(&open.join("below/it")).unwrap();
        let file_of_all = open.join("file");
        fs::write(&file_of_all, "").unwrap();
        mode(&file_of_all, 0o666);
        refusal(file(&file_of_all), "mode 0666");
    }
}
