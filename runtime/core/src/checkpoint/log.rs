//! The file of a checkpoint: a magic line, then records, each written once at the end.
//!
//! A record is, in this order: its kind as a byte; the length of its payload as a little-endian `u64`; the payload; SHA-256
//! of its place in the file and of all before. What a power cut leaves half-written, or from an earlier use of the same
//! place, has no such hash and is where the file ends.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::cache::is_still;
use crate::picture::{sync_folder, temporary_beside};

/// The first bytes; the number is the format's version.
const MAGIC: &[u8] = b"safelight-checkpoint/1\n";
const HEAD_BYTES: usize = 9;
pub(super) const HASH_BYTES: usize = 32;
/// Longest payload of a record that is read as a whole; longer ones are numbers of a graph, of which only the head is.
pub(super) const MAX_TEXT_BYTES: u64 = 16 << 20;
/// What of a graph's numbers is read while the file is looked through.
pub(super) const NUMBERS_HEAD_BYTES: usize = 56;

/// How long a file may be locked by a process that is just ending.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// What was asked for; the first record, and the only one of its kind.
    Request = 1,
    /// What runs: graphs, providers, library.
    Graphs = 2,
    /// A request has begun.
    Begun = 3,
    /// What the denoiser's graph gave once.
    Numbers = 4,
    /// A picture is where it belongs.
    Saved = 5,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Request, Self::Graphs, Self::Begun, Self::Numbers, Self::Saved]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// A record as it was found: of numbers, only their head.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kind: Kind,
    /// Where it begins.
    pub(super) offset: u64,
    /// Where it ends.
    pub(super) end: u64,
    pub(super) payload: Vec<u8>,
}

/// Why there is nothing to go on from.
#[derive(Debug)]
pub(super) enum Fault {
    /// Another process has it.
    Locked,
    /// It is no checkpoint, or of another version.
    Stranger,
    Failed(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// An open file, locked for as long as it is open.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    /// Where the next record begins.
    end: u64,
    /// The record that is written or read, so that nothing is allocated for each.
    buffer: Vec<u8>,
}

impl Log {
    /// A new file with its first record. It gets its name once it is whole and locked.
    pub(super) fn create(path: &Path, request: &[u8]) -> io::Result<Self> {
        let (_unfinished, mut temporary) = temporary_beside(path)?;
        temporary.write_all(MAGIC)?;
        temporary.as_file().try_lock().map_err(io::Error::from)?;
        let mut log = Self { file: temporary.as_file().try_clone()?, end: MAGIC.len() as u64, buffer: Vec::new() };
        log.append(Kind::Request, &[request], &[])?;
        log.sync()?;
        // The lock is the open file's, which both handles share.
        match temporary.persist_noclobber(path) {
            Ok(_) => (),
            Err(e) if path.exists() => return Err(e.error),
            // Some file systems can only rename.
            Err(e) => drop(e.file.persist(path).map_err(|e| e.error)?),
        }
        sync_folder(path);
        Ok(log)
    }

    /// A file that is there, locked, with its records; nothing where it is not there. Cuts off what is not whole at its
    /// end, and tells how many bytes that was.
    pub(super) fn open(path: &Path) -> Result<Option<(Self, Vec<Found>, u64)>, Fault> {
        let file = match File::options().read(true).write(true).open(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        lock(&file)?;
        // Whoever had it may have removed it meanwhile.
        if !is_still(path, &file) {
            return Ok(None);
        }
        let mut log = Self { file, end: 0, buffer: Vec::new() };
        let (length, found) = log.look_through()?;
        let torn = length - log.end;
        if torn > 0 {
            log.file.set_len(log.end)?;
        }
        Ok(Some((log, found, torn)))
    }

    /// The first record of a file, whoever has that.
    pub(super) fn peek(path: &Path) -> Result<Option<Vec<u8>>, Fault> {
        // Opening a pipe to read would wait for whoever writes.
        let length = match path.metadata() {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Ok(found) if !found.is_file() => return Err(Fault::Stranger),
            found => found?.len(),
        };
        let file = File::open(path)?;
        let mut log = Self { file, end: 0, buffer: Vec::new() };
        log.skip_magic()?;
        match log.next(length)? {
            Some(Found { kind: Kind::Request, payload, .. }) => Ok(Some(payload)),
            _ => Err(Fault::Stranger),
        }
    }

    fn skip_magic(&mut self) -> Result<(), Fault> {
        if !self.file.metadata()?.is_file() {
            return Err(Fault::Stranger);
        }
        let mut magic = [0; MAGIC.len()];
        match self.file.read_exact(&mut magic) {
            Ok(()) if magic == MAGIC => self.end = MAGIC.len() as u64,
            Ok(()) => return Err(Fault::Stranger),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Err(Fault::Stranger),
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// The file's length, and every record that is whole.
    fn look_through(&mut self) -> Result<(u64, Vec<Found>), Fault> {
        let length = self.file.metadata()?.len();
        self.skip_magic()?;
        let mut found = Vec::new();
        while let Some(record) = self.next(length)? {
            let is_first = found.is_empty();
            if is_first != (record.kind == Kind::Request) {
                break;
            }
            self.end = record.end;
            found.push(record);
        }
        if found.is_empty() { Err(Fault::Stranger) } else { Ok((length, found)) }
    }

    /// The record at the end of what was found so far; nothing where none is whole.
    fn next(&mut self, length: u64) -> io::Result<Option<Found>> {
        let offset = self.end;
        let around = (HEAD_BYTES + HASH_BYTES) as u64;
        let Some(most) = length.checked_sub(offset).and_then(|left| left.checked_sub(around)) else { return Ok(None) };
        self.file.seek(SeekFrom::Start(offset))?;
        let mut head = [0; HEAD_BYTES];
        self.file.read_exact(&mut head)?;
        let [kind, bytes @ ..] = head;
        let (Some(kind), bytes) = (Kind::of(kind), u64::from_le_bytes(bytes)) else { return Ok(None) };
        let kept = if kind == Kind::Numbers { NUMBERS_HEAD_BYTES as u64 } else { bytes };
        if bytes > most || kept > bytes || kept > MAX_TEXT_BYTES {
            return Ok(None);
        }
        let mut hash = begin_hash(offset);
        hash.update(head);
        let mut payload = vec![0; kept as usize];
        self.file.read_exact(&mut payload)?;
        hash.update(&payload);
        self.hash_rest(bytes - kept, &mut hash)?;
        let mut promised = [0; HASH_BYTES];
        self.file.read_exact(&mut promised)?;
        let is_whole = hash.finalize().as_slice() == promised;
        Ok(is_whole.then_some(Found { kind, offset, end: offset + around + bytes, payload }))
    }

    fn hash_rest(&mut self, bytes: u64, hash: &mut Sha256) -> io::Result<()> {
        let (mut left, mut part) = (bytes, [0; 1 << 14]);
        while left > 0 {
            let part = &mut part[..left.min(1 << 14) as usize];
            self.file.read_exact(part)?;
            hash.update(&*part);
            left -= part.len() as u64;
        }
        Ok(())
    }

    /// Makes room for records of so many numbers.
    pub(super) fn reserve(&mut self, numbers: usize) {
        let bytes = HEAD_BYTES + NUMBERS_HEAD_BYTES + 4 * numbers + HASH_BYTES;
        self.buffer.clear();
        self.buffer.reserve(bytes);
    }

    /// Where the next record will begin.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Writes a record at the end. Where that fails, the file is as it was, as far as can be.
    pub(super) fn append(&mut self, kind: Kind, parts: &[&[u8]], numbers: &[f32]) -> io::Result<()> {
        let bytes = parts.iter().map(|part| part.len()).sum::<usize>() + 4 * numbers.len();
        self.buffer.clear();
        self.buffer.push(kind as u8);
        self.buffer.extend_from_slice(&(bytes as u64).to_le_bytes());
        parts.iter().for_each(|part| self.buffer.extend_from_slice(part));
        numbers.iter().for_each(|number| self.buffer.extend_from_slice(&number.to_le_bytes()));
        let hash = begin_hash(self.end).chain_update(&self.buffer).finalize();
        self.buffer.extend_from_slice(&hash);
        let written = self.file.seek(SeekFrom::Start(self.end)).and_then(|_| self.file.write_all(&self.buffer));
        match written {
            Ok(()) => self.end += self.buffer.len() as u64,
            Err(_) => drop(self.file.set_len(self.end)),
        }
        written
    }

    /// Reads the numbers of a record; tells what its head says, or nothing where it has not as many or is not whole.
    pub(super) fn read(&mut self, offset: u64, numbers: &mut [f32]) -> io::Result<Option<[u8; NUMBERS_HEAD_BYTES]>> {
        let bytes = NUMBERS_HEAD_BYTES + 4 * numbers.len();
        self.buffer.clear();
        self.buffer.resize(HEAD_BYTES + bytes + HASH_BYTES, 0);
        self.file.seek(SeekFrom::Start(offset))?;
        match self.file.read_exact(&mut self.buffer) {
            // A record that is shorter may be the last.
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let (record, promised) = self.buffer.split_at(HEAD_BYTES + bytes);
        if begin_hash(offset).chain_update(record).finalize().as_slice() != promised {
            return Ok(None);
        }
        let (head, values) = record[HEAD_BYTES..].split_at(NUMBERS_HEAD_BYTES);
        for (number, bytes) in numbers.iter_mut().zip(values.as_chunks().0) {
            *number = f32::from_le_bytes(*bytes);
        }
        Ok(head.try_into().ok())
    }

    /// Forgets every record from `offset` on but those that are given. A process that is killed in between has lost
    /// numbers that nobody needs any more, and at worst makes pictures again.
    pub(super) fn rewind(&mut self, offset: u64, kept: &[(Kind, Vec<u8>)]) -> io::Result<()> {
        self.end = offset;
        kept.iter().try_for_each(|(kind, payload)| self.append(*kind, &[payload], &[]))?;
        self.file.set_len(self.end)
    }

    /// Waits until the disk has it.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Locks a file, with some patience: a process that was killed holds it until its children have let go of what they
/// inherited.
fn lock(file: &File) -> Result<(), Fault> {
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => std::thread::sleep(PATIENCE / 20),
            Err(TryLockError::WouldBlock) => return Err(Fault::Locked),
            Err(TryLockError::Error(e)) => return Err(e.into()),
        }
    }
}

fn begin_hash(offset: u64) -> Sha256 {
    Sha256::new_with_prefix(offset.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(of: u8) -> (Vec<u8>, Vec<f32>) {
        (vec![of; NUMBERS_HEAD_BYTES], vec![f32::from(of), f32::NAN, -0.0])
    }

    /// Three records, and where each ends.
    fn written(path: &Path) -> Vec<u64> {
        let mut log = Log::create(path, b"{}").unwrap();
        let mut ends = vec![log.end()];
        for of in [1, 2] {
            let (head, numbers) = numbers(of);
            log.append(Kind::Numbers, &[&head], &numbers).unwrap();
            ends.push(log.end());
        }
        ends
    }

    #[test]
    fn a_file_cut_anywhere_has_the_records_before_the_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whole");
        let ends = written(&path);
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..=bytes.len() {
            let cut = folder.path().join("cut");
            std::fs::write(&cut, &bytes[..length]).unwrap();
            let whole = ends.iter().filter(|end| **end <= length as u64).count();
            match Log::open(&cut) {
                Err(Fault::Stranger) => assert_eq!(whole, 0, "{length}"),
                Ok(Some((mut log, found, torn))) => {
                    assert_eq!((found.len(), log.end() + torn), (whole, length as u64), "{length}");
                    // What is written next follows what was whole.
                    let (head, numbers) = numbers(9);
                    log.append(Kind::Numbers, &[&head], &numbers).unwrap();
                    drop(log);
                    assert_eq!(Log::open(&cut).unwrap().unwrap().1.len(), whole + 1, "{length}");
                }
                other => panic!("{length}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_changed_byte_ends_the_file_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whole");
        let ends = written(&path);
        let bytes = std::fs::read(&path).unwrap();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 0x80;
            let damaged = folder.path().join("damaged");
            std::fs::write(&damaged, &changed).unwrap();
            let whole = ends.iter().filter(|end| **end <= place as u64).count();
            match Log::open(&damaged) {
                Err(Fault::Stranger) => assert_eq!(whole, 0, "{place}"),
                Ok(Some((_, found, torn))) => assert!(found.len() == whole && torn > 0, "{place}"),
                other => panic!("{place}: {other:?}"),
            }
        }
    }

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whole");
        let ends = written(&path);
        let (mut log, found, _) = Log::open(&path).unwrap().unwrap();
        assert_eq!(found.iter().map(|record| record.end).collect::<Vec<_>>(), ends);
        let (head, expected) = numbers(2);
        let mut read = vec![0.0; 3];
        assert_eq!(log.read(found[2].offset, &mut read).unwrap().unwrap().as_slice(), head);
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read), bits(&expected));
        for other in [2, 4] {
            assert!(log.read(found[2].offset, &mut vec![0.0; other]).unwrap().is_none());
        }
    }

    #[test]
    fn what_is_rewound_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whole");
        let ends = written(&path);
        let (mut log, ..) = Log::open(&path).unwrap().unwrap();
        log.rewind(ends[0], &[(Kind::Saved, vec![7; 48])]).unwrap();
        let end = log.end();
        drop(log);
        let (_, found, torn) = Log::open(&path).unwrap().unwrap();
        assert_eq!((found.len(), found[1].kind, torn), (2, Kind::Saved, 0));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), end);
    }

    #[test]
    fn one_process_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whole");
        let log = Log::create(&path, b"{}").unwrap();
        assert!(matches!(Log::open(&path), Err(Fault::Locked)));
        assert_eq!(Log::create(&path, b"{}").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(Log::peek(&path).unwrap().unwrap(), b"{}");
        drop(log);
        assert!(Log::open(&path).unwrap().is_some());
        assert!(Log::open(&folder.path().join("absent")).unwrap().is_none());
        assert!(Log::open(folder.path()).is_err());
    }

    /// A length that no file has allocates nothing.
    #[test]
    fn lengths_are_checked_before_anything_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lying");
        for kind in 0..=255 {
            for length in [u64::MAX, u64::MAX - 40, 1 << 40, 0] {
                let bytes = [MAGIC, &[kind], &length.to_le_bytes(), &[0; 64]].concat();
                std::fs::write(&path, bytes).unwrap();
                assert!(matches!(Log::open(&path), Err(Fault::Stranger)));
            }
        }
    }
}
