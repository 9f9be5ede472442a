//! How a pipeline is opened, by the names of the command line.

use std::ffi::c_char;
use std::path::{Path, PathBuf};

use safelight::cache::default_folder;
use safelight::target::Session;
use safelight::{Library, Precision, PromptCache, Result, Target};

use crate::SafelightError;
use crate::guard::fallible;
use crate::request::named_value;
use crate::text::{present, read, usage};

/// How a pipeline is opened. One thread may change it at a time; while none does, many may read it.
#[derive(Default)]
pub struct SafelightOptions {
    precision: Vec<Precision>,
    threads: Option<u16>,
    library: Option<PathBuf>,
    cache: Option<PathBuf>,
    cached_only: bool,
    probe_program: Option<PathBuf>,
    prompt_cache: Option<PathBuf>,
}

/// An option that text can set.
pub(crate) struct OptionRow {
    pub(crate) name: &'static str,
    pub(crate) value: &'static str,
    pub(crate) about: &'static str,
    set: fn(&mut SafelightOptions, &str) -> Result<()>,
}

/// Every option.
pub(crate) const OPTIONS: &[OptionRow] = &[
    OptionRow {
        name: "precision",
        value: "LIST",
        about: "precisions, best first, instead of the target's",
        set: |options, text| {
            options.precision = text.split(',').map(|name| name.trim().parse()).collect::<Result<_>>()?;
            Ok(())
        },
    },
    OptionRow {
        name: "threads",
        value: "N",
        about: "threads inside a graph's nodes, instead of the target's; 0 is one a core",
        set: |options, text| {
            let threads = text.parse().ok().filter(|&threads| threads <= Session::MAX_THREADS);
            let told = || usage(format!("expected a whole number from 0 to {}", Session::MAX_THREADS));
            options.threads = Some(threads.ok_or_else(told)?);
            Ok(())
        },
    },
    OptionRow {
        name: "library",
        value: "PATH",
        about: "ONNX Runtime library to open, or a folder that holds it; a process has one",
        set: |options, text| path(&mut options.library, text),
    },
    OptionRow {
        name: "cache",
        value: "FOLDER",
        about: "keeps what providers make of graphs in this folder, instead of where the target's cache is, if it has one",
        set: |options, text| path(&mut options.cache, text),
    },
    OptionRow {
        name: "cached-only",
        value: "true|false",
        about: "builds nothing: an error where the cache lacks what safelight warm would have built",
        set: |options, text| {
            options.cached_only = text.parse().map_err(|_| usage("expected true or false"))?;
            Ok(())
        },
    },
    OptionRow {
        name: "probe-program",
        value: "PATH",
        about: "the executable safelight, which then tries graphs that were never opened here in a process of its own first; \
                without it none is started, and graphs are opened untried",
        set: |options, text| path(&mut options.probe_program, text),
    },
    OptionRow {
        name: "prompt-cache",
        value: "FOLDER",
        about: "keeps what the text encoder makes of prompts in this folder; with every prompt there, the encoder may be \
                missing",
        set: |options, text| path(&mut options.prompt_cache, text),
    },
];

fn path(field: &mut Option<PathBuf>, text: &str) -> Result<()> {
    if text.is_empty() {
        return Err(usage("expected a path"));
    }
    let told = |e| usage(format!("{text} cannot be made absolute: {e}"));
    *field = Some(std::path::absolute(text).map_err(told)?);
    Ok(())
}

/// Options that all have their defaults: what the target says, the first ONNX Runtime that is found, no processes; never
/// NULL.
#[unsafe(no_mangle)]
pub extern "C" fn safelight_options_new() -> Box<SafelightOptions> {
    Box::default()
}

/// Sets an option to a value, in the place of what it was; docs/embedding-c.md lists them. Both texts are copied. After an
/// error the options are what they were.
///
/// Errors: `SAFELIGHT_USAGE` for a name that is no option's, with the names that are, and for a text that is no value of
/// it.
///
/// # Safety
/// `name` and `value` are NUL-terminated or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safelight_options_set(
    options: Option<&mut SafelightOptions>,
    name: *const c_char,
    value: *const c_char,
) -> Option<Box<SafelightError>> {
    fallible(|| {
        let options = present(options, "options")?;
        // SAFETY: as this function demands.
        let (name, value) = unsafe { (read(name, "name")?, named_value(name, value)?) };
        let row = OPTIONS.iter().find(|row| row.name == name);
        let known = || safelight::error::unknown("option", name, OPTIONS.iter().map(|row| row.name));
        let OptionRow { name, value: placeholder, about, set } = row.ok_or_else(|| usage(known()))?;
        set(options, value).map_err(|e| e.context(format_args!("{name} {placeholder} ({about})")))
    })
}

/// Gives options back; nothing happens for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn safelight_options_free(options: Option<Box<SafelightOptions>>) {
    drop(options);
}

impl SafelightOptions {
    /// Opens the library that was named; without one the first use finds one.
    pub(crate) fn open_library(&self) -> Result<()> {
        self.library.as_deref().map_or(Ok(()), |path| Library::open(Some(path)).map(drop))
    }

    pub(crate) fn open_prompt_cache(&self) -> Result<Option<PromptCache>> {
        self.prompt_cache.as_deref().map(PromptCache::open).transpose()
    }

    /// The target of a file, with what the options say instead.
    pub(crate) fn target(&self, file: &Path) -> Result<Target> {
        let mut target = self.cached(Target::open(file)?)?;
        if !self.precision.is_empty() {
            target = target.with_precision(self.precision.clone());
        }
        if let Some(threads) = self.threads {
            target = target.with_threads(threads);
        }
        if let Some(program) = &self.probe_program {
            let cache = target.cache.as_ref().and_then(|caching| caching.folder.clone());
            target = target.with_probe(program, cache.or_else(usual_folder).as_deref());
        }
        Ok(target)
    }

    /// The same target, whose cache, where it is to have one, has a folder.
    fn cached(&self, target: Target) -> Result<Target> {
        let is_open = target.cache.as_ref().is_some_and(|caching| caching.folder.is_none());
        let told =
            || usage("the target asks for a cache, and neither SAFELIGHT_CACHE nor HOME is set; set option cache");
        let folder = match &self.cache {
            None if is_open => Some(usual_folder().ok_or_else(told)?),
            given => given.clone(),
        };
        let target = folder.map_or_else(|| Ok(target.clone()), |folder| target.clone().with_cache(&folder))?;
        if self.cached_only { target.with_cached_only() } else { Ok(target) }
    }
}

fn usual_folder() -> Option<PathBuf> {
    default_folder(&|name| std::env::var_os(name))
}

#[cfg(test)]
mod tests {
    use safelight::request::FIELDS;

    use super::*;

    /// The manual with the table that follows `<!-- name -->` in the place of the one that is there.
    fn with_table(manual: &str, name: &str, rows: impl Iterator<Item = [&'static str; 3]>) -> String {
        let (before, rest) = manual.split_once(&format!("<!-- {name} -->\n")).unwrap();
        let after = rest.split_inclusive('\n').skip_while(|line| line.starts_with('|')).collect::<String>();
        let code = |text: &str| format!("`{}`", text.replace('|', "\\|"));
        let rows = rows.map(|[name, value, about]| format!("| {} | {} | {about} |\n", code(name), code(value)));
        let head = "| name | value | what it says |\n|---|---|---|\n";
        format!("{before}<!-- {name} -->\n{head}{}{after}", rows.collect::<String>())
    }

    #[test]
    fn the_manual_lists_every_name() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/embedding-c.md");
        let committed = std::fs::read_to_string(&path).unwrap();
        let fields = FIELDS.iter().map(|field| [field.name, field.value, field.about]);
        let options = OPTIONS.iter().map(|row| [row.name, row.value, row.about]);
        let expected = with_table(&with_table(&committed, "fields", fields), "options", options);
        if std::env::var_os("SAFELIGHT_UPDATE").is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(
            written == expected,
            "docs/embedding-c.md is not what the tables say: SAFELIGHT_UPDATE=1 cargo test -p safelight-capi"
        );
    }
}
