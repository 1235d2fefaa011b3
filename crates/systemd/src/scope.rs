//! Scopes: cgroups of the service manager's for processes that it has not started.

use std::{fs, future::pending, io, time::Duration};

use futures::StreamExt;
use tokio::time::{sleep, timeout};
use zbus::{Connection, MatchRule, MessageStream, ObjectPath, OwnedVariant, Variant, message};

use crate::{
    TIMEOUT,
    manager::{Manager, NoManager},
};

/// First version of systemd that knows `ManagedOOMPreference=` (systemd.resource-control(5)).
const OOM_PREFERENCE_VERSION: u32 = 248;

/// First version of systemd that knows `OOMPolicy=` of scopes (systemd.scope(5)).
const OOM_POLICY_VERSION: u32 = 253;

/// Interval at which the process's cgroup is looked at.
const CGROUP_INTERVAL: Duration = Duration::from_millis(2);

/// Name of systemd on the bus (org.freedesktop.systemd1(5)).
const SYSTEMD: &str = "org.freedesktop.systemd1";

/// Object of the service manager.
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";

/// Interface of the service manager.
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";

/// A scope that this process joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Name of the unit, which no other unit may have: `….scope`.
    pub name: String,
    /// Description in lists of units.
    pub description: String,
    /// Time between SIGTERM and SIGKILL when the scope is stopped.
    pub stop_timeout: Duration,
}

/// The process has stayed in its cgroup.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// The host has no systemd, or none for this user.
    #[error(transparent)]
    NoManager(#[from] NoManager),
    /// systemd cannot be reached, or has refused the scope.
    #[error("systemd does not start a scope: {0}")]
    Refused(zbus::Error),
    /// The job that starts the scope has ended without success.
    #[error(
        "systemd failed to start {name}: its job ended with result {result:?} (see the journal of \
         the host for the reason)"
    )]
    Failed {
        /// Name of the scope.
        name: String,
        /// Result of the job (org.freedesktop.systemd1(5), `JobRemoved`).
        result: String,
    },
    /// The process's cgroup cannot be read.
    #[error("cannot read /proc/self/cgroup: {0}")]
    Cgroup(io::Error),
    /// systemd or its bus hangs.
    #[error("timed out after {} s waiting for systemd to start a scope", TIMEOUT.as_secs())]
    TimedOut,
}

impl From<zbus::Error> for ScopeError {
    fn from(error: zbus::Error) -> ScopeError {
        ScopeError::Refused(error)
    }
}

impl Scope {
    /// Moves this process, with all of its threads, to a new scope. Processes that it has started
    /// before stay where they are.
    ///
    /// # Errors
    /// [`ScopeError`]; the process has not been moved then, or is moved later after a timeout.
    pub async fn join(&self) -> Result<(), ScopeError> {
        self.join_at(&Manager::of_user()?).await
    }

    async fn join_at(&self, manager: &Manager) -> Result<(), ScopeError> {
        let joined = timeout(TIMEOUT, self.start(manager)).await;
        joined.unwrap_or(Err(ScopeError::TimedOut))
    }

    async fn start(&self, manager: &Manager) -> Result<(), ScopeError> {
        let bus = manager.connect().await?;
        let version = version(&bus).await?;
        let auxiliary: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
        let properties = self.properties(manager, version);
        let jobs = removed_jobs(&bus).await?;
        bus.call_method(
            Some(SYSTEMD),
            MANAGER_PATH,
            Some(MANAGER_INTERFACE),
            "StartTransientUnit",
            &(self.name.as_str(), "fail", properties, auxiliary),
        )
        .await?;
        // The reply comes before the process is moved.
        tokio::select! {
            joined = self.joined() => joined,
            failed = self.failed(jobs) => Err(failed),
        }
    }

    /// Waits until the process is in the scope.
    async fn joined(&self) -> Result<(), ScopeError> {
        let cgroups = || fs::read_to_string("/proc/self/cgroup").map_err(ScopeError::Cgroup);
        while !contains(&cgroups()?, &self.name) {
            sleep(CGROUP_INTERVAL).await;
        }
        Ok(())
    }

    /// Waits until the job that starts the scope has failed. Never ends if it succeeds.
    async fn failed(&self, mut jobs: MessageStream) -> ScopeError {
        while let Some(signal) = jobs.next().await {
            let result = signal.and_then(|signal| job_result(&signal, &self.name));
            match result {
                Ok(None) => {}
                Ok(Some(result)) if result == "done" => break,
                Ok(Some(result)) => {
                    return ScopeError::Failed {
                        name: self.name.clone(),
                        result,
                    };
                }
                Err(error) => return ScopeError::Refused(error),
            }
        }
        pending().await
    }

    fn properties(&self, manager: &Manager, version: u32) -> Vec<(&'static str, Variant<'_>)> {
        let slice = if manager.is_of_system {
            "machine.slice"
        } else {
            "app.slice"
        };
        let stop_timeout = u64::try_from(self.stop_timeout.as_micros()).unwrap_or(u64::MAX);
        let mut properties = vec![
            ("Description", Variant::from(self.description.as_str())),
            ("Slice", Variant::from(slice)),
            ("TimeoutStopUSec", Variant::from(stop_timeout)),
            // A scope that has failed does not stay in the list of units.
            ("CollectMode", Variant::from("inactive-or-failed")),
            // The process that asks. Its own number may be another one in systemd's PID namespace.
            ("PIDs", Variant::from(vec![0_u32])),
        ];
        if version >= OOM_PREFERENCE_VERSION {
            properties.push(("ManagedOOMPreference", Variant::from("avoid")));
        }
        if version >= OOM_POLICY_VERSION {
            // By default, systemd stops a scope when the kernel has killed one of its processes.
            properties.push(("OOMPolicy", Variant::from("continue")));
        }
        properties
    }
}

/// Returns the signals about jobs that have ended.
async fn removed_jobs(bus: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(message::Type::Signal)
        .sender(SYSTEMD)
        .path(MANAGER_PATH)
        .interface(MANAGER_INTERFACE)
        .member("JobRemoved")
        .build()?;
    let jobs = MessageStream::for_match_rule(rule, bus, None).await?;
    // Without it, systemd may send no signals.
    bus.call_method(
        Some(SYSTEMD),
        MANAGER_PATH,
        Some(MANAGER_INTERFACE),
        "Subscribe",
        &(),
    )
    .await?;
    Ok(jobs)
}

/// Returns the result of a job that has ended, if it is one of this unit.
fn job_result(signal: &zbus::Message, unit: &str) -> zbus::Result<Option<String>> {
    let body = signal.body();
    let (_, _, of, result): (u32, ObjectPath<'_>, &str, &str) = body.deserialize()?;
    Ok((of == unit).then(|| result.to_owned()))
}

/// Returns systemd's version.
async fn version(bus: &Connection) -> zbus::Result<u32> {
    let reply = bus
        .call_method(
            Some(SYSTEMD),
            MANAGER_PATH,
            Some("org.freedesktop.DBus.Properties"),
            "Get",
            &(MANAGER_INTERFACE, "Version"),
        )
        .await?;
    let version: OwnedVariant = reply.body().deserialize()?;
    let version: String = version.try_into()?;
    Ok(number(&version))
}

/// Returns the number at the beginning of a version; 0 without one.
fn number(version: &str) -> u32 {
    let version = version.trim_start_matches('v');
    let digits = version.find(|it: char| !it.is_ascii_digit());
    let digits = &version[..digits.unwrap_or(version.len())];
    digits.parse().unwrap_or(0)
}

/// Returns whether a unit is in a list of cgroups (cgroups(7), `/proc/PID/cgroup`).
fn contains(cgroups: &str, unit: &str) -> bool {
    let paths = cgroups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2));
    let mut names = paths.flat_map(|path| path.split('/'));
    names.any(|name| name == unit)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::net::UnixListener;
    use zbus::connection;

    use super::*;

    fn example() -> Scope {
        Scope {
            name: "container-machine-dev-3f9a21.scope".to_owned(),
            description: "Machine dev".to_owned(),
            stop_timeout: Duration::from_secs(100),
        }
    }

    fn manager(bus: &Path) -> Manager {
        Manager {
            is_of_system: false,
            bus: bus.to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bus_that_hangs_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let bus = directory.path().join("bus");
        let _listener = UnixListener::bind(&bus).unwrap();
        let joined = example().join_at(&manager(&bus)).await;
        assert!(matches!(joined, Err(ScopeError::TimedOut)), "{joined:?}");
    }

    #[tokio::test]
    async fn bus_without_a_listener_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let bus = directory.path().join("bus");
        drop(UnixListener::bind(&bus).unwrap());
        let joined = example().join_at(&manager(&bus)).await;
        assert!(matches!(joined, Err(ScopeError::Refused(_))), "{joined:?}");
    }

    /// Answers one client as a bus with systemd does, whose job for the scope fails.
    async fn serve_failing_systemd(listener: UnixListener) -> zbus::Result<()> {
        let (stream, _) = listener.accept().await?;
        let server = connection::Builder::unix_stream(stream.into_std()?)
            .server("0123456789abcdef0123456789abcdef")
            .p2p()
            .build()
            .await?;
        let mut calls = MessageStream::from(&server);
        let job = |id| ObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{id}"));
        while let Some(call) = calls.next().await {
            let call = call?;
            let header = call.header();
            let member = header.member().map(|member| member.to_string());
            match member.as_deref() {
                Some("Hello") => server.reply(&header, &":1.7").await?,
                Some("Get") => server.reply(&header, &Variant::from("257")).await?,
                Some("StartTransientUnit") => {
                    let name = example().name;
                    for (id, unit, result) in
                        [(1_u32, "other.scope", "done"), (2, name.as_str(), "failed")]
                    {
                        let body = (id, job(id)?, unit, result);
                        server
                            .emit_signal(
                                None::<&str>,
                                MANAGER_PATH,
                                MANAGER_INTERFACE,
                                "JobRemoved",
                                &body,
                            )
                            .await?;
                    }
                    server.reply(&header, &job(2)?).await?;
                }
                _ => server.reply(&header, &()).await?,
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn job_that_fails_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let bus = directory.path().join("bus");
        let serving = serve_failing_systemd(UnixListener::bind(&bus).unwrap());
        let (scope, manager) = (example(), manager(&bus));
        tokio::select! {
            joined = scope.join_at(&manager) => {
                let Err(ScopeError::Failed { name, result }) = joined else {
                    panic!("{joined:?}");
                };
                assert_eq!((name, result.as_str()), (example().name, "failed"));
            }
            served = serving => panic!("{served:?}"),
        }
    }

    #[test]
    fn scope_is_found_in_both_versions_of_cgroups() {
        let name = example().name;
        let unified =
            format!("0::/user.slice/user-1000.slice/user@1000.service/app.slice/{name}\n");
        let hybrid = format!("4:memory:/user.slice\n1:name=systemd:/machine.slice/{name}\n0::/\n");
        for cgroups in [unified, hybrid] {
            assert!(contains(&cgroups, &name), "{cgroups}");
        }
        assert!(!contains(&format!("0::/x-{name}\n"), &name));
    }

    #[test]
    fn properties_are_only_sent_to_versions_that_know_them() {
        for (version, sent) in [
            (
                "257.9-1~deb13u1",
                &["ManagedOOMPreference", "OOMPolicy"][..],
            ),
            ("252.30-1~deb12u2", &["ManagedOOMPreference"]),
            ("v248", &["ManagedOOMPreference"]),
            ("247.3-7", &[]),
        ] {
            let manager = manager(Path::new("/run/bus"));
            let scope = example();
            let properties = scope.properties(&manager, number(version)).into_iter();
            let names = properties.map(|(name, _)| name);
            let names: Vec<&str> = names.filter(|name| name.contains("OOM")).collect();
            assert_eq!(names, sent, "{version}");
        }
        assert_eq!(number(""), 0);
    }
}
