//! A service that is there.

use std::{
    env,
    fs::{self, File},
    io,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use container_api::{Pong, SERVICE_ROLE};
use hyper::Method;
use tokio::time::{sleep, timeout};

use crate::{Client, ClientError, descriptors};

/// How long a service may take from its start to its first answer.
const START: Duration = Duration::from_secs(15);

/// How long one may take to answer when it is there.
const ANSWER: Duration = Duration::from_secs(5);

/// A log that grows beyond this is begun anew.
const LARGEST_LOG: u64 = 4 << 20;

impl Client {
    /// Waits until a service of this build answers, starting one where there is none.
    pub(crate) async fn ensure_service(&self, build: &str) -> Result<(), ClientError> {
        let deadline = Instant::now() + START;
        let mut started: Option<std::process::Child> = None;
        loop {
            match self.ping().await {
                Some(pong) if pong.data != self.world.data => {
                    return Err(ClientError::OtherData {
                        runtime: self.world.runtime.clone(),
                        theirs: pong.data,
                        ours: self.world.data.clone(),
                    });
                }
                Some(pong) if pong.build == build => return Ok(()),
                // It ends when it has no more to do. It may be gone already.
                Some(_) => drop(self.ask::<()>(Method::POST, "/v1/retire", &()).await),
                None => {
                    let is_starting = match &mut started {
                        Some(child) => child.try_wait().map_err(ClientError::Start)?.is_none(),
                        None => false,
                    };
                    if !is_starting {
                        started = Some(self.start_service()?);
                    }
                }
            }
            if Instant::now() > deadline {
                let log = self.world.data.join("service.log");
                let last_lines = last_lines(&log);
                return Err(ClientError::Silent { log, last_lines });
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ping(&self) -> Option<Pong> {
        let pong = self.ask::<Pong>(Method::GET, "/v1/ping", &());
        timeout(ANSWER, pong).await.ok()?.ok()
    }

    fn start_service(&self) -> Result<std::process::Child, ClientError> {
        let log = self.world.data.join("service.log");
        if fs::metadata(&log).is_ok_and(|about| about.len() > LARGEST_LOG) {
            fs::remove_file(&log).map_err(ClientError::Start)?;
        }
        let open = || -> io::Result<File> { File::options().create(true).append(true).open(&log) };
        let log = open().map_err(ClientError::Start)?;
        let program = env::current_exe().map_err(ClientError::Start)?;
        descriptors::close_on_exec();
        tracing::debug!("starting the service: {}", program.display());
        Command::new(program)
            .arg(SERVICE_ROLE)
            // What an image took while it was unpacked goes back to the system. Without these malloc
            // keeps up to 64 MiB a thread once it has seen large blocks go (mallopt(3),
            // M_MMAP_THRESHOLD). Smaller ones made fetching slower.
            .env("MALLOC_MMAP_THRESHOLD_", "1048576")
            .env("MALLOC_TRIM_THRESHOLD_", "1048576")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(ClientError::Start)?)
            .stderr(log)
            .spawn()
            .map_err(ClientError::Start)
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
