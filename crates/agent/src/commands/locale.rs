//! The locales that the machine's C library knows.

use std::{fs::File, io, os::unix::fs::FileExt};

use crate::machine::GuestRoot;

/// The locale without a language whose characters are UTF-8.
pub(super) const UTF_8: &str = "C.UTF-8";

/// Directory of glibc's locales.
const LOCALES: &str = "/usr/lib/locale";

/// Locales of a machine.
#[derive(Debug)]
pub(super) struct Locales<'a> {
    root: &'a GuestRoot,
    /// Whether programs accept any name: musl does, and so do static programs, which have no
    /// locales.
    accepts_all: bool,
}

impl Locales<'_> {
    /// Looks at the machine's C library.
    pub(super) fn new(root: &GuestRoot) -> Locales<'_> {
        let libraries = root.entries("/lib").unwrap_or_default();
        let has_musl = libraries.iter().any(|name| name.starts_with("ld-musl-"));
        Locales {
            root,
            accepts_all: has_musl || !root.exists(LOCALES),
        }
    }

    /// Returns whether programs of the machine can use the locale.
    pub(super) fn knows(&self, locale: &str) -> bool {
        if locale.is_empty() || locale.contains('/') {
            return false;
        }
        if self.accepts_all || ["C", "POSIX"].contains(&locale) {
            return true;
        }
        let names = file_names(locale);
        let is_directory = |name: &String| self.root.exists(&format!("{LOCALES}/{name}/LC_CTYPE"));
        names.iter().any(is_directory) || self.is_archived(&names)
    }

    fn is_archived(&self, names: &[String]) -> bool {
        let archive = self.root.open_file(&format!("{LOCALES}/locale-archive"));
        let archived = archive.and_then(|archive| archived_locales(&archive));
        archived.is_ok_and(|archived| names.iter().any(|name| archived.contains(name)))
    }
}

/// Returns the names under which glibc stores the locale: as it is, and with the encoding in lower
/// case without punctuation (`_nl_normalize_codeset`).
fn file_names(locale: &str) -> Vec<String> {
    let (name, modifier) = match locale.find('@') {
        Some(at) => locale.split_at(at),
        None => (locale, ""),
    };
    let mut names = vec![locale.to_owned()];
    if let Some((language, encoding)) = name.split_once('.') {
        let letters = encoding.chars().filter(char::is_ascii_alphanumeric);
        let letters: String = letters.collect::<String>().to_ascii_lowercase();
        let is_number = letters.chars().all(|letter| letter.is_ascii_digit());
        let prefix = if is_number { "iso" } else { "" };
        names.push(format!("{language}.{prefix}{letters}{modifier}"));
    }
    names
}

/// `locarhead.magic` of glibc's locale archive (locale/locarchive.h).
const MAGIC: u32 = 0xde02_0109;

/// Offsets of the fields of `locarhead` in bytes.
const NAMEHASH_OFFSET: usize = 8;
const NAMEHASH_SIZE: usize = 16;
const STRING_OFFSET: usize = 20;
const STRING_USED: usize = 24;
const HEADER: usize = 32;

/// Size of a `namehashent`: hash value, offset of the name, offset of the locale (0 if there is
/// none).
const NAMEHASHENT: usize = 12;

/// Maximum size of the table of names and of the names in bytes. All of glibc's locales need 30
/// KiB.
const MAX_TABLE: u32 = 1 << 20;

/// Returns the names of the locales in an archive.
fn archived_locales(archive: &File) -> io::Result<Vec<String>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let header = read(archive, 0, HEADER as u32)?;
    let field = |offset| number(&header, offset).ok_or_else(invalid);
    if field(0)? != MAGIC {
        return Err(invalid());
    }
    let table_size = field(NAMEHASH_SIZE)?.checked_mul(NAMEHASHENT as u32);
    let table = read(
        archive,
        field(NAMEHASH_OFFSET)?,
        table_size.ok_or_else(invalid)?,
    )?;
    let first_string = field(STRING_OFFSET)?;
    let strings = read(archive, first_string, field(STRING_USED)?)?;
    let names = table.chunks_exact(NAMEHASHENT).filter_map(|entry| {
        let (name, locale) = (number(entry, 4)?, number(entry, 8)?);
        let start = name.checked_sub(first_string)? as usize;
        let name = strings.get(start..)?.split(|byte| *byte == 0).next()?;
        (locale != 0).then(|| String::from_utf8_lossy(name).into_owned())
    });
    Ok(names.collect())
}

fn read(archive: &File, offset: u32, length: u32) -> io::Result<Vec<u8>> {
    if length > MAX_TABLE {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut bytes = vec![0; length as usize];
    archive.read_exact_at(&mut bytes, offset.into())?;
    Ok(bytes)
}

/// Returns the number at this offset. An archive has the byte order of the machine.
fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    /// Returns an archive as localedef writes it, with these names and whether each has a locale.
    fn archive(names: &[(&str, bool)]) -> Vec<u8> {
        let table = HEADER as u32 + 24;
        let first_string = table + names.len() as u32 * NAMEHASHENT as u32;
        let (mut entries, mut strings) = (Vec::new(), Vec::new());
        for (name, exists) in names {
            let name_offset = first_string + strings.len() as u32;
            entries.extend([7, name_offset, u32::from(*exists)].map(u32::to_ne_bytes));
            strings.extend(name.bytes().chain([0]));
        }
        let (used, size) = (names.len() as u32, strings.len() as u32);
        let mut header = vec![MAGIC, 0, table, used, used, first_string, size, size];
        header.resize(14, 0);
        let mut bytes = header
            .into_iter()
            .map(u32::to_ne_bytes)
            .collect::<Vec<_>>()
            .concat();
        bytes.extend(entries.concat());
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn locales_of_directories_and_of_the_archive_are_known() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        assert!(Locales::new(&root).knows("xx_YY"), "there is no glibc");
        let locales = directory.path().join("usr/lib/locale");
        fs::create_dir_all(locales.join("C.utf8")).unwrap();
        fs::write(locales.join("C.utf8/LC_CTYPE"), "").unwrap();
        let names = [
            ("de_DE.utf8", true),
            ("de_DE.iso885915@euro", true),
            ("gone.utf8", false),
        ];
        fs::write(locales.join("locale-archive"), archive(&names)).unwrap();
        let known = Locales::new(&root);
        for locale in [
            "C",
            "POSIX",
            "C.UTF-8",
            "de_DE.UTF-8",
            "de_DE.utf8",
            "de_DE.ISO-8859-15@euro",
        ] {
            assert!(known.knows(locale), "{locale}");
        }
        for locale in [
            "",
            "fr_FR.UTF-8",
            "de_DE",
            "gone.UTF-8",
            "../C.utf8",
            "/usr",
        ] {
            assert!(!known.knows(locale), "{locale}");
        }
        fs::create_dir(directory.path().join("lib")).unwrap();
        fs::write(directory.path().join("lib/ld-musl-x86_64.so.1"), "").unwrap();
        assert!(Locales::new(&root).knows("fr_FR.UTF-8"));
    }

    #[test]
    fn damaged_archives_are_errors() {
        let whole = archive(&[("de_DE.utf8", true)]);
        for length in 0..whole.len() {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&whole[..length]).unwrap();
            assert!(archived_locales(&file).is_err(), "{length}");
        }
        let mut huge = whole.clone();
        huge[NAMEHASH_SIZE..NAMEHASH_SIZE + 4].fill(0xff);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&huge).unwrap();
        assert!(archived_locales(&file).is_err());
    }
}
