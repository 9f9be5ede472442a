//! The one error of the library: what was attempted, on what, what was found, what to do.

use std::fmt;

/// A `Result` whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault it is; the command line turns each kind into its own exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
#[derive(Debug)]
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

    pub(crate) fn numeric(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Numeric, message)
    }

    pub(crate) fn io(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Io, message)
    }
}

/// What to say of a name that is not in a table: the names that are.
pub(crate) fn unknown(what: &str, name: &str, known: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let known: Vec<_> = known.into_iter().map(|name| name.to_string()).collect();
    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
    format!("unknown {what} \"{name}\"; known: {known}")
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
