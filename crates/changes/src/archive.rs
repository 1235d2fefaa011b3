//! The stream in which the guest sends the archive.
//!
//! The tar archive is sent in pieces, so that holes in files are not transferred (layers must not
//! contain sparse files: image-spec, layer.md, "File Types"), and so that a complete archive can be
//! distinguished from a broken connection. A piece is one byte for its type, eight bytes for its
//! length (little-endian), and its data.

use std::io::{self, ErrorKind, Read, Write};

const DATA: u8 = b'd';
/// A run of zero bytes, of which only the length is sent.
const ZEROES: u8 = b'z';
/// A sentence for the user.
const NOTE: u8 = b'n';
/// A sentence with the reason of a failure; the last piece.
const FAILURE: u8 = b'f';
/// The end of a complete archive.
const END: u8 = b'e';

/// Limit for sentences from the guest, in bytes.
const LONGEST_SENTENCE: u64 = 64 << 10;

/// Writes pieces, in the guest.
pub(crate) struct ArchiveWriter<W> {
    to: W,
}

impl<W: Write> ArchiveWriter<W> {
    pub(crate) fn new(to: W) -> ArchiveWriter<W> {
        ArchiveWriter { to }
    }

    pub(crate) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.head(DATA, bytes.len() as u64)?;
        self.to.write_all(bytes)
    }

    pub(crate) fn zeroes(&mut self, count: u64) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.head(ZEROES, count)
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

/// Reports to the host why there is no archive.
///
/// # Errors
/// Those of the writer.
pub fn send_failure(to: impl Write, reason: &str) -> io::Result<()> {
    ArchiveWriter::new(to).fail(reason)
}

/// Reads pieces on the host, and yields the bytes of the tar archive. An incomplete archive ends in
/// an error.
pub struct ArchiveReader<R, N> {
    from: R,
    note: N,
    /// The rest of the current piece.
    piece: Piece,
}

#[derive(Debug, Clone, Copy)]
enum Piece {
    Data(u64),
    Zeroes(u64),
    End,
}

impl<R: Read, N: FnMut(String)> ArchiveReader<R, N> {
    /// Reads the stream that [`pack`](crate::pack) writes. `note` is called with each sentence for
    /// the user.
    pub fn new(from: R, note: N) -> ArchiveReader<R, N> {
        ArchiveReader {
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
                    "the connection to the machine ended before all of its changes were read",
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
            _ => Err(io::Error::other(
                "the machine sent an invalid piece of the archive",
            )),
        }
    }

    fn sentence(&mut self, length: u64) -> io::Result<String> {
        if length > LONGEST_SENTENCE {
            return Err(io::Error::other(
                "the machine sent a message of more than 64 KiB",
            ));
        }
        let mut bytes = Vec::new();
        (&mut self.from).take(length).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl<R: Read, N: FnMut(String)> Read for ArchiveReader<R, N> {
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

fn at_most(buffer: usize, limit: u64) -> usize {
    usize::try_from(limit).map_or(buffer, |limit| limit.min(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stream: &[u8]) -> (io::Result<Vec<u8>>, Vec<String>) {
        let mut notes = Vec::new();
        let mut bytes = Vec::new();
        let result = ArchiveReader::new(stream, |note| notes.push(note)).read_to_end(&mut bytes);
        (result.map(|_| bytes), notes)
    }

    #[test]
    fn zeroes_and_notes_survive_a_round_trip() {
        let mut stream = Vec::new();
        let mut writer = ArchiveWriter::new(&mut stream);
        writer.data(b"ab").unwrap();
        writer.zeroes(5).unwrap();
        writer.note("look").unwrap();
        writer.data(b"c").unwrap();
        writer.finish().unwrap();
        let (bytes, notes) = read(&stream);
        assert_eq!(bytes.unwrap(), b"ab\0\0\0\0\0c");
        assert_eq!(notes, ["look"]);
        for length in 0..stream.len() {
            assert!(read(&stream[..length]).0.is_err(), "{length}");
        }
    }

    #[test]
    fn a_failure_is_reported() {
        let mut stream = Vec::new();
        send_failure(&mut stream, "no disk").unwrap();
        assert_eq!(read(&stream).0.unwrap_err().to_string(), "no disk");
        assert!(read(b"n\xff\xff\xff\xff\xff\xff\xff\xff").0.is_err());
        assert!(read(b"?\0\0\0\0\0\0\0\0").0.is_err());
    }
}
