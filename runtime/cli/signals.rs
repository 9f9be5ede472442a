//! What the system and its users tell a process: to stop, that a file has grown too large, that a mapped file is gone.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use safelight::{Cancel, Error, ErrorKind, remove_unfinished};

use crate::tell;

/// How long what was cancelled may take to stop: the node of a graph that runs now, or a graph that is being opened,
/// which ONNX Runtime does not break off.
const GRACE: Duration = Duration::from_secs(2);

/// Exit code of [`ErrorKind::Cancelled`].
const CANCELLED: i32 = 8;

/// What a signal cancels, once there is something.
static CANCEL: OnceLock<Cancel> = OnceLock::new();

/// Whether a signal has cancelled it.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Ctrl-C, SIGTERM and SIGHUP end this process from now on: at once where nothing can be cancelled, else by cancelling, and
/// where that takes longer than [`GRACE`] or a second signal comes, at once. Whichever of them was ignored when the process
/// began, as `nohup` does, stays ignored.
///
/// # Errors
/// [`ErrorKind::Limit`] where no thread can be started for it.
pub(crate) fn end_on_signals() -> safelight::Result<()> {
    mapped::tell_what_is_cut_short();
    let ignored = system::ignored();
    // It waits from now on: while a library is being opened, which may be what does not end, a new thread could not begin.
    let timer = std::thread::Builder::new().spawn(|| {
        while !ASKED.load(Ordering::SeqCst) {
            std::thread::park();
        }
        std::thread::sleep(GRACE);
        end_now();
    });
    let timer = timer.map_err(|e| unable(&e))?;
    let handler = move || match CANCEL.get().filter(|_| !ASKED.swap(true, Ordering::SeqCst)) {
        Some(cancel) => {
            timer.thread().unpark();
            cancel.cancel();
        }
        None => end_now(),
    };
    ctrlc::set_handler(handler).map_err(|e| unable(&e))?;
    system::ignore(&ignored);
    Ok(())
}

fn unable(reason: &dyn std::fmt::Display) -> Error {
    let what = format!("signals cannot be waited for: {reason}; raise the limit of processes and of open files");
    Error::new(ErrorKind::Limit, what)
}

/// What signals cancel; the first that is told.
pub(crate) fn cancel_on_signals(cancel: &Cancel) {
    let _ = CANCEL.set(cancel.clone());
}

/// Ends the process without what usually comes at the end of one: destructors of ONNX Runtime would meet its own threads.
fn end_now() {
    remove_unfinished();
    tell("error: cancelled");
    system::exit(CANCELLED);
}

/// Writes fail where a file would grow beyond the process's limit, instead of ending the process.
pub(crate) fn survive_large_files() {
    system::survive_large_files();
}

#[cfg(unix)]
mod system {
    use std::ffi::c_int;
    use std::mem::MaybeUninit;
    use std::ptr;

    /// Those that end a process when its user says so.
    const ENDING: [c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

    /// Those of them that are ignored now.
    pub(super) fn ignored() -> Vec<c_int> {
        let is_ignored = |&signal: &c_int| {
            let mut now = MaybeUninit::<libc::sigaction>::uninit();
            // SAFETY: without a new action nothing changes, and the present one is written to `now` where that succeeds.
            let told = unsafe { libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) };
            // SAFETY: it has succeeded.
            told == 0 && unsafe { now.assume_init() }.sa_sigaction == libc::SIG_IGN
        };
        ENDING.into_iter().filter(is_ignored).collect()
    }

    pub(super) fn ignore(signals: &[c_int]) {
        for &signal in signals {
            // SAFETY: to be ignored is an action of every signal in `ENDING`, and of SIGXFSZ.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
    }

    pub(super) fn survive_large_files() {
        ignore(&[libc::SIGXFSZ]);
    }

    pub(super) fn exit(code: c_int) -> ! {
        // SAFETY: it may be called at any time.
        unsafe { libc::_exit(code) }
    }
}

/// Elsewhere the bus error may be a stack's end, which the system tells.
#[cfg(target_os = "linux")]
mod mapped {
    use std::ffi::{c_int, c_void};
    use std::mem::MaybeUninit;
    use std::ptr;

    /// A file that is cut short while it is mapped ends the process with words of its own.
    pub(super) fn tell_what_is_cut_short() {
        // SAFETY: all zeros is an action whose fields are set or may be zero; the handler calls only what may be called
        // from one (`write`, `_exit` and `raise`).
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = cut_short;
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut());
        }
    }

    /// What is beyond the end of a file, or cannot be read from the disk; the bus error of a program's own mistake is left
    /// to the system, which sends it again.
    const NO_SUCH_ADDRESS: c_int = 2;

    const TOLD: &str = "error: a file that is mapped was cut short, or its disk cannot be read (SIGBUS): a model or a cache \
                        was written to in place; replace models as whole folders, or files by renaming\n";

    extern "C" fn cut_short(signal: c_int, about: *mut libc::siginfo_t, _: *mut c_void) {
        // SAFETY: the system gives what the signal is about; the functions may be called from a handler.
        unsafe {
            if (*about).si_code == NO_SUCH_ADDRESS {
                libc::write(2, TOLD.as_ptr().cast(), TOLD.len());
                libc::_exit(7);
            }
            // The handler serves once: this time the system ends the process.
            libc::raise(signal);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod mapped {
    pub(super) fn tell_what_is_cut_short() {}
}

#[cfg(not(unix))]
mod system {
    pub(super) fn ignored() -> Vec<i32> {
        Vec::new()
    }

    pub(super) fn ignore(_: &[i32]) {}

    pub(super) fn survive_large_files() {}

    pub(super) fn exit(code: i32) -> ! {
        std::process::exit(code)
    }
}
