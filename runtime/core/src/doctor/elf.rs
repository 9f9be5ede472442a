//! What a 64-bit little-endian ELF library asks of the system's loader (System V ABI, "Dynamic Linking"; symbol
//! versions as the Linux Standard Base describes them).

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

/// What a library needs before it can be loaded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// File names of other libraries.
    pub(super) libraries: Vec<String>,
    /// Folders of its own that they may be in; `$ORIGIN` is the library's.
    pub(super) folders: Vec<String>,
    /// Names of symbol versions, such as `GLIBC_2.28`.
    pub(super) versions: Vec<String>,
}

const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const NEEDED: u64 = 1;
const STRINGS: u64 = 5;
const RPATH: u64 = 15;
const RUNPATH: u64 = 29;
const VERSIONS_NEEDED: u64 = 0x6fff_fffe;

/// Longest name that is believed, and most entries of a list that are followed.
const MOST: usize = 1024;

/// Reads what a library needs; nothing where it cannot be read or is another kind of file.
pub(super) fn needs(path: &Path) -> Option<Needs> {
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))?;
    // SAFETY: the bytes are only read. Whoever truncates a library that is in use kills its users anyway.
    let bytes = unsafe { Mmap::map(&file) }.ok()?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Option<Needs> {
    bytes.starts_with(b"\x7fELF\x02\x01").then_some(())?;
    let (first, count) = (usize::try_from(u64_at(bytes, 32)?).ok()?, u16_at(bytes, 56)?);
    let segments: Vec<_> = bytes.get(first..)?.chunks_exact(56).take(count.into()).collect();
    let of_kind = |kind| segments.iter().copied().filter(move |segment| u32_at(segment, 0) == Some(kind));
    let dynamic = of_kind(DYNAMIC).next()?;
    let (start, length) = (usize::try_from(u64_at(dynamic, 8)?).ok()?, usize::try_from(u64_at(dynamic, 32)?).ok()?);
    let entries = bytes.get(start..start.checked_add(length)?)?.chunks_exact(16);
    let entries: Vec<_> = entries.filter_map(|entry| Some((u64_at(entry, 0)?, u64_at(entry, 8)?))).collect();
    // Entries tell addresses in memory; segments tell where in the file these are.
    let offset = |tag: u64| {
        let (_, address) = entries.iter().find(|(found, _)| *found == tag)?;
        let holds = |segment: &&[u8]| Some(address.checked_sub(u64_at(segment, 16)?)? < u64_at(segment, 32)?);
        let segment = of_kind(LOAD).find(|segment| holds(segment).unwrap_or(false))?;
        usize::try_from(address - u64_at(segment, 16)? + u64_at(segment, 8)?).ok()
    };
    let strings = bytes.get(offset(STRINGS)?..)?;
    let of_tag = |tag: u64| entries.iter().filter(move |(found, _)| *found == tag);
    let names = |tag: u64| of_tag(tag).filter_map(|(_, at)| string(strings, usize::try_from(*at).ok()?));
    let versions = offset(VERSIONS_NEEDED).and_then(|at| bytes.get(at..)).map(|list| versions(list, strings));
    Some(Needs {
        libraries: names(NEEDED).collect(),
        folders: names(RPATH).chain(names(RUNPATH)).flat_map(|list| split(&list)).collect(),
        versions: versions.unwrap_or_default(),
    })
}

fn split(list: &str) -> Vec<String> {
    list.split(':').filter(|folder| !folder.is_empty()).map(str::to_owned).collect()
}

/// Names in a chain of needed files, each with a chain of versions.
fn versions(list: &[u8], strings: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut file = Some(list);
    while let Some(entry) = file.filter(|_| found.len() < MOST) {
        let mut version = linked(entry, u32_at(entry, 8));
        while let Some(entry) = version.filter(|_| found.len() < MOST) {
            found.extend(u32_at(entry, 8).and_then(|at| string(strings, at as usize)));
            version = linked(entry, u32_at(entry, 12));
        }
        file = linked(entry, u32_at(entry, 12));
    }
    found
}

/// What comes some bytes after; 0 ends a chain.
fn linked(entry: &[u8], distance: Option<u32>) -> Option<&[u8]> {
    distance.filter(|distance| *distance != 0).and_then(|distance| entry.get(distance as usize..))
}

fn string(strings: &[u8], at: usize) -> Option<String> {
    let bytes = strings.get(at..)?;
    let end = bytes.iter().take(MOST).position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// This very test program is an ELF file that needs the C library.
    #[test]
    fn a_program_needs_the_c_library_in_some_version() {
        let needs = needs(&std::env::current_exe().unwrap()).unwrap();
        assert!(needs.libraries.iter().any(|name| name.starts_with("libc.so")), "{needs:?}");
        assert!(needs.versions.iter().any(|name| name.starts_with("GLIBC_2.")), "{needs:?}");
    }

    #[test]
    fn damaged_files_need_nothing_and_do_no_harm() {
        let whole = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(parse(b"not a library"), None);
        for length in [0, 6, 40, 63, 64, 100, 500, 1000, 5000] {
            let _ = parse(&whole[..length.min(whole.len())]);
        }
        // Wrong numbers wherever the header and its list of segments have one.
        let mut head = whole[..whole.len().min(1 << 20)].to_vec();
        for at in 16..1024 {
            let kept = std::mem::replace(&mut head[at], 0xff);
            let _ = parse(&head);
            head[at] = kept;
        }
    }
}
