//! A client's history, for `dreamcatcher verify-history`: what the game did and saw, in a file.
//!
//! ```text
//!   game threads ─ note ─▶ bounded queue ─▶ one thread for all clients of the process ─▶ files
//! ```
//!
//! To note a fact never waits. Where the disk is too slow and the queue is full, the file ends with
//! `incomplete`, and the game goes on.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dreamcatcher_proto::history::{Cause, Fact, Recorder};
use dreamcatcher_proto::{Error, ErrorCode};
use tokio::sync::Notify;

use crate::core::Core;

/// Facts of all clients that wait to be written: a second of a thousand busy ones, some 10 MiB.
const QUEUE_FACTS_MAX: usize = 65_536;
/// Bytes of one file that are written at once.
const WRITE_BYTES: usize = 65_536;
/// Facts that are taken before it is looked whether files have ended.
const TURN_FACTS: usize = 4_096;
/// How long what was noted may stay in memory.
const WRITE_AFTER: Duration = Duration::from_millis(200);

/// The history of one client.
#[derive(Debug)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    queue: SyncSender<Note>,
    began: Instant,
}

/// What a client and the writer share of one file.
#[derive(Debug, Default)]
struct Shared {
    id: u64,
    /// Facts that were put into the queue.
    queued: AtomicU64,
    /// A fact found no room: nothing after it is noted.
    is_lost: AtomicBool,
    /// Nothing more is noted.
    is_closed: AtomicBool,
    /// Everything is in the file.
    is_written: AtomicBool,
    written: Notify,
}

/// A fact on its way to the file.
#[derive(Debug)]
struct Note {
    file: u64,
    at: Duration,
    fact: Fact,
}

impl Log {
    /// Creates the file.
    ///
    /// # Errors
    /// `InvalidArgument` if it is there already, or cannot be created.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        let mut desk = lock(&DESK);
        let queue = desk.queue()?;
        desk.last_id += 1;
        let writing = Writing::create(path, desk.last_id)?;
        let shared = Arc::clone(&writing.shared);
        desk.new.push(writing);
        drop(desk);
        Ok(Self::new(shared, queue))
    }

    fn new(shared: Arc<Shared>, queue: SyncSender<Note>) -> Self {
        Self {
            shared,
            queue,
            began: Instant::now(),
        }
    }

    /// Notes a fact that happens now.
    pub(crate) fn note(&self, fact: Fact) {
        let Shared {
            id,
            queued,
            is_lost,
            is_closed,
            ..
        } = &*self.shared;
        if is_closed.load(Ordering::Acquire) || is_lost.load(Ordering::Acquire) {
            return;
        }
        let note = Note {
            file: *id,
            at: self.began.elapsed(),
            fact,
        };
        // Counted before: the writer waits for as many.
        queued.fetch_add(1, Ordering::AcqRel);
        if self.queue.try_send(note).is_err() {
            queued.fetch_sub(1, Ordering::AcqRel);
            is_lost.store(true, Ordering::Release);
        }
    }

    /// Notes where the client stands, unless there is something that its game has not read.
    pub(crate) fn end(&self, core: &Core) {
        if let Some(index) = core.index().filter(|_| !core.has_events()) {
            let unresolved = core.unresolved();
            self.note(Fact::Standing { index, unresolved });
        }
        self.close();
    }

    fn close(&self) {
        self.shared.is_closed.store(true, Ordering::Release);
    }

    /// Waits until everything is in the file.
    pub(crate) async fn written(&self) {
        loop {
            let may_be = self.shared.written.notified();
            if self.shared.is_written.load(Ordering::Acquire) {
                return;
            }
            may_be.await;
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

/// Where clients find the writer. There is one in a process, from the first history on.
static DESK: Mutex<Desk> = Mutex::new(Desk {
    queue: None,
    last_id: 0,
    new: Vec::new(),
});

#[derive(Debug)]
struct Desk {
    queue: Option<SyncSender<Note>>,
    last_id: u64,
    /// Files that the writer has not seen yet: one for each client at most.
    new: Vec<Writing>,
}

impl Desk {
    fn queue(&mut self) -> Result<SyncSender<Note>, Error> {
        if let Some(queue) = &self.queue {
            return Ok(queue.clone());
        }
        let (queue, notes) = sync_channel(QUEUE_FACTS_MAX);
        let writer = Writer {
            notes,
            files: BTreeMap::new(),
        };
        std::thread::Builder::new()
            .name("dreamcatcher-history".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| {
                let message = format!("the thread that writes histories: {error}");
                Error::new(ErrorCode::Internal, message)
            })?;
        self.queue = Some(queue.clone());
        Ok(queue)
    }
}

/// The thread that writes.
#[derive(Debug)]
struct Writer {
    notes: Receiver<Note>,
    files: BTreeMap<u64, Writing>,
}

/// One file.
#[derive(Debug)]
struct Writing {
    shared: Arc<Shared>,
    /// `None` once it could not be written.
    file: Option<File>,
    recorder: Recorder<Fact>,
    buffer: Vec<u8>,
    /// Of whole lines in the file.
    bytes: u64,
    /// Facts that came out of the queue.
    taken: u64,
    /// When the last of them happened.
    until: Duration,
}

impl Writer {
    fn run(mut self) {
        let mut next_look = Instant::now() + WRITE_AFTER;
        loop {
            let wait = next_look.saturating_duration_since(Instant::now());
            let mut note = match self.notes.recv_timeout(wait) {
                Ok(note) => Some(note),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for _ in 0..TURN_FACTS {
                let Some(taken) = note else { break };
                self.take(taken);
                // Nobody hangs up: the desk keeps a sender.
                note = self.notes.try_recv().ok();
            }
            if let Some(left) = note {
                self.take(left);
            }
            if next_look <= Instant::now() {
                next_look = Instant::now() + WRITE_AFTER;
                self.look();
            }
        }
    }

    /// Writes what has come, and lets go of the files that have ended.
    fn look(&mut self) {
        self.meet();
        self.files.retain(|_, file| {
            file.write();
            !file.ends()
        });
    }

    fn take(&mut self, Note { file, at, fact }: Note) {
        if !self.files.contains_key(&file) {
            self.meet();
        }
        if let Some(file) = self.files.get_mut(&file) {
            file.taken += 1;
            file.until = at;
            file.recorder.note(at, &fact, &mut file.buffer);
            if file.buffer.len() >= WRITE_BYTES {
                file.write();
            }
        }
    }

    fn meet(&mut self) {
        let new = std::mem::take(&mut lock(&DESK).new);
        self.files
            .extend(new.into_iter().map(|file| (file.shared.id, file)));
    }
}

impl Writing {
    fn create(path: &Path, id: u64) -> Result<Self, Error> {
        let cannot = |error: &dyn std::fmt::Display| {
            let shown = path.display();
            let message = format!("the history {shown} cannot be created: {error}");
            Error::new(ErrorCode::InvalidArgument, message)
        };
        let name = path.file_stem().map(|stem| stem.to_string_lossy());
        let name = name.ok_or_else(|| cannot(&"the path names no file"))?;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_ms = unix.map_or(0, |unix| u64::try_from(unix.as_millis()).unwrap_or(0));
        let mut buffer = Vec::new();
        let recorder =
            Recorder::begin(&name, unix_ms, &mut buffer).map_err(|e| cannot(&e.message()))?;
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let mut file = file.map_err(|error| cannot(&error))?;
        // A file that is there but cannot be written is found now, not in the middle of a game.
        file.write_all(&buffer).map_err(|error| cannot(&error))?;
        let bytes = buffer.len() as u64;
        buffer.clear();
        let shared = Arc::new(Shared {
            id,
            ..Shared::default()
        });
        Ok(Self {
            shared,
            file: Some(file),
            recorder,
            buffer,
            bytes,
            taken: 0,
            until: Duration::ZERO,
        })
    }

    fn write(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let Some(file) = &mut self.file else { return };
        if let Err(error) = file.write_all(&buffer) {
            tracing::warn!(%error, "a history cannot be written any more");
            let mut last = Vec::new();
            self.recorder.cut(self.until, Cause::CannotWrite, &mut last);
            // In the place of what was written in part. If there is no room for that either, the file
            // ends in the middle of a line, which says the same.
            let end = file.set_len(self.bytes);
            let end = end.and_then(|()| file.seek(SeekFrom::Start(self.bytes)));
            let _ = end.and_then(|_| file.write_all(&last));
            self.file = None;
        }
        self.bytes += buffer.len() as u64;
        self.buffer = buffer;
        self.buffer.clear();
    }

    /// Whether everything is in the file; tells whoever waits for it.
    fn ends(&mut self) -> bool {
        let is_lost = self.shared.is_lost.load(Ordering::Acquire);
        let is_closed = self.shared.is_closed.load(Ordering::Acquire);
        let is_all = self.taken == self.shared.queued.load(Ordering::Acquire);
        if !((is_lost || is_closed) && is_all) {
            return false;
        }
        if is_lost {
            self.recorder
                .cut(self.until, Cause::TooSlow, &mut self.buffer);
            self.write();
        }
        self.file = None;
        self.shared.is_written.store(true, Ordering::Release);
        self.shared.written.notify_waiters();
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use dreamcatcher_proto::history::line::read;
    use dreamcatcher_proto::history::{Facts, Recording};

    use super::*;
    use crate::block_on;

    #[test]
    fn what_is_noted_is_in_the_file_once_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ann.jsonl");
        let log = Log::create(&path).unwrap();
        log.note(Fact::Reconnecting);
        log.note(Fact::Resumed);
        log.close();
        log.note(Fact::Reconnecting);
        block_on(log.written());
        let recording = recording(&path);
        assert_eq!(recording.header.name, "ann");
        assert_eq!(facts(&recording), [Fact::Reconnecting, Fact::Resumed]);
        assert!(!recording.is_cut);
    }

    #[test]
    fn where_the_disk_is_too_slow_nothing_waits_and_the_file_ends_with_incomplete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ann.jsonl");
        let (queue, notes) = sync_channel(2);
        let writing = Writing::create(&path, 1).unwrap();
        let log = Log::new(Arc::clone(&writing.shared), queue);
        // Nobody takes anything out of the queue.
        for _ in 0..5 {
            log.note(Fact::Reconnecting);
        }
        let files = BTreeMap::from([(1, writing)]);
        let mut writer = Writer { notes, files };
        while let Ok(note) = writer.notes.try_recv() {
            writer.take(note);
        }
        log.note(Fact::Resumed);
        writer.look();
        assert!(writer.files.is_empty(), "the file is let go of");
        let recording = recording(&path);
        let cause = Cause::TooSlow;
        let lost = Fact::Incomplete { cause };
        let noted = [Fact::Reconnecting, Fact::Reconnecting, lost];
        assert_eq!(facts(&recording), noted);
        assert!(recording.is_cut);
        block_on(log.written());
    }

    #[test]
    fn a_history_that_is_there_or_has_no_place_is_refused_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ann.jsonl");
        std::fs::write(&path, "mine").unwrap();
        for path in [path.clone(), folder.path().join("no/such/folder.jsonl")] {
            let refused = Log::create(&path).unwrap_err();
            assert_eq!(refused.code(), ErrorCode::InvalidArgument);
            assert!(
                refused.message().contains(path.to_str().unwrap()),
                "{refused}"
            );
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    fn recording(path: &Path) -> Recording {
        read("f", std::fs::read_to_string(path).unwrap().lines()).unwrap()
    }

    fn facts(recording: &Recording) -> Vec<Fact> {
        let Facts::Member(facts) = &recording.facts else {
            panic!("{recording:?}")
        };
        facts.iter().map(|(_, fact)| fact.clone()).collect()
    }
}
