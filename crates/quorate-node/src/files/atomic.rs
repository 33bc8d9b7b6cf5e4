//! Reading with a bound, and writing so that a crash leaves the old file or the new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use quorate_identity::Code;

use crate::Fault;

/// Mode of every file that is written here.
const FILE_MODE: u32 = 0o600;
/// Most damaged versions of one file that are kept.
const MAX_ASIDE: usize = 16;

/// The content of a file that must not be larger than `limit` bytes; `None` when there is no file.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Fault> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(disk(path, "cannot be read", &e)),
    };
    let mut content = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut content)
        .map_err(|e| disk(path, "cannot be read", &e))?;
    if content.len() as u64 > limit {
        return Err(Fault::new(
            Code::Format,
            format!("{} is larger than {limit} bytes", path.display()),
        ));
    }
    Ok(Some(content))
}

/// Replaces `path` by `content`, mode 0600, synced to the disk together with its folder.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<(), Fault> {
    let temporary = write_temporary(path, content)?;
    temporary
        .persist(path)
        .map_err(|e| disk(path, "cannot be written", &e.error))?;
    sync_folder(path)
}

/// Like [`write_atomic`], but an existing file stays: answers `false` and writes nothing then.
pub fn write_new(path: &Path, content: &[u8]) -> Result<bool, Fault> {
    let temporary = write_temporary(path, content)?;
    match temporary.persist_noclobber(path) {
        Ok(_) => sync_folder(path).map(|()| true),
        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(disk(path, "cannot be written", &e.error)),
    }
}

/// Removes a file; it is fine when there is none.
pub fn remove_if_there(path: &Path) -> Result<(), Fault> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(disk(path, "cannot be removed", &e)),
        _ => Ok(()),
    }
}

/// Moves a damaged file beside its place, over none that lies there already: its owner may want to
/// repair it. Gives its new path.
pub fn put_aside(path: &Path) -> Result<PathBuf, Fault> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let places = (1..=MAX_ASIDE).map(|n| match n {
        1 => path.with_file_name(format!("{name}.damaged")),
        n => path.with_file_name(format!("{name}.damaged-{n}")),
    });
    for aside in places {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, path, CWD, &aside, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(aside),
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(disk(path, "is damaged and cannot be put aside", &e.into())),
        }
    }
    Err(Fault::new(
        Code::State,
        format!(
            "{} is damaged, and {MAX_ASIDE} damaged ones lie beside it",
            path.display()
        ),
    )
    .hint("look at them and remove those that you do not need"))
}

fn write_temporary(path: &Path, content: &[u8]) -> Result<tempfile::NamedTempFile, Fault> {
    let folder = folder_of(path);
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(fs::Permissions::from_mode(FILE_MODE))
        .tempfile_in(folder)
        .map_err(|e| disk(folder, "cannot be written to", &e))?;
    file.write_all(content)
        .and_then(|()| file.as_file().sync_all())
        .map_err(|e| disk(path, "cannot be written", &e))?;
    Ok(file)
}

/// A rename is only durable once the folder that holds the name is.
fn sync_folder(path: &Path) -> Result<(), Fault> {
    let folder = folder_of(path);
    OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::DIRECTORY.bits().cast_signed())
        .open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| disk(folder, "cannot be synced", &e))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

pub(crate) fn disk(path: &Path, what: &str, error: &std::io::Error) -> Fault {
    let fault = Fault::new(Code::Disk, format!("{} {what}: {error}", path.display()));
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            fault.hint("free some disk space, then run the command again")
        }
        _ => fault,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_are_private_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(!write_new(&path, b"three").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "a temporary file was left"
        );
    }

    #[test]
    fn a_large_file_is_refused_without_reading_it_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, [0; 11]).unwrap();
        assert_eq!(read_bounded(&path, 10).unwrap_err().code, Code::Format);
        assert_eq!(read_bounded(&path, 11).unwrap().unwrap().len(), 11);
        assert!(
            read_bounded(&folder.path().join("none"), 1)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn an_unwritable_folder_is_a_disk_fault() {
        let error = write_atomic(Path::new("/proc/none/f"), b"x").unwrap_err();
        assert_eq!(error.code, Code::Disk);
    }
}
