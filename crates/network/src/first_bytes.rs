//! The first bytes that a client sends: the server name of a TLS connection, or another protocol.

use rustls::server::Acceptor;

use crate::buffer_budget::MIN_BUFFER;

/// First byte of a TLS record with a handshake message, and of the version after it (RFC 8446,
/// section 5.1).
const HANDSHAKE: u8 = 22;
const VERSION: u8 = 3;

/// Limit of bytes in which the ClientHello has to be complete. They are read where they are: in the
/// connection's buffer, which may be this small.
const MAX_HELLO: usize = MIN_BUFFER;

/// What the first bytes of a connection show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FirstBytes {
    /// More bytes are needed.
    Incomplete,
    /// The protocol is not TLS.
    NotTls,
    /// A ClientHello, with the server name in lower case if there is one.
    Hello(Option<String>),
    /// Something that begins as TLS, and that a server might take for another name than we do.
    Invalid,
}

/// Reader of the first bytes, which are kept by the caller.
pub(crate) struct FirstBytesReader {
    acceptor: Acceptor,
    /// Number of bytes that the acceptor has.
    length: usize,
}

impl FirstBytesReader {
    pub(crate) fn new() -> FirstBytesReader {
        FirstBytesReader {
            acceptor: Acceptor::default(),
            length: 0,
        }
    }

    /// Reads all bytes that the client has sent so far. They start with those of the calls before.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> FirstBytes {
        match bytes {
            [] | [20..=24] => return FirstBytes::Incomplete,
            [HANDSHAKE, VERSION, ..] => {}
            // Servers accept an alert before the ClientHello, clients do not send one.
            [20..=24, VERSION, ..] => return FirstBytes::Invalid,
            _ => return FirstBytes::NotTls,
        }
        let Some(mut unread) = bytes.get(self.length..) else {
            return FirstBytes::Invalid;
        };
        while !unread.is_empty() {
            match self.acceptor.read_tls(&mut unread) {
                Ok(0) | Err(_) => return FirstBytes::Invalid,
                Ok(length) => self.length += length,
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let name = hello.server_name().map(normalized);
                    return FirstBytes::Hello(name);
                }
                Err(_) => return FirstBytes::Invalid,
            }
        }
        if self.length >= MAX_HELLO {
            return FirstBytes::Invalid;
        }
        FirstBytes::Incomplete
    }
}

/// Returns the name in lower case and without the final dot.
pub(crate) fn normalized(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a TLS record with a ClientHello that has these server names.
    pub(crate) fn hello(server_names: &[&str]) -> Vec<u8> {
        let with_length = |bytes: &[u8]| -> Vec<u8> {
            let length = u16::try_from(bytes.len()).unwrap();
            [&length.to_be_bytes()[..], bytes].concat()
        };
        let extension = |kind: u16, data: &[u8]| -> Vec<u8> {
            [&kind.to_be_bytes()[..], &with_length(data)].concat()
        };
        // Signature algorithms, without which no handshake is possible.
        let mut extensions = extension(13, &with_length(&[4, 3]));
        for name in server_names {
            let entry = [&[0][..], &with_length(name.as_bytes())].concat();
            extensions.extend(extension(0, &with_length(&entry)));
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        // No session, one cipher suite, no compression.
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend(with_length(&extensions));
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[1][..], &length[1..], &body].concat();
        [&[HANDSHAKE, VERSION, 1][..], &with_length(&message)].concat()
    }

    fn read(bytes: &[u8]) -> FirstBytes {
        FirstBytesReader::new().read(bytes)
    }

    #[test]
    fn the_server_name_is_found_however_it_arrives() {
        let hello = hello(&["WWW.Example.com"]);
        let expected = FirstBytes::Hello(Some("www.example.com".to_owned()));
        assert_eq!(read(&hello), expected);
        let mut reader = FirstBytesReader::new();
        for end in 0..hello.len() {
            assert_eq!(reader.read(&hello[..end]), FirstBytes::Incomplete, "{end}");
        }
        assert_eq!(reader.read(&hello), expected);
        // One message may be in many records.
        let mut split = Vec::new();
        for part in hello[5..].chunks(10) {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            split.extend([&[HANDSHAKE, VERSION, 1][..], &length, part].concat());
        }
        assert_eq!(read(&split), expected);
        let early_data = [&hello[..], &[23, 3, 3, 0, 1, 0]].concat();
        assert_eq!(read(&early_data), expected);
    }

    #[test]
    fn other_beginnings_are_distinguished() {
        assert_eq!(read(&hello(&[])), FirstBytes::Hello(None));
        assert_eq!(read(b""), FirstBytes::Incomplete);
        assert_eq!(read(&[HANDSHAKE]), FirstBytes::Incomplete);
        for other in [
            &b"G"[..],
            b"GET / HTTP/1.1\r\n",
            b"SSH-2.0-",
            &[22, 1],
            &[0],
        ] {
            assert_eq!(read(other), FirstBytes::NotTls, "{other:?}");
        }
    }

    #[test]
    fn an_ambiguous_or_endless_hello_is_invalid() {
        assert_eq!(read(&hello(&["a.test", "b.test"])), FirstBytes::Invalid);
        assert_eq!(read(&hello(&["a\0.test"])), FirstBytes::Invalid);
        // An alert before the handshake.
        let alert = [21, 3, 1, 0, 2, 1, 0];
        assert_eq!(read(&alert), FirstBytes::Invalid);
        assert_eq!(read(&alert[..1]), FirstBytes::Incomplete);
        assert_eq!(
            read(&[&alert, &hello(&["a.test"])[..]].concat()),
            FirstBytes::Invalid
        );
        // An alert, and a message of another type, in records of a handshake.
        assert_eq!(read(&[22, 3, 1, 0, 4, 2, 0, 0, 0]), FirstBytes::Invalid);
        // A message of 16 MiB, in small records.
        let mut endless = vec![22, 3, 1, 0, 4, 1, 255, 255, 255];
        for _ in 0..20_000 {
            endless.extend([22, 3, 1, 0, 1, 0]);
        }
        assert_eq!(read(&endless), FirstBytes::Invalid);
    }
}
