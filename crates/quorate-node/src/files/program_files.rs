//! The files of a program as they were when their digest was taken.
//!
//! What is run is what was hashed: the content is read once, and the run uses a private copy of it.
//! Only regular files count; a link or device in a program's folder is refused (`E_PROGRAM`),
//! because two machines could see different things behind it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use quorate_identity::{Code, Rejection};
use quorate_session::{
    ContentDigest, ManifestEntry, limits::MAX_MANIFEST_ENTRIES, manifest_digest,
};

use super::{Home, atomic::disk, read_bounded, write_atomic};
use crate::Fault;

/// Largest program, all files together, in bytes.
const MAX_PROGRAM_BYTES: u64 = 64 << 20;
/// Deepest folder inside a program.
const MAX_FOLDER_DEPTH: usize = 16;
/// The file that a folder program starts with.
const FOLDER_ENTRY: &str = "main.py";

/// A program's files in memory, named and hashed.
#[derive(Debug, Clone)]
pub struct ProgramFiles {
    entry: String,
    digest: ContentDigest,
    files: Vec<(String, Vec<u8>)>,
    folder: Option<PathBuf>,
}

impl ProgramFiles {
    /// A program carried in quorate: one file under the name `entry`.
    pub fn embedded(entry: &str, source: &str) -> Result<Self, Fault> {
        Self::of(
            entry.into(),
            vec![(entry.into(), source.as_bytes().to_vec())],
            None,
        )
    }

    /// A file, or a folder with a `main.py`. A single file takes the name that the invitation gives
    /// it (`entry`), so that it may be called otherwise on this machine.
    pub fn read(path: &Path, entry: Option<&str>) -> Result<Self, Fault> {
        let meta = fs::metadata(path).map_err(|e| {
            Fault::new(Code::Program, format!("{} cannot be read: {e}", path.display()))
                .hint("give the program's file or folder; quorate's own are called mpyc:secretsanta, mpyc:mean-income, mpyc:vote")
        })?;
        if meta.is_dir() {
            let mut files = Vec::new();
            read_folder(path, "", 0, &mut files)?;
            return Self::of(
                entry.unwrap_or(FOLDER_ENTRY).into(),
                files,
                Some(path.to_owned()),
            );
        }
        let name = match entry {
            Some(entry) => entry.to_owned(),
            None => path
                .file_name()
                .and_then(|n| n.to_str())
                .ok_or_else(|| program_fault(path, "has no plain name"))?
                .to_owned(),
        };
        let content = read_regular(path)?;
        // `program.py` alone has the empty path as its parent, which is no folder to run in.
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let folder = whole.parent().map(Path::to_owned);
        Self::of(name.clone(), vec![(name, content)], folder)
    }

    /// Files that were read and hashed before, by another process of this user.
    pub fn of_files(
        entry: String,
        files: Vec<(String, Vec<u8>)>,
        folder: Option<PathBuf>,
    ) -> Result<Self, Fault> {
        Self::of(entry, files, folder)
    }

    /// Path and content of each file.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files
            .iter()
            .map(|(path, content)| (path.as_str(), content.as_slice()))
    }

    fn of(
        entry: String,
        files: Vec<(String, Vec<u8>)>,
        folder: Option<PathBuf>,
    ) -> Result<Self, Fault> {
        let entries: Vec<_> = files
            .iter()
            .map(|(path, content)| ManifestEntry {
                path: path.clone(),
                size: content.len() as u64,
                sha256: ContentDigest::of(content),
            })
            .collect();
        let digest = manifest_digest(&entries)?;
        if !files.iter().any(|(path, _)| *path == entry) {
            return Err(Rejection::new(
                Code::Program,
                "S3",
                format!("the program has no file {entry:?} to start with"),
            )
            .into());
        }
        Ok(Self {
            entry,
            digest,
            files,
            folder,
        })
    }

    /// The file to start.
    pub fn entry(&self) -> &str {
        &self.entry
    }

    /// The digest of the manifest.
    pub fn digest(&self) -> ContentDigest {
        self.digest
    }

    /// Where the user keeps it: the working directory of the run, for data beside the program.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Writes the private copy that is run below `target` and gives the path of the file to start.
    pub fn copy_to(&self, target: &Path) -> Result<PathBuf, Fault> {
        for (name, content) in &self.files {
            let path = target.join(name);
            Home::ensure(path.parent().unwrap_or(target))?;
            write_atomic(&path, content)?;
        }
        Ok(target.join(&self.entry))
    }
}

impl ProgramFiles {
    /// The same for a program that is not run by an interpreter of ours: its files may be executed.
    pub fn copy_executable_to(&self, target: &Path) -> Result<PathBuf, Fault> {
        let entry = self.copy_to(target)?;
        for (name, _) in &self.files {
            let path = target.join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
                .map_err(|e| disk(&path, "cannot be made executable", &e))?;
        }
        Ok(entry)
    }
}

fn read_folder(
    folder: &Path,
    prefix: &str,
    depth: usize,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), Fault> {
    if depth > MAX_FOLDER_DEPTH {
        return Err(program_fault(folder, "is nested too deeply"));
    }
    for item in fs::read_dir(folder).map_err(|e| disk(folder, "cannot be read", &e))? {
        let item = item.map_err(|e| disk(folder, "cannot be read", &e))?;
        let name = item.file_name();
        let Some(name) = name.to_str() else {
            return Err(program_fault(&item.path(), "has a name that is not UTF-8"));
        };
        if name == "__pycache__" || name.starts_with('.') {
            continue;
        }
        let path = format!("{prefix}{name}");
        let kind = item
            .file_type()
            .map_err(|e| disk(&item.path(), "cannot be read", &e))?;
        if kind.is_dir() {
            read_folder(&item.path(), &format!("{path}/"), depth + 1, files)?;
        } else if kind.is_file() {
            files.push((path, read_regular(&item.path())?));
        } else {
            return Err(program_fault(
                &item.path(),
                "is neither a file nor a folder",
            ));
        }
        let total: u64 = files.iter().map(|(_, content)| content.len() as u64).sum();
        if files.len() > MAX_MANIFEST_ENTRIES || total > MAX_PROGRAM_BYTES {
            return Err(program_fault(
                folder,
                "has too many or too large files for a program",
            ));
        }
    }
    Ok(())
}

fn read_regular(path: &Path) -> Result<Vec<u8>, Fault> {
    let meta = fs::metadata(path).map_err(|e| disk(path, "cannot be read", &e))?;
    if !meta.is_file() {
        return Err(program_fault(path, "is not a regular file"));
    }
    read_bounded(path, MAX_PROGRAM_BYTES)?.ok_or_else(|| program_fault(path, "disappeared"))
}

fn program_fault(path: &Path, why: &str) -> Fault {
    Fault::new(Code::Program, format!("{} {why}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_file_may_have_another_name_here() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.py"), folder.path().join("b.py"));
        fs::write(&a, "print(1)").unwrap();
        fs::write(&b, "print(1)").unwrap();
        let named = ProgramFiles::read(&b, Some("a.py")).unwrap();
        assert_eq!(
            ProgramFiles::read(&a, None).unwrap().digest(),
            named.digest()
        );
        assert_ne!(
            ProgramFiles::read(&b, None).unwrap().digest(),
            named.digest()
        );
    }

    #[test]
    fn a_folder_is_hashed_whole_and_copied_as_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("p");
        fs::create_dir_all(source.join("lib")).unwrap();
        fs::write(source.join("main.py"), "import lib.x").unwrap();
        fs::write(source.join("lib/x.py"), "y = 1").unwrap();
        let program = ProgramFiles::read(&source, None).unwrap();
        fs::write(source.join("lib/x.py"), "y = 2").unwrap();
        let target = folder.path().join("copy");
        let entry = program.copy_to(&target).unwrap();
        assert_eq!(
            fs::read_to_string(target.join("lib/x.py")).unwrap(),
            "y = 1"
        );
        assert_eq!(entry, target.join("main.py"));
        assert_ne!(
            ProgramFiles::read(&source, None).unwrap().digest(),
            program.digest()
        );
    }

    #[test]
    fn a59_links_devices_and_missing_entries_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("p");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("other.py"), "").unwrap();
        assert_eq!(
            ProgramFiles::read(&source, None).unwrap_err().code,
            Code::Program
        );
        fs::write(source.join("main.py"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", source.join("data")).unwrap();
        assert_eq!(
            ProgramFiles::read(&source, None).unwrap_err().code,
            Code::Program
        );
        assert_eq!(
            ProgramFiles::read(Path::new("/dev/null"), None)
                .unwrap_err()
                .code,
            Code::Program
        );
    }
}
