//! The arguments that keep what a generation has done, so that it can go on after it was killed.

use std::path::{Path, PathBuf};

use safelight::checkpoint::Held;
use safelight::{Checkpoint, Error, ErrorKind, Model, Request, Target};

use crate::destination::{Destination, slug};
use crate::tell;

#[derive(clap::Args)]
pub(crate) struct CheckpointArguments {
    /// Keep what is done in a file, and make sure of it every so many steps, so that a generation that is killed can go on
    #[arg(long, value_name = "STEPS", allow_negative_numbers = true, conflicts_with = "record_calibration")]
    checkpoint_every: Option<usize>,
    /// Go on from that file to the same picture, bit by bit; without one, begin
    #[arg(long, requires = "checkpoint_every")]
    resume: bool,
    /// The file [default: beside the pictures, PICTURE.checkpoint or PROMPT.checkpoint]; removed when all is done
    #[arg(long, value_name = "FILE", requires = "checkpoint_every")]
    checkpoint: Option<PathBuf>,
}

impl CheckpointArguments {
    pub(crate) fn is_asked(&self) -> bool {
        self.checkpoint_every.is_some()
    }

    /// The file, where one is asked for; `words` is the prompt, or the name of a file of prompts.
    pub(crate) fn path(&self, destination: &Destination, words: &str) -> Option<PathBuf> {
        self.checkpoint_every?;
        Some(self.checkpoint.clone().unwrap_or_else(|| beside(destination, words)))
    }

    /// The seed that a generation was begun with which goes on.
    pub(crate) fn seed(&self, path: Option<&Path>) -> safelight::Result<Option<u64>> {
        path.filter(|_| self.resume).map_or(Ok(None), Checkpoint::seed)
    }

    /// The checkpoint that these requests go on from, if any; where one is to be begun, checks that it can be.
    pub(crate) fn resume(
        &self,
        path: Option<&Path>,
        requests: &[Request],
        on: (&Model, &Target),
    ) -> safelight::Result<Option<Checkpoint>> {
        let (Some(path), Some(every)) = (path, self.checkpoint_every) else { return Ok(None) };
        let left = if self.resume { Checkpoint::resume(path, every, requests, on)? } else { None };
        if left.is_none() {
            Checkpoint::check_create(path, every)?;
        }
        Ok(left)
    }

    /// Begins a checkpoint, where one is asked for. Not before all is ready to run: nobody wants an empty one.
    pub(crate) fn create(
        &self,
        path: Option<&Path>,
        requests: &[Request],
        on: (&Model, &Target),
    ) -> safelight::Result<Option<Checkpoint>> {
        let (Some(path), Some(every)) = (path, self.checkpoint_every) else { return Ok(None) };
        Checkpoint::create(path, every, requests, on).map(Some)
    }

    /// Whether somebody who asked to go on should hear that there is nothing to go on from.
    pub(crate) fn tell_beginning(&self, path: Option<&Path>) {
        if let Some(path) = path.filter(|_| self.resume) {
            tell(&format!("nothing to resume: {} is not there; beginning", path.display()));
        }
    }
}

fn beside(destination: &Destination, words: &str) -> PathBuf {
    match destination {
        Destination::File(path, _) => {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(".checkpoint");
            path.with_file_name(name)
        }
        Destination::Folder(folder, _) => folder.join(format!("{}.checkpoint", slug(words))),
        Destination::Standard(_) => PathBuf::from(format!("{}.checkpoint", slug(words))),
    }
}

/// Pictures that are not as they were saved are made again, which is told.
pub(crate) fn check_saved(checkpoint: &Checkpoint, path: impl FnMut(usize, usize) -> Option<PathBuf>) {
    for gone in checkpoint.check_saved(path) {
        tell(&format!("warning: {} is not there as it was saved; it is made again", gone.display()));
    }
    let Held { torn_bytes, .. } = checkpoint.held();
    if torn_bytes > 0 {
        tell(&format!("warning: the last {torn_bytes} bytes of the checkpoint are not whole; they are made again"));
    }
}

/// Tells from where a generation goes on.
pub(crate) fn tell_resuming(checkpoint: &Checkpoint) {
    let Held { pictures, evaluations, .. } = checkpoint.held();
    let path = checkpoint.path();
    let there = format!("pictures saved: {pictures}; evaluations kept for what comes next: {evaluations}");
    tell(&format!("resuming from {}: {there}", path.display()));
}

/// After a generation has ended too early: says how it goes on.
pub(crate) fn leave(checkpoint: &Checkpoint, error: &anyhow::Error) {
    let Held { pictures, evaluations, .. } = checkpoint.held();
    if pictures + evaluations == 0 {
        return remove(checkpoint);
    }
    checkpoint.sync();
    let path = checkpoint.path();
    let path = path.display();
    let is_numeric = error.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::Numeric);
    tell(&match checkpoint.fault() {
        _ if is_numeric => format!("what is done is kept in {path}, and leads to the same; remove it to begin anew"),
        Some(fault) => format!("warning: checkpoint {path}: {fault}; what it holds can be gone on from with --resume"),
        None => format!("what is done is kept in {path}; the same command with --resume goes on"),
    });
}

/// All pictures are where they belong.
pub(crate) fn remove(checkpoint: &Checkpoint) {
    if let Err(error) = checkpoint.clone().remove() {
        tell(&format!("warning: {error}"));
    }
}
