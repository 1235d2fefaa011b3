//! The archive on its way from the guest.
//!
//! The bytes of a tar archive in pieces, so that what holes in files read as need not travel
//! (archives with holes of their own are not for layers: image-spec, layer.md, "File Types"), and
//! the end of it all can be told from an end in the middle. A piece is its kind, a byte, its
//! length, eight bytes with the lowest first, and what it holds.

use std::io::{self, ErrorKind, Read, Write};

const DATA: u8 = b'd';
/// That many bytes of zero, which are not sent.
const ZEROES: u8 = b'z';
/// A sentence that whoever asked should read.
const NOTE: u8 = b'n';
/// Why there will be no more, a sentence.
const FAILURE: u8 = b'f';
/// The end of a whole archive.
const END: u8 = b'e';

/// Bytes of the longest sentence that is read.
const LONGEST: u64 = 64 << 10;

/// The guest's end.
pub(crate) struct Outgoing<W> {
    to: W,
}

impl<W: Write> Outgoing<W> {
    pub(crate) fn new(to: W) -> Outgoing<W> {
        Outgoing { to }
    }

    pub(crate) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.head(DATA, bytes.len() as u64)?;
        self.to.write_all(bytes)
    }

    pub(crate) fn zeroes(&mut self, count: u64) -> io::Result<()> {
        match count {
            0 => Ok(()),
            _ => self.head(ZEROES, count),
        }
    }

    pub(crate) fn note(&mut self, sentence: &str) -> io::Result<()> {
        self.head(NOTE, sentence.len() as u64)?;
        self.to.write_all(sentence.as_bytes())
    }

    pub(crate) fn fail(mut self, reason: &str) -> io::Result<()> {
        self.head(FAILURE, reason.len() as u64)?;
        self.to.write_all(reason.as_bytes())?;
        self.to.flush()
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.head(END, 0)?;
        self.to.flush()
    }

    fn head(&mut self, kind: u8, length: u64) -> io::Result<()> {
        self.to.write_all(&[kind])?;
        self.to.write_all(&length.to_le_bytes())
    }
}

/// Tells the host why there is no archive.
///
/// # Errors
/// Those of the writer.
pub fn refuse(to: impl Write, reason: &str) -> io::Result<()> {
    Outgoing::new(to).fail(reason)
}

/// The host's end: reads as the tar archive. An archive that is not whole ends in an error.
pub struct Archive<R, N> {
    from: R,
    note: N,
    /// What is left of the piece that is being read.
    piece: Piece,
}

#[derive(Debug, Clone, Copy)]
enum Piece {
    Data(u64),
    Zeroes(u64),
    End,
}

impl<R: Read, N: FnMut(String)> Archive<R, N> {
    /// What [`pack`](crate::pack) writes; `note` hears the sentences in it.
    pub fn new(from: R, note: N) -> Archive<R, N> {
        Archive {
            from,
            note,
            piece: Piece::Data(0),
        }
    }

    fn next_piece(&mut self) -> io::Result<Piece> {
        let mut head = [0; 9];
        self.from
            .read_exact(&mut head)
            .map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "the machine ended before all of its changes were read",
                ),
                _ => error,
            })?;
        let [kind, length @ ..] = head;
        let length = u64::from_le_bytes(length);
        match kind {
            DATA => Ok(Piece::Data(length)),
            ZEROES => Ok(Piece::Zeroes(length)),
            NOTE => {
                let sentence = self.sentence(length)?;
                (self.note)(sentence);
                Ok(Piece::Data(0))
            }
            FAILURE => Err(io::Error::other(self.sentence(length)?)),
            END => Ok(Piece::End),
            _ => Err(io::Error::other("the machine sends what is no archive")),
        }
    }

    fn sentence(&mut self, length: u64) -> io::Result<String> {
        if length > LONGEST {
            return Err(io::Error::other("the machine sends too long a message"));
        }
        let mut bytes = Vec::new();
        (&mut self.from).take(length).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl<R: Read, N: FnMut(String)> Read for Archive<R, N> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.piece {
                Piece::Data(0) | Piece::Zeroes(0) => self.piece = self.next_piece()?,
                Piece::Data(left) => {
                    let most = at_most(buffer.len(), left);
                    let count = self.from.read(&mut buffer[..most])?;
                    if count == 0 && most > 0 {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                    self.piece = Piece::Data(left - count as u64);
                    return Ok(count);
                }
                Piece::Zeroes(left) => {
                    let count = at_most(buffer.len(), left);
                    buffer[..count].fill(0);
                    self.piece = Piece::Zeroes(left - count as u64);
                    return Ok(count);
                }
                Piece::End => return Ok(0),
            }
        }
    }
}

/// No larger than a buffer, so it fits.
fn at_most(buffer: usize, limit: u64) -> usize {
    usize::try_from(limit).map_or(buffer, |limit| limit.min(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stream: &[u8]) -> (io::Result<Vec<u8>>, Vec<String>) {
        let mut notes = Vec::new();
        let mut bytes = Vec::new();
        let result = Archive::new(stream, |note| notes.push(note)).read_to_end(&mut bytes);
        (result.map(|_| bytes), notes)
    }

    #[test]
    fn holes_and_notes_are_put_in_and_taken_out() {
        let mut stream = Vec::new();
        let mut outgoing = Outgoing::new(&mut stream);
        outgoing.data(b"ab").unwrap();
        outgoing.zeroes(5).unwrap();
        outgoing.note("look").unwrap();
        outgoing.data(b"c").unwrap();
        outgoing.finish().unwrap();
        let (bytes, notes) = read(&stream);
        assert_eq!(bytes.unwrap(), b"ab\0\0\0\0\0c");
        assert_eq!(notes, ["look"]);
        for length in 0..stream.len() {
            assert!(read(&stream[..length]).0.is_err(), "{length}");
        }
    }

    #[test]
    fn a_failure_is_told() {
        let mut stream = Vec::new();
        refuse(&mut stream, "no disk").unwrap();
        assert_eq!(read(&stream).0.unwrap_err().to_string(), "no disk");
        assert!(read(b"n\xff\xff\xff\xff\xff\xff\xff\xff").0.is_err());
        assert!(read(b"?\0\0\0\0\0\0\0\0").0.is_err());
    }
}
