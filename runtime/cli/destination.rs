//! Where pictures go: a file, a folder or standard output, and under which names.

use std::path::{Path, PathBuf};

use safelight::picture::save_durably;
use safelight::{Checkpoint, Error, ErrorKind, Format, Picture, picture};

use crate::{folders, print_picture};

/// Most characters of a prompt that become part of a file name.
const SLUG_CHARACTERS: usize = 60;

/// Most bytes of it: file systems take names of 255, and seed and extension need 26 of them.
const SLUG_BYTES: usize = 200;

/// Where pictures go.
pub(crate) enum Destination {
    Standard(Format),
    File(PathBuf, Format),
    Folder(PathBuf, Format),
}

/// Which of several pictures one is, where its seed does not tell.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Number of its prompt among those of a file.
    pub(crate) number: Option<usize>,
    /// Number of its frame in a walk.
    pub(crate) frame: Option<usize>,
}

impl Destination {
    /// Understands what was typed as the place, if anything, and as the format.
    pub(crate) fn new(out: Option<&str>, asked: Option<Format>) -> safelight::Result<Self> {
        let usage = |message: String| Err(Error::new(ErrorKind::Usage, message));
        let format = asked.unwrap_or(Format::Png);
        let Some(out) = out else { return Ok(Self::Folder(PathBuf::new(), format)) };
        if out == "-" {
            return Ok(Self::Standard(format));
        }
        let path = PathBuf::from(out);
        if out.ends_with(std::path::is_separator) || path.is_dir() {
            return Ok(Self::Folder(path, format));
        }
        let named = Format::of_path(&path);
        match (named, asked) {
            (Some(named), Some(asked)) if named != asked => {
                usage(format!("{out} is named as {}, but --format is {}", named.name(), asked.name()))
            }
            (None, None) => {
                usage(format!("{out}: its name says no format; end it with .png, .jpg or .webp, or give --format"))
            }
            (named, asked) => Ok(Self::File(path, asked.or(named).unwrap_or(format))),
        }
    }

    /// Finds out before anything is computed whether pictures can be written.
    pub(crate) fn prepare(&self) -> safelight::Result<()> {
        match self {
            Self::Standard(_) => Ok(()),
            Self::File(path, _) => picture::check_save(path),
            Self::Folder(folder, _) => prepare_folder(folder),
        }
    }

    /// Where one of `count` pictures of a prompt goes; none where that is standard output.
    pub(crate) fn path(&self, (prompt, count): (&str, usize), seed: u64, place: Place) -> Option<PathBuf> {
        // Frames between two seeds have the same seed; as numbers of four digits, a list of files has them in order.
        let which = match place.frame {
            Some(frame) => format!("walk-{frame:04}"),
            None => seed.to_string(),
        };
        Some(match self {
            Self::Standard(_) => return None,
            Self::Folder(folder, format) => {
                let extension = if *format == Format::Jpeg { "jpg" } else { format.name() };
                // Prompts of one file may be cut to the same name.
                let number = place.number.map(|number| format!("{number:04}-")).unwrap_or_default();
                let name = format!("{number}{}-{which}.{extension}", slug(prompt));
                folder.join(name)
            }
            Self::File(path, _) if count == 1 => path.clone(),
            Self::File(path, _) => {
                let extension =
                    path.extension().map(|extension| format!(".{}", extension.display())).unwrap_or_default();
                path.with_file_name(format!("{}-{which}{extension}", folders::stem(path)))
            }
        })
    }

    /// Writes one of `count` pictures of a prompt; returns its path, or none where it went to standard output. With a
    /// checkpoint it is on the disk before that forgets how it came about.
    pub(crate) fn write(
        &self,
        picture: &Picture,
        count: usize,
        place: Place,
        checkpoint: Option<&Checkpoint>,
    ) -> safelight::Result<Option<PathBuf>> {
        let (Self::Standard(format) | Self::File(_, format) | Self::Folder(_, format)) = self;
        let bytes = picture.encode(*format)?;
        let about = &picture.provenance;
        let Some(path) = self.path((&about.prompt, count), about.seed, place) else {
            print_picture(&bytes)?;
            return Ok(None);
        };
        match checkpoint {
            Some(checkpoint) => {
                save_durably(&path, &bytes)?;
                checkpoint.saved(&bytes);
            }
            None => safelight::save(&path, &bytes)?,
        }
        Ok(Some(path))
    }
}

/// Creates a folder where it is not there, and checks that files can be written in it.
pub(crate) fn prepare_folder(folder: &Path) -> safelight::Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|e| Error::new(ErrorKind::Io, format!("{}: cannot be created: {e}", folder.display())).because(e))?;
    picture::check_save(&folder.join("picture"))
}

/// A prompt as part of a file name: lower-case letters and digits, joined by single hyphens.
pub(crate) fn slug(prompt: &str) -> String {
    let lower = prompt.chars().flat_map(char::to_lowercase);
    let spaced: String = lower.map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
    let joined = spaced.split_whitespace().collect::<Vec<_>>().join("-");
    let cut: String = joined.chars().take(SLUG_CHARACTERS).collect();
    let cut = cut[..cut.floor_char_boundary(SLUG_BYTES)].trim_end_matches('-');
    if cut.is_empty() { "picture".into() } else { cut.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_safe_file_names() {
        assert_eq!(slug("A red  Apple!"), "a-red-apple");
        assert_eq!(slug("../../etc/passwd"), "etc-passwd");
        assert_eq!(slug(""), "picture");
        assert_eq!(slug("\u{1f600}\0\n"), "picture");
        assert!(slug(&"long ".repeat(100)).chars().count() <= SLUG_CHARACTERS);
        assert!(slug(&"\u{20000}".repeat(100)).len() <= SLUG_BYTES);
    }
}
