//! What a generation tells its caller while it works.

use std::ffi::{CString, c_char, c_int, c_void};
use std::mem::size_of;

use safelight::{Cancel, Event, Result};

use crate::SafelightCancel;
use crate::output::SafelightPicture;
use crate::text::{check_size, owned};

/// How far a generation is. The library makes it; later versions may add fields at its end.
#[repr(C)]
pub struct SafelightProgress {
    /// Index of the picture, or of the first of those that go through the graphs together.
    pub picture: usize,
    /// Pictures of this request.
    pub pictures: usize,
    /// Steps that are done of this picture; 0 where a picture has just been decoded, whose index is `picture`.
    pub step: usize,
    /// Steps that it takes; 0 where a tolerance decides.
    pub steps: usize,
    /// The timestep that the step began at.
    pub timestep: f64,
}

/// Who is told what, and what stops it. Callbacks run on the thread that generates. They must return: no `longjmp`, no
/// exception. They may use everything but the pipeline that calls them, which is busy. Any of them may be NULL.
#[repr(C)]
pub struct SafelightWatch {
    /// `sizeof(SafelightWatch)`.
    pub size: usize,
    /// Given to every callback as it is.
    pub user: *mut c_void,
    /// Stops the generation from another thread; may be NULL.
    pub cancel: *const SafelightCancel,
    /// Told after each step and each decoded picture; anything but 0 cancels, as `safelight_cancel` does.
    pub progress: Option<unsafe extern "C" fn(user: *mut c_void, progress: *const SafelightProgress) -> c_int>,
    /// Told what a picture would be if this step were the last, as the field `preview-every` asks: the estimate, decoded.
    /// The picture has no provenance, and is gone when the callback returns. Where the decoder makes nothing of an estimate
    /// yet there is none. Anything but 0 cancels.
    pub preview: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            progress: *const SafelightProgress,
            picture: *const SafelightPicture,
        ) -> c_int,
    >,
    /// Told what the caller should know and what stops nothing; the report has it, too. The text is gone when the callback
    /// returns.
    pub warning: Option<unsafe extern "C" fn(user: *mut c_void, warning: *const c_char)>,
}

/// A watch while its generation runs.
pub(crate) struct Watcher {
    watch: Option<SafelightWatch>,
    cancel: Cancel,
    pictures: usize,
    steps: usize,
    timestep: f64,
}

// SAFETY: the pointers are used on the thread that generates alone, during the call that was given them.
unsafe impl Send for Watcher {}

impl Watcher {
    /// # Safety
    /// `watch` is null, or points to as many bytes as its `size` says, whose pointers are null or valid until the
    /// generation has ended.
    pub(crate) unsafe fn new(watch: *const SafelightWatch, pictures: usize) -> Result<Self> {
        let nobody = Self { watch: None, cancel: Cancel::new(), pictures, steps: 0, timestep: 0.0 };
        if watch.is_null() {
            return Ok(nobody);
        }
        // SAFETY: its first field is there, whatever it says.
        check_size(unsafe { (*watch).size }, size_of::<SafelightWatch>(), "SafelightWatch")?;
        // SAFETY: it is of this version's size; it has no destructor.
        let watch = unsafe { watch.read() };
        // SAFETY: null, or a handle that the caller has.
        let cancel = unsafe { watch.cancel.as_ref() }.map(|handle| handle.0.clone());
        Ok(Self { watch: Some(watch), cancel: cancel.unwrap_or_default(), ..nobody })
    }

    /// What stops the generation.
    pub(crate) fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Tells the caller.
    pub(crate) fn hear(&mut self, event: &Event) {
        match *event {
            Event::Warning(warning) => self.warn(warning),
            Event::Step { first, step, steps, timestep, .. } => {
                (self.steps, self.timestep) = (steps.unwrap_or(0), timestep);
                self.progress(first, step + 1);
            }
            Event::Preview { index, step, pixels } => {
                let picture = SafelightPicture::preview(pixels);
                let progress = self.progress_at(index, step + 1);
                let Some((user, tell)) = self.watch.as_ref().and_then(|watch| Some((watch.user, watch.preview?)))
                else {
                    return;
                };
                // SAFETY: both live until the callback returns; the rest is the caller's.
                self.obey(unsafe { tell(user, &raw const progress, &raw const picture) });
            }
            Event::Decoded { index, .. } => self.progress(index, 0),
            _ => (),
        }
    }

    fn progress(&self, picture: usize, step: usize) {
        let progress = self.progress_at(picture, step);
        let Some((user, tell)) = self.watch.as_ref().and_then(|watch| Some((watch.user, watch.progress?))) else {
            return;
        };
        // SAFETY: it lives until the callback returns; the rest is the caller's.
        self.obey(unsafe { tell(user, &raw const progress) });
    }

    fn progress_at(&self, picture: usize, step: usize) -> SafelightProgress {
        SafelightProgress { picture, pictures: self.pictures, step, steps: self.steps, timestep: self.timestep }
    }

    fn warn(&self, warning: &str) {
        let Some((user, tell)) = self.watch.as_ref().and_then(|watch| Some((watch.user, watch.warning?))) else {
            return;
        };
        let warning: CString = owned(warning.to_owned());
        // SAFETY: it lives until the callback returns; the rest is the caller's.
        unsafe { tell(user, warning.as_ptr()) };
    }

    fn obey(&self, answer: c_int) {
        if answer != 0 {
            self.cancel.cancel();
        }
    }
}
