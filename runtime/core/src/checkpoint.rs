//! A generation that was killed goes on to the very picture that it was making.
//!
//! What takes time are the runs of the denoiser's graph, so what they gave is kept: a generation that goes on is begun
//! again, and is given what the graph gave before, in the same order, until that ends. Samplers, guidance and noise
//! compute their part once more, which takes milliseconds and comes to the same bits. So it works for every sampler, and
//! none needs to know of it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::graph::Opened;
use crate::model::Model;
use crate::picture::{check_save, unwritable};
use crate::request::{Plan, Request};
use crate::stage::Stage;
use crate::target::Target;
use crate::{Error, ErrorKind, Result, hash};

mod identity;
mod log;

use log::{Fault, Found, HASH_BYTES, Kind, Log, MAX_TEXT_BYTES, NUMBERS_HEAD_BYTES};

/// What a generation has done, in a file that outlives its process. Clones are one.
///
/// A pipeline that [has it](crate::Pipeline::set_checkpoint) writes down what the denoiser's graph gives, and takes from it
/// what an earlier process has written. Whoever gets the pictures tells it [which are saved](Self::saved), and
/// [removes it](Self::remove) in the end.
///
/// ```no_run
/// use std::path::Path;
/// use safelight::picture::save_durably;
/// use safelight::{Checkpoint, Format, Model, Pipeline, Request, Target};
///
/// # fn main() -> safelight::Result<()> {
/// let target = Target::open("targets/generic-cpu.yaml".as_ref())?;
/// let model = Model::open("models/emoji".as_ref())?;
/// let requests = [Request { prompt: "a red apple".into(), seed: 7, ..Request::default() }];
/// let path = Path::new("apple.checkpoint");
/// let checkpoint = match Checkpoint::resume(path, 5, &requests, (&model, &target))? {
///     Some(checkpoint) => checkpoint,
///     None => Checkpoint::create(path, 5, &requests, (&model, &target))?,
/// };
/// let mut pipeline = Pipeline::open(&target, &model)?;
/// pipeline.set_checkpoint(Some(checkpoint.clone()));
/// for request in &requests {
///     pipeline.generate_each(request, |picture| {
///         let bytes = picture.encode(Format::Png)?;
///         save_durably("apple.png".as_ref(), &bytes)?;
///         checkpoint.saved(&bytes);
///         Ok(())
///     })?;
/// }
/// checkpoint.remove()
/// # }
/// ```
#[derive(Clone)]
pub struct Checkpoint(Arc<Mutex<State>>);

struct State {
    path: PathBuf,
    log: Log,
    /// Steps from one waiting for the disk to the next.
    every: usize,
    steps: usize,
    /// Of each request, in order.
    requests: Vec<[u8; HASH_BYTES]>,
    /// How many of them have begun in this process.
    begun: usize,
    graphs: Option<Value>,
    are_graphs_checked: bool,
    /// What tiles each request that has begun was given.
    tiles: BTreeMap<u64, Option<usize>>,
    /// The file of each picture that is saved.
    saved: BTreeMap<Place, [u8; HASH_BYTES]>,
    /// The picture that is handed over.
    handed_over: Place,
    /// Batches whose pictures are not all saved.
    batches: BTreeMap<Place, Numbers>,
    /// Up to here, the file has no numbers.
    base: u64,
    /// What is to stay of the records behind that.
    kept: Vec<(Kind, Vec<u8>)>,
    torn: u64,
    /// Why nothing more is written.
    fault: Option<String>,
    is_fault_told: bool,
}

/// A request, and one of its pictures; of a batch, the first.
type Place = (u64, u64);

/// What the denoiser's graph gave for a batch.
#[derive(Default)]
struct Numbers {
    pictures: u64,
    runs: usize,
    /// Where the numbers of each lie in the file that an earlier process has written.
    offsets: Vec<u64>,
}

/// What a checkpoint holds when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Pictures that are saved.
    pub pictures: usize,
    /// Runs of the denoiser's graph for pictures that are not.
    pub evaluations: usize,
    /// Bytes at the end that were not written whole, and are made again.
    pub torn_bytes: u64,
}

/// What a generation did not need to do again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Resumed {
    /// Pictures that were saved before.
    pub pictures: usize,
    /// Steps for whose evaluations the graph was not run.
    pub steps: usize,
    /// Runs of the denoiser's graph whose numbers were there.
    pub evaluations: usize,
}

impl Checkpoint {
    /// A new checkpoint for requests that are made in this order. What the graph gives is handed to the system at once, so
    /// that a process that is killed loses nothing; every so many steps it is made sure that the disk has it, so that a
    /// power cut loses no more than those.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where the file is there, or `every` is 0; as [`Plan::new`] for the requests;
    /// [`ErrorKind::Limit`] for a prompt of millions of bytes; [`ErrorKind::Io`] where the file cannot be written.
    pub fn create(path: &Path, every: usize, requests: &[Request], on: (&Model, &Target)) -> Result<Self> {
        Self::check_create(path, every)?;
        let (header, hashes) = header(requests, on)?;
        let header = identity::bytes(&header)?;
        if header.len() as u64 > MAX_TEXT_BYTES {
            let what = format!("the request takes {} bytes, more than {MAX_TEXT_BYTES}", header.len());
            return Err(Error::limit(format!("checkpoint {}: {what}; shorten the prompt", path.display())));
        }
        let log = Log::create(path, &header).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => is_there(path),
            _ => unwritable(path, e).context("checkpoint"),
        })?;
        Ok(Self::of(path, every, log, hashes))
    }

    /// Checks that [`create`](Self::create) can make a checkpoint, so that a fault is told before the work and not after
    /// it.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn check_create(path: &Path, every: usize) -> Result<()> {
        check_interval(every)?;
        match path.symlink_metadata() {
            Ok(_) => Err(is_there(path)),
            Err(_) => check_save(path).map_err(|e| e.context("checkpoint")),
        }
    }

    /// The checkpoint that an earlier process has left; nothing where there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where another process works on it, where it is of other requests, naming what differs, or
    /// where the file is no checkpoint; [`ErrorKind::Io`] where it cannot be read; as [`Plan::new`] for the requests.
    pub fn resume(path: &Path, every: usize, requests: &[Request], on: (&Model, &Target)) -> Result<Option<Self>> {
        check_interval(every)?;
        let (header, hashes) = header(requests, on)?;
        let Some((log, found, torn)) = Log::open(path).map_err(|fault| unusable(path, fault))? else { return Ok(None) };
        let was = found.first().map(|record| parse(path, &record.payload)).transpose()?.unwrap_or_default();
        let told = identity::differences(&was["request"], &header["request"]);
        let told = told.or_else(|| identity::differences(&all(&was), &all(&header)));
        if let Some(told) = told {
            return Err(mismatch(path, &told));
        }
        let checkpoint = Self::of(path, every, log, hashes);
        checkpoint.state().take(found, torn)?;
        Ok(Some(checkpoint))
    }

    /// The seed of the first request of a checkpoint, for going on where it was chosen at random; nothing where there is no
    /// checkpoint.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where the file is no checkpoint, [`ErrorKind::Io`] where it cannot be read.
    pub fn seed(path: &Path) -> Result<Option<u64>> {
        let header = Log::peek(path).map_err(|fault| unusable(path, fault))?;
        header.map_or(Ok(None), |header| Ok(parse(path, &header)?["request"]["seed"].as_u64()))
    }

    fn of(path: &Path, every: usize, log: Log, requests: Vec<[u8; HASH_BYTES]>) -> Self {
        let base = log.end();
        Self(Arc::new(Mutex::new(State {
            path: path.to_path_buf(),
            log,
            every,
            steps: 0,
            requests,
            begun: 0,
            graphs: None,
            are_graphs_checked: false,
            tiles: BTreeMap::new(),
            saved: BTreeMap::new(),
            handed_over: (0, 0),
            batches: BTreeMap::new(),
            base,
            kept: Vec::new(),
            torn: 0,
            fault: None,
            is_fault_told: false,
        })))
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.state().path.clone()
    }

    /// What it holds now.
    pub fn held(&self) -> Held {
        let state = self.state();
        let evaluations = state.batches.values().map(|numbers| numbers.runs).sum();
        Held { pictures: state.saved.len(), evaluations, torn_bytes: state.torn }
    }

    /// Compares the pictures that are said to be saved with their files, which `path` gives by the numbers of request and
    /// picture. Pictures whose file is another one, is gone, or cannot be found again are made anew; returns the paths of
    /// those that should have been there.
    pub fn check_saved(&self, mut path: impl FnMut(usize, usize) -> Option<PathBuf>) -> Vec<PathBuf> {
        let mut state = self.state();
        let mut missing = Vec::new();
        state.saved.retain(|&(request, picture), expected| {
            let Some(path) = path(request as usize, picture as usize) else { return false };
            let is_there = path.is_file() && hash::of_file(&path).is_ok_and(|found| found == hash::hex(expected));
            if !is_there {
                missing.push(path);
            }
            is_there
        });
        missing
    }

    /// Whether a picture of a request is saved, by their numbers from 0: it is not made again.
    pub fn is_saved(&self, request: usize, picture: usize) -> bool {
        self.state().saved.contains_key(&(request as u64, picture as u64))
    }

    /// Says that the picture that was just handed over is on the disk, as a file of these bytes: it will not be made again.
    pub fn saved(&self, file: &[u8]) {
        let mut state = self.state();
        let (request, picture) = state.handed_over;
        let hash: [u8; HASH_BYTES] = Sha256::digest(file).into();
        let payload = [&request.to_le_bytes() as &[u8], &picture.to_le_bytes(), &hash].concat();
        state.saved.insert((request, picture), hash);
        state.write(|state| {
            state.log.append(Kind::Saved, &[&payload], &[])?;
            state.kept.push((Kind::Saved, payload));
            state.forget_numbers()?;
            state.log.sync()
        });
    }

    /// Waits until the disk has all that was done: before a device is turned off.
    pub fn sync(&self) {
        self.state().write(|state| state.log.sync());
    }

    /// Why the checkpoint has stopped to grow, where it has: a full disk stops no picture.
    pub fn fault(&self) -> Option<String> {
        self.state().fault.clone()
    }

    /// Removes the file: all pictures are where they belong.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn remove(self) -> Result<()> {
        let path = self.path();
        let told =
            |e: io::Error| Error::io(format!("checkpoint {}: cannot be removed: {e}", path.display())).because(e);
        std::fs::remove_file(&path).map_err(told)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a pipeline asks and tells.
impl Checkpoint {
    /// Begins the next request: its number, and the tiles that it works in, which are those that it was begun with.
    pub(crate) fn begin(&self, request: &Request, plan: &mut Plan, on: (&Model, &Target)) -> Result<u64> {
        let hash = identity::hash(&identity::of_request(request, plan, on.0, on.1))?;
        let mut state = self.state();
        let number = state.begun;
        if state.requests.get(number) != Some(&hash) {
            let (path, count) = (state.path.display(), state.requests.len());
            return Err(Error::usage(format!(
                "checkpoint {path}: request {} is not the one that it was opened for ({count} requests, in their order)",
                number + 1
            )));
        }
        state.begun += 1;
        let number = number as u64;
        match state.tiles.get(&number) {
            Some(tile) => plan.tile = *tile,
            None => state.note_begun(number, plan.tile),
        }
        Ok(number)
    }

    /// Compares what runs with what ran, or notes it. `weights` are hashed only once a process.
    pub(crate) fn check_graphs<'a>(
        &self,
        graphs: impl Iterator<Item = (Stage, &'a Opened)>,
        weights: impl FnOnce() -> Result<Vec<String>>,
        library: &str,
    ) -> Result<()> {
        let mut state = self.state();
        if state.are_graphs_checked {
            return Ok(());
        }
        let is = identity::of_graphs(graphs, &weights()?, library);
        match state.graphs.take() {
            Some(was) => identity::differences(&was, &is).map_or(Ok(()), |told| Err(mismatch(&state.path, &told)))?,
            None => state.note(Kind::Graphs, identity::bytes(&is)?),
        }
        state.are_graphs_checked = true;
        Ok(())
    }

    /// Pictures of a request that are saved.
    pub(crate) fn saved_of(&self, request: u64) -> usize {
        self.state().saved.range((request, 0)..(request + 1, 0)).count()
    }

    /// Says which picture is about to be handed over.
    pub(crate) fn hands_over(&self, request: u64, picture: usize) {
        self.state().handed_over = (request, picture as u64);
    }

    /// What has gone wrong, once.
    pub(crate) fn take_warning(&self) -> Option<String> {
        let mut state = self.state();
        if std::mem::replace(&mut state.is_fault_told, true) {
            return None;
        }
        state.is_fault_told = state.fault.is_some();
        let (path, fault) = (state.path.display(), state.fault.as_ref()?);
        Some(format!("checkpoint {path}: {fault}; what comes now would have to be made again"))
    }

    /// What the denoiser's graph gives for one batch of `pictures` from number `first` on, steered by what `steering` is
    /// the hash of.
    pub(crate) fn tape(&self, request: u64, (first, pictures): (usize, usize), steering: [u8; HASH_BYTES]) -> Tape {
        let place = (request, first as u64);
        let held = self.state().batches.get(&place).map_or(0, |numbers| numbers.offsets.len());
        let (number, asked) = (Cell::new(0), Cell::new([0; HASH_BYTES]));
        let (ran, resumed) = (Cell::new(false), Cell::new(held > 0));
        let (checkpoint, pictures) = (self.clone(), pictures as u64);
        Tape { checkpoint, place, pictures, held, steering, number, asked, ran, resumed, steps: Cell::new(0) }
    }
}

impl State {
    /// Takes over what an earlier process has written.
    fn take(&mut self, found: Vec<Found>, torn: u64) -> Result<()> {
        self.torn = torn;
        let mut is_before_numbers = true;
        for Found { kind, offset, end, payload } in found {
            is_before_numbers &= kind != Kind::Numbers;
            if is_before_numbers {
                self.base = end;
            } else if !matches!(kind, Kind::Numbers | Kind::Request) {
                self.kept.push((kind, payload.clone()));
            }
            match kind {
                Kind::Request => (),
                Kind::Graphs => self.graphs = Some(parse(&self.path, &payload)?),
                Kind::Begun => self.take_begun(&payload),
                Kind::Numbers => self.take_numbers(&payload, offset),
                Kind::Saved => self.take_saved(&payload),
            }
        }
        // A process may have ended before it gave this room back.
        self.write(Self::forget_numbers);
        Ok(())
    }

    fn take_begun(&mut self, payload: &[u8]) {
        if let Some([request, tile]) = numbers(payload) {
            self.tiles.insert(request, (tile > 0).then_some(tile as usize));
        }
    }

    fn take_numbers(&mut self, payload: &[u8], offset: u64) {
        let Some([request, first, pictures]) = numbers(payload) else { return };
        let batch = self.batches.entry((request, first)).or_default();
        batch.pictures = pictures;
        batch.runs += 1;
        batch.offsets.push(offset);
    }

    fn take_saved(&mut self, payload: &[u8]) {
        let hash = payload.get(16..).and_then(|hash| hash.try_into().ok());
        if let (Some([request, picture]), Some(hash)) = (numbers(payload), hash) {
            self.saved.insert((request, picture), hash);
            self.drop_saved_batches();
        }
    }

    /// Numbers of batches whose pictures are all saved are not needed any more.
    fn drop_saved_batches(&mut self) {
        let saved = &self.saved;
        self.batches.retain(|&(request, first), batch| {
            !(first..first.saturating_add(batch.pictures)).all(|picture| saved.contains_key(&(request, picture)))
        });
    }

    /// Gives the room of numbers back once no batch needs any.
    fn forget_numbers(&mut self) -> io::Result<()> {
        self.drop_saved_batches();
        if self.batches.is_empty() && self.base < self.log.end() {
            let kept = std::mem::take(&mut self.kept);
            self.log.rewind(self.base, &kept)?;
            self.base = self.log.end();
        }
        Ok(())
    }

    fn note_begun(&mut self, request: u64, tile: Option<usize>) {
        self.tiles.insert(request, tile);
        let payload = [request.to_le_bytes(), (tile.unwrap_or(0) as u64).to_le_bytes()].concat();
        self.note(Kind::Begun, payload);
    }

    /// Writes a record that stays.
    fn note(&mut self, kind: Kind, payload: Vec<u8>) {
        self.write(|state| {
            state.log.append(kind, &[&payload], &[])?;
            if state.batches.is_empty() {
                state.base = state.log.end();
            } else {
                state.kept.push((kind, payload));
            }
            Ok(())
        });
    }

    /// Writes, unless that has failed before: the picture comes without it.
    fn write(&mut self, write: impl FnOnce(&mut Self) -> io::Result<()>) {
        if self.fault.is_none() {
            self.fault = write(self).err().map(|e| format!("cannot be written: {e}"));
        }
    }
}

/// What the denoiser's graph gave for one batch, and gives from then on.
pub(crate) struct Tape {
    checkpoint: Checkpoint,
    place: Place,
    pictures: u64,
    /// Runs that an earlier process has written down.
    held: usize,
    steering: [u8; HASH_BYTES],
    /// Runs so far.
    number: Cell<usize>,
    /// Hash of what the graph is asked.
    asked: Cell<[u8; HASH_BYTES]>,
    /// Whether the graph has run in this step.
    ran: Cell<bool>,
    /// Whether that is still to be told.
    resumed: Cell<bool>,
    /// Steps without a run.
    steps: Cell<usize>,
}

/// How a step came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// From what was written down.
    Replayed,
    /// It is the first for which the graph has run after others that were replayed.
    Resumed,
    /// The graph has run.
    Anew,
}

impl Tape {
    /// Makes room for what one run gives.
    pub(crate) fn reserve(&self, numbers: usize) {
        self.checkpoint.state().log.reserve(numbers);
    }

    /// Gives what the graph gave when it was asked this before; `false` where it has to run.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where it was asked something else.
    pub(crate) fn play(&self, timestep: f64, scaled: &[f32], output: &mut [f32]) -> Result<bool> {
        self.asked.set(self.hash(timestep, scaled));
        let number = self.number.get();
        if number >= self.held {
            return Ok(false);
        }
        let mut state = self.checkpoint.state();
        let State { path, log, batches, .. } = &mut *state;
        let Some(&offset) = batches.get(&self.place).and_then(|numbers| numbers.offsets.get(number)) else {
            return Ok(false);
        };
        let read = log.read(offset, output).map_err(|e| unusable(path, e.into()))?;
        if read != Some(self.head()) {
            return Err(Error::usage(format!(
                "checkpoint {}: the denoiser was asked something else at evaluation {} than before; the text encoder or the \
                 machine gives other numbers, so that it would be another picture; remove the file to begin anew",
                path.display(),
                number + 1
            )));
        }
        self.number.set(number + 1);
        Ok(true)
    }

    /// Writes down what the graph gave when it was asked what [`play`](Self::play) was told.
    pub(crate) fn keep(&self, output: &[f32]) {
        let head = self.head();
        self.ran.set(true);
        self.number.set(self.number.get() + 1);
        self.checkpoint.state().write(|state| {
            state.log.append(Kind::Numbers, &[&head], output)?;
            let batch = state.batches.entry(self.place).or_default();
            batch.pictures = self.pictures;
            batch.runs += 1;
            Ok(())
        });
    }

    /// A step is done: makes sure of it where it is time for that, and tells how it came about.
    pub(crate) fn step(&self) -> Came {
        // A step may need no run at all, whether it is replayed or not.
        if !self.ran.replace(false) && self.held > 0 && self.number.get() <= self.held {
            self.steps.set(self.steps.get() + 1);
            return Came::Replayed;
        }
        self.checkpoint.state().write(|state| {
            state.steps += 1;
            if state.steps.is_multiple_of(state.every) { state.log.sync() } else { Ok(()) }
        });
        if self.resumed.replace(false) { Came::Resumed } else { Came::Anew }
    }

    /// What went wrong, once.
    pub(crate) fn take_warning(&self) -> Option<String> {
        self.checkpoint.take_warning()
    }

    /// What did not have to be done again.
    pub(crate) fn replayed(&self) -> Resumed {
        Resumed { pictures: 0, steps: self.steps.get(), evaluations: self.held.min(self.number.get()) }
    }

    fn head(&self) -> [u8; NUMBERS_HEAD_BYTES] {
        let mut head = [0; NUMBERS_HEAD_BYTES];
        let places = [self.place.0, self.place.1, self.pictures];
        for (part, number) in head.as_chunks_mut().0.iter_mut().zip(places) {
            *part = number.to_le_bytes();
        }
        head[NUMBERS_HEAD_BYTES - HASH_BYTES..].copy_from_slice(&self.asked.get());
        head
    }

    fn hash(&self, timestep: f64, scaled: &[f32]) -> [u8; HASH_BYTES] {
        let mut hash = Sha256::new_with_prefix(self.steering);
        hash.update((self.number.get() as u64).to_le_bytes());
        hash.update(timestep.to_le_bytes());
        hash_numbers(&mut hash, scaled);
        hash.finalize().into()
    }
}

/// Hash of numbers that steer the denoiser.
pub(crate) fn hash_of<'a>(parts: impl Iterator<Item = &'a [f32]>) -> [u8; HASH_BYTES] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash_numbers(&mut hash, part);
    }
    hash.finalize().into()
}

/// A few at once, which is faster than one by one and allocates nothing.
fn hash_numbers(hash: &mut Sha256, numbers: &[f32]) {
    let mut bytes = [0; 1024];
    for part in numbers.chunks(bytes.len() / 4) {
        for (bytes, number) in bytes.as_chunks_mut().0.iter_mut().zip(part) {
            *bytes = number.to_le_bytes();
        }
        hash.update(&bytes[..4 * part.len()]);
    }
}

/// The first of the numbers that a payload begins with.
fn numbers<const N: usize>(payload: &[u8]) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    let bytes = payload.get(..8 * N)?;
    numbers.iter_mut().zip(bytes.as_chunks().0).for_each(|(number, bytes)| *number = u64::from_le_bytes(*bytes));
    Some(numbers)
}

/// What a file begins with: the first request, how many there are, and a hash of all. The others are much like the first.
fn header(requests: &[Request], (model, target): (&Model, &Target)) -> Result<(Value, Vec<[u8; HASH_BYTES]>)> {
    let of = |request| Ok(identity::of_request(request, &Plan::new(request, model, target)?, model, target));
    let Some(first) = requests.first() else {
        return Err(Error::usage("a checkpoint is of at least one request, got none"));
    };
    let hashes = requests.iter().map(|request| identity::hash(&of(request)?)).collect::<Result<Vec<_>>>()?;
    let all = hash::hex(&Sha256::digest(hashes.concat()));
    Ok((json!({ "request": of(first)?, "requests": requests.len(), "all requests": all }), hashes))
}

/// A header without its first request.
fn all(header: &Value) -> Value {
    json!({ "requests": header["requests"], "all requests": header["all requests"] })
}

fn is_there(path: &Path) -> Error {
    let what = match path.is_dir() {
        true => "is a folder; name a file",
        false => "is there, and may hold what a generation has done; go on with it (--resume), or remove it",
    };
    Error::usage(format!("checkpoint {}: {what}", path.display()))
}

fn check_interval(every: usize) -> Result<()> {
    if every == 0 {
        return Err(Error::usage("a checkpoint every 0 steps, expected at least 1"));
    }
    Ok(())
}

fn parse(path: &Path, payload: &[u8]) -> Result<Value> {
    serde_json::from_slice(payload).map_err(|_| unusable(path, Fault::Stranger))
}

fn mismatch(path: &Path, told: &str) -> Error {
    Error::usage(format!(
        "checkpoint {}: belongs to another request ({told}); ask for what it was, or remove the file to begin anew",
        path.display()
    ))
}

fn unusable(path: &Path, fault: Fault) -> Error {
    let path = path.display();
    match fault {
        Fault::Locked => {
            Error::usage(format!("checkpoint {path}: another process works on it; wait for that, or end it"))
        }
        Fault::Stranger => Error::usage(format!(
            "checkpoint {path}: is damaged at its beginning, or no checkpoint of this version of safelight; remove it, or \
             name another file"
        )),
        Fault::Failed(e) => Error::new(ErrorKind::Io, format!("checkpoint {path}: cannot be read: {e}")).because(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(path: &Path) -> Checkpoint {
        match Log::open(path).unwrap() {
            None => Checkpoint::of(path, 2, Log::create(path, b"{}").unwrap(), vec![]),
            Some((log, found, torn)) => {
                let checkpoint = Checkpoint::of(path, 2, log, vec![]);
                checkpoint.state().take(found, torn).unwrap();
                checkpoint
            }
        }
    }

    /// Two evaluations of two numbers, written down for the batch of the pictures 4 and 5.
    fn write(path: &Path) {
        let tape = checkpoint(path).tape(3, (4, 2), [1; HASH_BYTES]);
        for (asked, given) in [([1.0, 2.0], [3.0, 4.0]), ([5.0, 6.0], [7.0, 8.0])] {
            assert!(!tape.play(999.0, &asked, &mut [0.0; 2]).unwrap());
            tape.keep(&given);
            assert_eq!(tape.step(), Came::Anew);
        }
    }

    #[test]
    fn answers_come_back_in_order_and_the_graph_takes_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path);
        let checkpoint = checkpoint(&path);
        assert_eq!(checkpoint.held(), Held { pictures: 0, evaluations: 2, torn_bytes: 0 });
        let (tape, mut given) = (checkpoint.tape(3, (4, 2), [1; HASH_BYTES]), [0.0; 2]);
        for (asked, expected) in [([1.0, 2.0], [3.0, 4.0]), ([5.0, 6.0], [7.0, 8.0])] {
            assert!(tape.play(999.0, &asked, &mut given).unwrap());
            assert_eq!((given, tape.step()), (expected, Came::Replayed));
        }
        for came in [Came::Resumed, Came::Anew] {
            assert!(!tape.play(999.0, &[9.0, 9.0], &mut given).unwrap());
            tape.keep(&given);
            assert_eq!(tape.step(), came);
        }
        assert_eq!(tape.replayed(), Resumed { pictures: 0, steps: 2, evaluations: 2 });
        // Another batch has none.
        assert!(!checkpoint.tape(3, (6, 2), [1; HASH_BYTES]).play(999.0, &[1.0, 2.0], &mut given).unwrap());
    }

    /// Other hidden states, another level, another latent to the last bit, another size.
    #[test]
    fn other_questions_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path);
        let checkpoint = checkpoint(&path);
        for (steering, timestep, asked, size) in [
            (2, 999.0, [1.0, 2.0], 2),
            (1, 998.0, [1.0, 2.0], 2),
            (1, 999.0, [1.0, 2.000_000_2], 2),
            (1, 999.0, [1.0, 2.0], 3),
            (1, 999.0, [1.0, 2.0], 1),
        ] {
            let tape = checkpoint.tape(3, (4, 2), [steering; HASH_BYTES]);
            let error = tape.play(timestep, &asked, &mut vec![0.0; size]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains("something else at evaluation 1 than before"), "{error}");
        }
    }

    #[test]
    fn a_fault_is_told_once_and_ends_the_writing() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = checkpoint(&folder.path().join("a"));
        assert_eq!(checkpoint.take_warning(), None);
        checkpoint.state().write(|_| Err(io::ErrorKind::StorageFull.into()));
        let warning = checkpoint.take_warning().unwrap();
        assert!(warning.contains("a: cannot be written: no storage space"), "{warning}");
        assert_eq!(checkpoint.take_warning(), None);
        let tape = checkpoint.tape(0, (0, 1), [0; HASH_BYTES]);
        assert!(!tape.play(1.0, &[1.0], &mut [0.0]).unwrap());
        tape.keep(&[1.0]);
        assert_eq!(checkpoint.held().evaluations, 0);
    }
}
