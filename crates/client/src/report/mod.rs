//! What a bug report needs, in one archive, without secrets.
//!
//! Every file is text that passes `redact`. Credentials, keys, environments and the output of
//! programs in machines are never read. Nothing here needs the service: what it does not answer is
//! missing.
//!
//! | module | content |
//! |---|---|
//! | `host` | the host: kernel, distribution, processor, memory |
//! | `redact` | removal of secrets from text |

mod host;
mod redact;

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use container_machine::{Bundles, Directories, previous_log, rotated_log};
use flate2::{Compression, write::GzEncoder};
use serde::Serialize;
use tokio::time::timeout;

use crate::{Client, doctor::diagnose};

/// Directory of all files in the archive.
const ROOT: &str = "container-report";

/// Timeout for everything that the service says.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(60);

/// Number of bytes at the end of each log.
const LOG_TAIL: u64 = 256 << 10;

/// Files of a bundle that describe the machine.
const DESCRIPTIONS: [&str; 3] = ["config.json", "boot-config.json", "snapshots.json"];

/// Logs of a machine. `stdio.log` is missing: the machine's own programs write it.
const LOGS: [&str; 4] = ["boot.log", "runtime.log", "engine.log", "file-share.log"];

/// A collected report.
#[derive(Debug)]
pub struct Report {
    files: Vec<ReportFile>,
}

/// One file of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportFile {
    /// Path in the archive.
    pub name: String,
    /// Text of the file.
    pub text: String,
}

/// A report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the report {path}: {cause}")]
pub struct ReportError {
    path: PathBuf,
    cause: io::Error,
}

impl Report {
    /// Collects a report. `build` and `version` are those of this program.
    pub async fn collect(version: &str, build: &str) -> Report {
        let mut report = Report { files: Vec::new() };
        report.add(
            "version.txt",
            &format!("container {version}, build {build}\n"),
        );
        report.add("host.txt", &host::describe());
        match diagnose(false).await {
            Ok(diagnosis) => report.add_json("doctor.json", &diagnosis),
            Err(error) => report.add("doctor.json", &error.to_string()),
        }
        // An error is among the doctor's checks.
        if let Ok(directories) = Directories::from_environment() {
            report.add_file("config.toml", &directories.config.join("config.toml"));
            report.add_logs(&directories.data, "service.log");
            report.add_logs(&directories.templates(), "maker.log");
            report.add_machines(&directories);
        }
        let answers = timeout(SERVICE_TIMEOUT, report.add_answers(build)).await;
        if answers.is_err() {
            let message = format!("the service has not answered within {SERVICE_TIMEOUT:?}\n");
            report.add("service-error.txt", &message);
        }
        report
    }

    /// Returns the files.
    pub fn files(&self) -> &[ReportFile] {
        &self.files
    }

    /// Writes the report to a new file, as a tar archive that is compressed with gzip.
    ///
    /// # Errors
    /// If the file exists or cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        let failed = |cause| ReportError {
            path: path.to_owned(),
            cause,
        };
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        self.write_to(file).map_err(failed)
    }

    fn write_to(&self, to: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(GzEncoder::new(to, Compression::default()));
        for ReportFile { name, text } in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, Path::new(ROOT).join(name), text.as_bytes())?;
        }
        archive.into_inner()?.finish()?.flush()
    }

    /// Adds what the service says about the host and the machines.
    async fn add_answers(&mut self, build: &str) {
        let answers = async {
            let client = Client::connect(build).await?;
            Ok::<_, crate::ClientError>((client.system().await?, client.machines().await?))
        };
        match answers.await {
            Ok((system, machines)) => {
                self.add_json("system.json", &system);
                self.add_json("machines.json", &machines);
            }
            Err(error) => self.add("service-error.txt", &format!("{error}\n")),
        }
    }

    fn add_machines(&mut self, directories: &Directories) {
        let Ok(bundles) = Bundles::open(&directories.data) else {
            return;
        };
        for id in bundles.ids().unwrap_or_default() {
            let directory = bundles.directory().join(id.as_str());
            for name in DESCRIPTIONS {
                self.add_description(&format!("machines/{id}/{name}"), &directory.join(name));
            }
            for name in LOGS {
                let log = directory.join(name);
                for log in [rotated_log(&log), previous_log(&log), log] {
                    let name = log.file_name().unwrap_or_default().to_string_lossy();
                    self.add_file(&format!("machines/{id}/{name}"), &log);
                }
            }
        }
    }

    /// Adds a JSON file. Of a damaged one, in which secrets are not found, only the error.
    fn add_description(&mut self, name: &str, path: &Path) {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => format!("cannot read {}: {error}\n", path.display()),
        };
        match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(_) => self.add(name, &text),
            Err(error) => {
                let about = format!("invalid, {} bytes: {error}\n", text.len());
                self.add(name, &about);
            }
        }
    }

    fn add_logs(&mut self, directory: &Path, name: &str) {
        self.add_file(name, &directory.join(name));
    }

    /// Adds the end of a file that exists.
    fn add_file(&mut self, name: &str, path: &Path) {
        match read_end(path) {
            Ok(text) => self.add(name, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.add(name, &format!("cannot read {}: {error}\n", path.display())),
        }
    }

    fn add_json(&mut self, name: &str, value: &impl Serialize) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.add(name, &text),
            Err(error) => self.add(name, &error.to_string()),
        }
    }

    fn add(&mut self, name: &str, text: &str) {
        self.files.push(ReportFile {
            name: name.to_owned(),
            text: redact::redact(text),
        });
    }
}

/// Returns the last [`LOG_TAIL`] bytes of a file, from the start of a line.
fn read_end(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let start = fs::metadata(path)?.len().saturating_sub(LOG_TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = match text.split_once('\n') {
        Some((_, rest)) if start > 0 => rest,
        _ => &text,
    };
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn files_are_redacted_and_archived() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("service.log");
        fs::write(&log, "started\npassword=hunter2\n").unwrap();
        let mut report = Report { files: Vec::new() };
        report.add_logs(root.path(), "service.log");
        report.add_logs(root.path(), "maker.log");
        assert_eq!(report.files().len(), 1);
        let archive = root.path().join("report.tar.gz");
        report.write(&archive).unwrap();
        assert!(report.write(&archive).is_err());

        let mut archive = tar::Archive::new(GzDecoder::new(File::open(&archive).unwrap()));
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let path = entry.path().unwrap().into_owned();
        assert_eq!(path, Path::new("container-report/service.log"));
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert!(
            text.contains("started") && !text.contains("hunter2"),
            "{text}"
        );
    }

    #[test]
    fn machines_without_their_secrets_and_output() {
        let root = tempfile::tempdir().unwrap();
        let directories = Directories {
            data: root.path().to_owned(),
            config: root.path().to_owned(),
            runtime: root.path().to_owned(),
        };
        let machine = root.path().join("machines/dev");
        fs::create_dir_all(&machine).unwrap();
        let configuration = r#"{"initEnvironment": ["PASS=hunter2"], "shell": "/bin/sh"}"#;
        fs::write(machine.join("config.json"), configuration).unwrap();
        for file in ["stdio.log", "ssh_host_ed25519_key", "boot.log.previous"] {
            fs::write(machine.join(file), "text of a file\n").unwrap();
        }
        let mut report = Report { files: Vec::new() };
        report.add_machines(&directories);
        let names: Vec<&str> = report.files().iter().map(|it| &it.name[..]).collect();
        assert_eq!(
            names,
            ["machines/dev/config.json", "machines/dev/boot.log.previous"]
        );
        let configuration = &report.files()[0].text;
        assert!(configuration.contains("/bin/sh"), "{configuration}");
        assert!(configuration.contains("PASS="), "{configuration}");
        assert!(!configuration.contains("hunter2"), "{configuration}");
    }

    #[test]
    fn a_long_log_is_cut_at_the_start_of_a_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines: String = (0..60_000).map(|number| format!("{number}\n")).collect();
        fs::write(file.path(), &lines).unwrap();
        let end = read_end(file.path()).unwrap();
        assert!(end.len() as u64 <= LOG_TAIL && lines.ends_with(&format!("\n{end}")));
    }
}
