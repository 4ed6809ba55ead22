//! A directory of Kubernetes manifests as a source of Services.
//!
//! Every `*.yaml`, `*.yml` and `*.json` in it (not below it, not hidden) is read as unmodified manifests, several
//! documents and Lists included. A mistake never takes anything away: what a wrong document or an unreadable
//! file said before stays until it is right again or the file is removed; everything else applies. Each mistake
//! is a [`Problem`] that names file, document and field, told once per version of the file. What is told to the
//! outside is the objects that differ; finding them is one walk over those that there are.

use crate::change::Changes;
use crate::object::{FieldError, Identity, Object, parse};
use crate::watch::Watch;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Largest file that is read, in bytes.
pub const FILE_MAX: u64 = 256 << 20;
/// How soon [`Source::drop`] is noticed.
const TICK: Duration = Duration::from_secs(1);

/// Something that does not apply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Which document of it, from 1; 0 for the file as a whole.
    pub document: usize,
    /// The field and what is wrong with it.
    pub error: FieldError,
    /// Whether objects of an earlier version of the file go on being used.
    pub kept: bool,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if self.document > 0 {
            write!(f, "document {}: ", self.document)?;
        }
        write!(f, "{}", self.error)?;
        f.write_str(if self.kept { "; its last good version stays" } else { "; skipped" })
    }
}

/// What a file's version is told by.
type Stamp = (u64, u64, i64, i64, u64);

#[derive(Default)]
struct File {
    stamp: Option<Stamp>,
    objects: BTreeMap<Identity, Object>,
}

/// The content of a directory, as last read.
pub struct Manifests {
    directory: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// What was told of each object last, by hash.
    told: BTreeMap<Identity, u64>,
    hasher: RandomState,
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Whether the objects may differ from before.
    pub changed: bool,
    /// Mistakes in files that are new or changed.
    pub problems: Vec<Problem>,
}

impl Manifests {
    /// Nothing is read yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            files: BTreeMap::new(),
            told: BTreeMap::new(),
            hasher: RandomState::new(),
        }
    }

    /// Reads what is new or changed.
    ///
    /// # Errors
    /// When the directory itself cannot be read: then everything stays as it was.
    pub fn scan(&mut self) -> io::Result<Scan> {
        let paths = manifest_files(&self.directory)?;
        let mut scan = Scan::default();
        self.files.retain(|path, _| {
            let stays = paths.contains(path);
            scan.changed |= !stays;
            stays
        });
        for path in paths {
            let file = self.files.entry(path.clone()).or_default();
            let stamp = stamp(&path);
            if stamp.is_some() && stamp == file.stamp {
                continue;
            }
            file.stamp = stamp;
            let before = scan.problems.len();
            let objects = read(&path, &mut scan.problems);
            let found = scan.problems.get_mut(before..).unwrap_or_default();
            for problem in found.iter_mut() {
                problem.kept = !file.objects.is_empty();
            }
            scan.changed |= file.replace(objects, found.is_empty());
        }
        Ok(scan)
    }

    /// What is new since this was asked last; in two files with the same object the later name wins.
    pub fn changes(&mut self) -> Changes {
        let mut all = BTreeMap::new();
        for file in self.files.values() {
            all.extend(&file.objects);
        }
        let mut changes = Changes::default();
        self.told.retain(|identity, _| {
            let stays = all.contains_key(identity);
            if !stays {
                changes.set(identity.clone(), None);
            }
            stays
        });
        for (identity, object) in all {
            let hash = self.hasher.hash_one(object);
            if self.told.get(identity) != Some(&hash) {
                self.told.insert(identity.clone(), hash);
                changes.set(identity.clone(), Some(object.clone()));
            }
        }
        changes
    }
}

impl File {
    /// Takes the objects of a new version; with mistakes in it the old ones that it does not name stay.
    fn replace(&mut self, objects: Vec<(Identity, Object)>, clean: bool) -> bool {
        let mut next = if clean { BTreeMap::new() } else { self.objects.clone() };
        next.extend(objects);
        let changed = next != self.objects;
        self.objects = next;
        changed
    }
}

fn manifest_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        let wanted = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if wanted && !hidden && !path.is_dir() {
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
}

fn read(path: &Path, problems: &mut Vec<Problem>) -> Vec<(Identity, Object)> {
    let mut fail = |document: usize, error: FieldError| {
        problems.push(Problem { file: path.to_owned(), document, error, kept: false });
    };
    let mut objects = Vec::new();
    let text = match load(path) {
        Ok(text) => text,
        Err(e) => {
            fail(0, FieldError::new("", format!("cannot read: {e}")));
            return objects;
        }
    };
    for (n, (line, document)) in documents(&text).into_iter().enumerate() {
        match value(document) {
            Ok(value) => {
                let errors = parse(value, &mut objects).err().unwrap_or_default();
                errors.into_iter().for_each(|e| fail(n + 1, e));
            }
            Err(e) => fail(n + 1, FieldError::new("", format!("after line {line} of the file: {e}"))),
        }
    }
    objects
}

fn load(path: &Path) -> io::Result<String> {
    let meta = std::fs::metadata(path)?;
    if !meta.is_file() || meta.len() > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file of at most 256 MiB"));
    }
    std::fs::read_to_string(path)
}

/// One document as a JSON value. Booleans are those of YAML 1.2: a namespace may be called `n`.
///
/// # Errors
/// A text that says where it is not YAML.
pub fn value(document: &str) -> Result<serde_json::Value, String> {
    if document.trim_start().starts_with('{') {
        // JSON may be indented by tabs, which YAML forbids; what is no JSON may still be a YAML flow mapping.
        if let Ok(value) = serde_json::from_str(document) {
            return Ok(value);
        }
    }
    let budget = serde_saphyr::budget! {
        max_events: 20_000_000,
        max_nodes: 20_000_000,
        max_total_scalar_bytes: 256 << 20,
    };
    let options = serde_saphyr::options! { budget: budget, strict_booleans: true };
    serde_saphyr::from_str_with_options(document, options).map_err(|e| e.without_snippet().to_string())
}

/// Splits at `---` lines, so that one document with a mistake does not hide the others. With each the number of
/// lines before it. Documents of nothing but comments are left out.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut out = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (n, line) in text.split_inclusive('\n').enumerate() {
        let rest = line.strip_prefix("---");
        if rest.is_some_and(|r| r.trim_end().is_empty() || r.starts_with([' ', '\t'])) {
            out.push((start_line, text.get(start..at).unwrap_or_default()));
            let inline = rest.is_some_and(|r| !r.trim().is_empty() && !r.trim().starts_with('#'));
            start = if inline { at + 3 } else { at + line.len() };
            start_line = if inline { n } else { n + 1 };
        }
        at += line.len();
    }
    out.push((start_line, text.get(start..).unwrap_or_default()));
    let says_something = |d: &str| {
        d.lines()
            .map(str::trim)
            .any(|l| !(l.is_empty() || l.starts_with('#') || l.starts_with('%') || l == "..."))
    };
    out.retain(|(_, document)| says_something(document));
    out
}

/// A thread that follows a directory. Dropping it ends the thread within a second.
pub struct Source {
    stop: Arc<AtomicBool>,
}

impl Source {
    /// Reads `directory` on a thread of its own, calls `changed` with all objects and then with what changes, and
    /// `report` with every problem (also of the directory itself).
    ///
    /// # Errors
    /// When the directory cannot be read now, or neither watch nor thread can be made.
    pub fn spawn(
        directory: impl Into<PathBuf>,
        mut changed: impl FnMut(Changes) + Send + 'static,
        mut report: impl FnMut(String) + Send + 'static,
    ) -> io::Result<Self> {
        let directory = directory.into();
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", directory.display()));
        std::fs::read_dir(&directory).map_err(named)?;
        let mut watch = Watch::new(&directory).map_err(named)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut manifests = Manifests::new(directory);
        let work = move || {
            let (mut first, mut readable) = (true, true);
            while !stopped.load(Ordering::Relaxed) {
                match manifests.scan() {
                    Ok(scan) => {
                        scan.problems.iter().for_each(|p| report(p.to_string()));
                        if scan.changed || first {
                            changed(manifests.changes());
                        }
                        (first, readable) = (false, true);
                    }
                    Err(e) if readable => {
                        readable = false;
                        report(format!(
                            "{}: {e}; its last good content stays",
                            manifests.directory.display()
                        ));
                    }
                    Err(_) => {}
                }
                while !watch.wait(TICK) && !stopped.load(Ordering::Relaxed) {}
            }
        };
        std::thread::Builder::new().name("manifests".to_owned()).spawn(work)?;
        Ok(Self { stop })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "manifests_tests.rs"]
mod tests;
