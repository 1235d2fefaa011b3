//! Shuts the machine down: asks its init to stop, and kills it after a grace period.

use std::{future, io, path::Path, time::Duration};

use container_protocol::InitProgram;
use tokio::time::{sleep, timeout};

use crate::{
    commands,
    init::{Init, InitProcess},
    kernel_log, processes, signal,
};

/// Interval at which the request is repeated until init can receive it.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Interval at which processes are looked at during a shutdown.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The signal that powers systemd and the built-in init off (systemd(1), SIGRTMIN+4).
const POWER_OFF: i32 = signal::REALTIME_MIN + 4;

/// Way to request a shutdown from an init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopMethod {
    /// A signal to init.
    Signal(i32),
    /// The machine's own `poweroff` program, which knows how to reach its init.
    PowerOffProgram,
}

impl StopMethod {
    /// Returns the method for `init`. `image_signal` is the image's `StopSignal` and takes
    /// precedence, but only for the image's own init.
    ///
    /// Documented are: systemd powers off on SIGRTMIN+4 (systemd(1); SIGRTMIN+3 would halt it
    /// outside of containers), busybox init on SIGUSR2.
    pub(crate) fn new(init: &InitProgram, image_signal: Option<&str>) -> StopMethod {
        let InitProgram::OfImage(program) = init else {
            return StopMethod::Signal(POWER_OFF);
        };
        if let Some(number) = image_signal.and_then(signal::parse) {
            return StopMethod::Signal(number);
        }
        match Path::new(program)
            .file_name()
            .and_then(|name| name.to_str())
        {
            Some("systemd") => StopMethod::Signal(POWER_OFF),
            Some("busybox") => StopMethod::Signal(nix::libc::SIGUSR2),
            _ => StopMethod::PowerOffProgram,
        }
    }

    /// Requests the shutdown, retrying until init can receive the request: a starting init handles
    /// no signals yet and does not answer `poweroff`.
    async fn request(self, init: &InitProcess) {
        while let Err(error) = self.try_to_request(init).await {
            kernel_log::error(&format!("cannot ask init to stop: {error}"));
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn try_to_request(self, init: &InitProcess) -> io::Result<()> {
        match self {
            StopMethod::Signal(number) => {
                // The kernel drops a signal that the first process of a PID namespace does not
                // handle. It is sent anyway: an init in sigwait(3) receives it, and /proc does not
                // show that.
                while !signal::is_handled(init.pid, number)? {
                    signal::send(init.pid, number)?;
                    sleep(RETRY_INTERVAL).await;
                }
                signal::send(init.pid, number)
            }
            StopMethod::PowerOffProgram => commands::run_as_root(init, "poweroff").await,
        }
    }
}

/// Asks init to stop, waits until it has ended or has nothing left to do, and kills it after
/// `grace`.
pub(crate) async fn shut_down(init: &mut Init, method: StopMethod, grace: Duration) {
    let process = init.process().clone();
    let has_ended = async {
        tokio::select! {
            biased;
            _ = init.wait() => true,
            () = async {
                method.request(&process).await;
                future::pending().await
            } => false,
            () = finish(&process, method) => false,
        }
    };
    let has_ended = timeout(grace, has_ended).await;
    if has_ended.is_err() {
        kernel_log::error("init did not stop in time and is killed");
    }
    if has_ended != Ok(true) {
        init.kill().await;
    }
}

/// Waits until an init that was asked to stop has nothing left to do; forever if only its end shows
/// that.
///
/// Busybox sends SIGTERM and SIGKILL to all processes, and sleeps a second after each (init/init.c,
/// `run_shutdown_and_kill_processes`). Once no process is left, there is nothing to wait for.
async fn finish(init: &InitProcess, method: StopMethod) {
    let StopMethod::Signal(request) = method else {
        return future::pending().await;
    };
    if !init.is_busybox() {
        return future::pending().await;
    }
    sleep(POLL_INTERVAL).await;
    while !has_finished(init.pid, request) {
        sleep(POLL_INTERVAL).await;
    }
}

/// Returns whether init has received the request, sleeps, and is the only process of the machine.
fn has_finished(init: u32, request: i32) -> bool {
    processes::is_in_sleep(init)
        && signal::is_pending(init, request).is_ok_and(|is_pending| !is_pending)
        && processes::in_pid_namespaces().all(|process| process == init)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signal_of_image_takes_precedence() {
        let method =
            |init: &str, signal| StopMethod::new(&InitProgram::OfImage(init.to_owned()), signal);
        assert_eq!(
            method("/usr/lib/systemd/systemd", None),
            StopMethod::Signal(38)
        );
        assert_eq!(
            method("/usr/lib/systemd/systemd", Some("SIGRTMIN+3")),
            StopMethod::Signal(37)
        );
        assert_eq!(method("/bin/busybox", Some("12")), StopMethod::Signal(12));
        assert_eq!(method("/bin/busybox", None), StopMethod::Signal(12));
        assert_eq!(
            method("/sbin/init", Some("nonsense")),
            StopMethod::PowerOffProgram
        );
        assert_eq!(
            StopMethod::new(&InitProgram::BuiltIn, Some("SIGQUIT")),
            StopMethod::Signal(38),
            "the image's signal is for an init that does not run"
        );
    }
}
