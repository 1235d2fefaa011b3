//! Finds the service, starts it if it is not running, and replaces one of another build.

use std::{
    env,
    fs::{self, File},
    io,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use container_api::{API_VERSION, Pong, SERVICE_ROLE};
use container_machine::{SERVICE_MALLOC, last_lines};
use hyper::Method;
use tokio::time::{sleep, timeout};

use crate::{Client, ClientError, descriptors, service_environment::service_environment};

/// Timeout from starting the service to its first reply.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// Timeout for the reply to a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval between pings while the service starts or ends.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Size above which the service's log is removed before the next start.
const MAX_LOG_SIZE: u64 = 4 << 20;

impl Client {
    /// Waits until a service of this build replies, starting one if none is running. A service of
    /// another build that is busy is used if it has the same API, because its work must not keep
    /// other commands waiting.
    ///
    /// Several clients may do this at once: only one of the services they start gets the lock file,
    /// and the others exit.
    pub(crate) async fn ensure_service(&self, build: &str) -> Result<(), ClientError> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut started: Option<std::process::Child> = None;
        let mut is_other_busy = false;
        loop {
            match self.ping().await {
                Some(pong) if pong.data != self.directories.data => {
                    return Err(ClientError::OtherData {
                        runtime: self.directories.runtime.clone(),
                        theirs: pong.data,
                        ours: self.directories.data.clone(),
                    });
                }
                Some(pong) if pong.build == build => return Ok(()),
                Some(pong) if pong.is_retiring && pong.api == API_VERSION => return Ok(()),
                // Another build: it ends once its requests are done. It may have ended already, so
                // a failure is ignored.
                Some(_) => {
                    is_other_busy = true;
                    drop(self.request::<()>(Method::POST, "/v1/retire", &()).await);
                }
                None => {
                    let ended = match &mut started {
                        Some(child) => child.try_wait().map_err(ClientError::Start)?,
                        None => None,
                    };
                    // One that was killed is started again.
                    if let Some(status) = ended
                        && status.code().is_some_and(|code| code != 0)
                    {
                        let log = self.directories.data.join("service.log");
                        let reason = last_lines(&log, 1);
                        return Err(ClientError::StartFailed { log, reason });
                    }
                    if started.is_none() || ended.is_some() {
                        started = Some(self.start_service()?);
                    }
                }
            }
            if Instant::now() > deadline && is_other_busy && started.is_none() {
                return Err(ClientError::OtherBuildBusy);
            }
            if Instant::now() > deadline {
                let log = self.directories.data.join("service.log");
                let last_lines = last_lines(&log, 5);
                return Err(ClientError::StartTimeout { log, last_lines });
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn ping(&self) -> Option<Pong> {
        let pong = self.request::<Pong>(Method::GET, "/v1/ping", &());
        timeout(PING_TIMEOUT, pong).await.ok()?.ok()
    }

    fn start_service(&self) -> Result<std::process::Child, ClientError> {
        let log = self.directories.data.join("service.log");
        if fs::metadata(&log).is_ok_and(|about| about.len() > MAX_LOG_SIZE) {
            fs::remove_file(&log).map_err(ClientError::Start)?;
        }
        let open = || -> io::Result<File> { File::options().create(true).append(true).open(&log) };
        let log = open().map_err(ClientError::Start)?;
        let program = env::current_exe().map_err(ClientError::Start)?;
        descriptors::close_on_exec();
        tracing::debug!("starting the service: {}", program.display());
        Command::new(program)
            .arg(SERVICE_ROLE)
            .env_clear()
            .envs(service_environment())
            .envs(SERVICE_MALLOC)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(ClientError::Start)?)
            .stderr(log)
            .spawn()
            .map_err(ClientError::Start)
    }
}
