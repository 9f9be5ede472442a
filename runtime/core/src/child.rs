//! A process of the same executable that is told what to do, and tells what it did, in lines of JSON.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::Result;
use crate::cancel::Cancel;
use crate::error::Error;

/// How often it is looked whether the caller has cancelled.
pub(crate) const PATIENCE: Duration = Duration::from_millis(25);

/// A process that does not outlive this.
pub(crate) struct Child(process::Child, Option<Input>);

/// What a process reads. A socket, because writing into a pipe whose reader has died ends a program that has left SIGPIPE
/// as it was, and this may be part of any program; the standard library's sockets raise no signal.
#[cfg(unix)]
pub(crate) type Input = std::os::unix::net::UnixStream;

/// What a process reads.
#[cfg(not(unix))]
pub(crate) type Input = process::ChildStdin;

impl Child {
    /// Starts it; this has the other ends of all that it reads and writes.
    pub(crate) fn start(mut command: Command) -> std::io::Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        {
            let (ours, theirs) = Input::pair()?;
            // A group of its own: what is typed to interrupt this process is this process's to pass on.
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            command.stdin(std::os::fd::OwnedFd::from(theirs)).spawn().map(|child| Self(child, Some(ours)))
        }
        #[cfg(not(unix))]
        {
            let mut child = command.stdin(Stdio::piped()).spawn()?;
            let input = child.stdin.take();
            Ok(Self(child, input))
        }
    }

    /// Its number in the system.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// What it reads; once.
    pub(crate) fn input(&mut self) -> Option<Input> {
        self.1.take()
    }

    /// What it tells, as it comes; what the library or a driver may print between is passed over. Once.
    pub(crate) fn lines<T: DeserializeOwned + Send + 'static>(&mut self) -> Result<Receiver<T>> {
        lines(self.0.stdout.take())
    }

    /// The last line that it complains in, once it has ended, as the end of a message. Once.
    pub(crate) fn last_words(&mut self) -> Result<Option<JoinHandle<String>>> {
        self.0.stderr.take().map(last_words).transpose()
    }

    /// How it ended; nothing where it has not until the deadline.
    pub(crate) fn wait(&mut self, deadline: Instant, cancel: &Cancel) -> Result<Option<ExitStatus>> {
        loop {
            cancel.check()?;
            match self.0.try_wait() {
                Ok(Some(status)) => return Ok(Some(status)),
                Ok(None) if Instant::now() >= deadline => return Ok(None),
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Err(e) => return Err(Error::io(format!("the process cannot be waited for: {e}"))),
            }
        }
    }
}

impl Drop for Child {
    /// Ends it and whatever it has started, and takes it out of the system's table.
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        #[cfg(unix)]
        if let Some(group) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Longest line that is understood, in bytes; a longer one is no line of ours.
const MAX_LINE: u64 = 64 << 10;

fn lines<T: DeserializeOwned + Send + 'static>(pipe: Option<impl Read + Send + 'static>) -> Result<Receiver<T>> {
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::Builder::new().spawn(move || {
        let (Some(pipe), mut text) = (pipe, Vec::new()) else { return };
        let mut pipe = BufReader::new(pipe);
        while pipe.by_ref().take(MAX_LINE).read_until(b'\n', &mut text).is_ok_and(|bytes| bytes > 0) {
            if serde_json::from_slice(&text).is_ok_and(|line| sender.send(line).is_err()) {
                return;
            }
            text.clear();
        }
    });
    reader.map(|_| lines).map_err(Error::no_thread)
}

/// Most bytes of its complaints that are kept.
const MAX_WORDS: usize = 4 << 10;

/// Most characters of its last words that are quoted.
const MAX_QUOTED: usize = 200;

/// The last line that it complains in, as the end of a message; nothing where it died in silence. Everything is read, so
/// that it never waits for a reader.
fn last_words(mut pipe: impl Read + Send + 'static) -> Result<JoinHandle<String>> {
    let reader = std::thread::Builder::new().spawn(move || {
        let (mut kept, mut chunk) = (Vec::new(), [0; MAX_WORDS]);
        while let Ok(bytes @ 1..) = pipe.read(&mut chunk) {
            kept.extend_from_slice(&chunk[..bytes]);
            kept.drain(..kept.len().saturating_sub(MAX_WORDS));
        }
        let text = String::from_utf8_lossy(&kept);
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let words: String = last.chars().take(MAX_QUOTED).map(plain).collect();
        if words.is_empty() { words } else { format!("; its last words: {words}") }
    });
    reader.map_err(Error::no_thread)
}

/// What to do where a process cannot be started; nothing where the reason tells.
pub(crate) fn advice(error: &std::io::Error) -> Option<&'static str> {
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        match Errno::from_io_error(error)? {
            Errno::MFILE | Errno::NFILE => {
                Some("raise the limit of open files (ulimit -n, LimitNOFILE= of systemd) to 64")
            }
            Errno::AGAIN => Some("raise the limit of processes (ulimit -u, TasksMax= of systemd, pids of a container)"),
            Errno::NOMEM => Some("there is too little memory for a second process"),
            _ => None,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = error;
        None
    }
}

/// A signal by its name, or an exit code.
pub(crate) fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let known = SIGNALS.iter().find(|(number, _)| *number == signal);
        return known.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned());
    }
    match status.code() {
        // What Windows calls exceptions are large.
        Some(code) if !(0..=255).contains(&code) => format!("exit code {:#x}", code.cast_unsigned()),
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    }
}

/// Signals that end a process by its own fault, or by the system's hand.
#[cfg(unix)]
const SIGNALS: [(i32, &str); 8] = {
    use rustix::process::Signal as S;
    [
        (S::SEGV.as_raw(), "SIGSEGV"),
        (S::ABORT.as_raw(), "SIGABRT"),
        (S::FPE.as_raw(), "SIGFPE"),
        (S::BUS.as_raw(), "SIGBUS"),
        (S::ILL.as_raw(), "SIGILL"),
        (S::KILL.as_raw(), "SIGKILL"),
        (S::XCPU.as_raw(), "SIGXCPU"),
        (S::TRAP.as_raw(), "SIGTRAP"),
    ]
};
