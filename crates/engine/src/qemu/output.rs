//! The output of a QEMU process: its log, and what errors quote of it.

use std::{fs::File, io::Write, path::Path, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    task::JoinHandle,
    time::timeout,
};

/// Maximum size of the log in bytes. A guest can make QEMU print endlessly, by breaking a device
/// again and again; further output is dropped.
const MAX_LOG: usize = 1 << 20;

/// Maximum length in bytes of the output that an error quotes: its end.
const MAX_QUOTE: usize = 8 << 10;

/// Timeout for the end of the output after QEMU has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the output of one QEMU process.
#[derive(Debug)]
pub(super) struct Output {
    /// Returns what errors quote when the output has ended.
    reader: Option<JoinHandle<String>>,
    quote: String,
}

impl Output {
    /// Starts to write output to a log, which exists.
    pub(super) fn read(from: impl AsyncRead + Unpin + Send + 'static, log: File) -> Output {
        Output {
            reader: Some(tokio::spawn(copy(from, log))),
            quote: String::new(),
        }
    }

    /// Returns the end of the output of a process that has ended. Cancel safe.
    pub(super) async fn end(&mut self) -> String {
        if let Some(reader) = &mut self.reader {
            let quote = timeout(DRAIN_TIMEOUT, reader).await;
            self.quote = quote.ok().and_then(Result::ok).unwrap_or_default();
            self.reader = None;
        }
        self.quote.clone()
    }
}

/// Opens a log for appending.
pub(super) fn open_log(log: &Path) -> std::io::Result<File> {
    File::options().create(true).append(true).open(log)
}

async fn copy(mut from: impl AsyncRead + Unpin, mut log: File) -> String {
    let mut buffer = vec![0; 4096];
    let (mut written, mut quote) = (0, Vec::new());
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let bytes = buffer.get(..count).unwrap_or_default();
        if written < MAX_LOG {
            // On a full disk, the errors still quote it.
            let _ = log.write_all(bytes);
            written += count;
        }
        quote.extend_from_slice(bytes);
        quote.drain(..quote.len().saturating_sub(MAX_QUOTE));
    }
    String::from_utf8_lossy(&quote).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn endless_output_is_cut_off_and_its_end_is_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.log");
        fs::write(&path, "before\n").unwrap();
        let output = [&vec![b'x'; 3 * MAX_LOG][..], b"\nlast line\n"].concat();
        let mut output = Output::read(std::io::Cursor::new(output), open_log(&path).unwrap());
        let quote = output.end().await;
        assert!(quote.ends_with("x\nlast line") && quote.len() <= MAX_QUOTE);
        let log = fs::read(&path).unwrap();
        assert!(log.starts_with(b"before\nxxx"));
        assert!((MAX_LOG..=MAX_LOG + 8192).contains(&log.len()));
        assert_eq!(output.end().await, quote);
    }
}
