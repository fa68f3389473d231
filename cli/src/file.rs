//! Files that are whole or not there at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// Readable by everybody, as the umask allows.
pub(crate) const MODE_SHARED: u32 = 0o666;
/// Readable by its owner alone.
pub(crate) const MODE_SECRET: u32 = 0o600;

/// Puts a file with these contents in the place of `path`: who reads it sees all of it or nothing.
pub(crate) fn replace(path: &Path, contents: &str, mode: u32) -> Result<(), Failure> {
    let beside = beside(path);
    let written = create(&beside, contents, mode).and_then(|()| fs::rename(&beside, path));
    written.map_err(|e| {
        // What could not be written is of no use; that it may not be there is the usual case.
        let _ = fs::remove_file(&beside);
        cannot_write(path, &e)
    })
}

/// Whether [`replace`] would find a place for the file: known before there is something to write.
pub(crate) fn can_replace(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::other("what is there is not a file"));
    }
    let beside = beside(path);
    create(&beside, "", MODE_SECRET)?;
    fs::remove_file(&beside)
}

/// Makes a directory for files of this extension, in which there is none yet.
pub(crate) fn empty_directory(path: &Path, extension: &str) -> io::Result<()> {
    fs::create_dir_all(path)?;
    for entry in fs::read_dir(path)? {
        let there = entry?.path();
        if there.extension().is_some_and(|is| is == extension) {
            let shown = there.display();
            let message = format!("{shown} is there already; give a directory without such files");
            return Err(io::Error::other(message));
        }
    }
    Ok(())
}

/// Where a file is until it is whole.
fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.part", std::process::id()));
    beside.into()
}

/// A new file with these contents; `AlreadyExists` if there is one.
pub(crate) fn create(path: &Path, contents: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(contents.as_bytes())?;
    file.sync_all()
}

pub(crate) fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("cannot write {}: {error}", path.display()))
}
