//! The one error of the library: what was attempted, on what, what was found, what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A `Result` whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault it is; the command line turns each kind into its own exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request or the target file asks for something that does not exist or cannot be.
    Usage,
    /// The model folder, its manifest or one of its graphs is not what it should be.
    Model,
    /// ONNX Runtime or an execution provider cannot be used.
    Library,
    /// The request is understood, but exceeds a limit of the target or of the library.
    Limit,
    /// A graph produced NaN, a constant latent or an all-black picture.
    Numeric,
    /// A file could not be read or written.
    Io,
    /// The caller cancelled.
    Cancelled,
    /// A mistake of safelight itself.
    Internal,
}

/// An error with a [kind](Error::kind) and a message that says what to do next.
///
/// ```
/// use safelight::{ErrorKind, Target};
///
/// let error = Target::open("no-such.yaml".as_ref()).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Usage);
/// assert!(error.to_string().contains("no-such.yaml"));
/// // A `main` that returns it says the same, and the kind.
/// assert_eq!(format!("{error:?}"), format!("{error} (Usage)"));
/// ```
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` is lower case, without a final period.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same error with its cause, reachable through [`std::error::Error::source`].
    pub fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// The same error, told from further out: `context: message`.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    pub(crate) fn model(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Model, message)
    }

    pub(crate) fn library(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Library, message)
    }

    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// That the system starts no more threads for this process, or for its user.
    pub(crate) fn no_thread(reason: impl fmt::Display) -> Self {
        Self::limit(format!(
            "{NO_THREAD}: {reason}; raise the limit of processes (ulimit -u, TasksMax= of systemd, pids of a \
             container), or give --threads 1"
        ))
    }

    /// Whether it is one of [`no_thread`](Self::no_thread).
    pub(crate) fn is_of_threads(&self) -> bool {
        self.message.contains(NO_THREAD)
    }

    pub(crate) fn numeric(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Numeric, message)
    }

    pub(crate) fn io(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Io, message)
    }
}

const NO_THREAD: &str = "a thread cannot be started";

/// What to say of a name that is not in a table: the names that are, and which of them was most likely meant.
pub fn unknown(what: &str, name: &str, known: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let known: Vec<_> = known.into_iter().map(|name| name.to_string()).collect();
    let meant = did_you_mean(name, known.iter().map(String::as_str));
    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
    format!("unknown {what} \"{}\"; known: {known}{meant}", clipped(name))
}

/// As much of a text as a message should repeat: it may come from a stranger.
pub(crate) fn clipped(text: &str) -> String {
    const MOST: usize = 80;
    let mut start: String = text.chars().take(MOST).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

/// `; did you mean "NAME"` for the known name that is nearest to a mistyped one; nothing where none is near.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map_or_else(String::new, |meant| format!("; did you mean \"{meant}\""))
}

/// Longest name that is compared: it may come from a stranger, and the time grows with its length.
const MAX_COMPARED: usize = 128;

/// The known name that is nearest to a mistyped one, of which a third may be wrong.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = |name: &str| name.to_lowercase().chars().take(MAX_COMPARED + 1).collect::<Vec<_>>();
    let name = letters(name);
    if name.len() > MAX_COMPARED {
        return None;
    }
    let most = (name.len() / 3).max(1);
    let with_distance = known.into_iter().map(|known| (typing_distance(&name, &letters(known)), known));
    with_distance
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// How many letters must be added, removed, replaced or swapped with their neighbour: the optimal string alignment
/// distance (Damerau 1964, each piece of text edited once).
fn typing_distance(a: &[char], b: &[char]) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<_> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// The message and its kind: what a `main` that returns the error prints is to be read by people, too.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.message, self.kind)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_typing_mistakes() {
        let distance =
            |a: &str, b: &str| typing_distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("cuda", "cuda", 0),
            ("cdua", "cuda", 1),
            ("spining", "spinning", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected), "{a} {b}");
        }
    }

    #[test]
    fn only_a_near_name_is_offered() {
        let known = ["tensorrt", "cuda", "coreml", "cpu"];
        for (name, expected) in [
            ("cdua", Some("cuda")),
            ("TensorRT", Some("tensorrt")),
            ("tensort", Some("tensorrt")),
            ("warp", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), known), None);
        assert_eq!(
            unknown("provider", "cdua", known),
            "unknown provider \"cdua\"; known: tensorrt, cuda, coreml, cpu; did you mean \"cuda\""
        );
    }
}
