//! How an init is asked to stop. Each has its own way.

use std::{io, path::Path, time::Duration};

use container_protocol::InitProgram;
use tokio::time::sleep;

use crate::commands::{self, signal};

/// How often init is asked until it hears.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What powers systemd and the built-in init off.
const POWER_OFF: i32 = signal::REALTIME_MIN + 4;

/// The way of one init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMethod {
    /// A signal to init.
    Signal(i32),
    /// The machine's own `poweroff` program, which knows how to reach its init.
    PowerOffProgram,
}

impl StopMethod {
    /// The image's own word first, for an init of its own; then what each init documents:
    /// systemd(1) "SIGRTMIN+3: halts the machine" in containers and `halt.target` else, and
    /// SIGRTMIN+4 powers off; busybox init powers off on SIGUSR2.
    pub fn of(init: &InitProgram, image_signal: Option<&str>) -> StopMethod {
        let InitProgram::OfImage(program) = init else {
            return StopMethod::Signal(POWER_OFF);
        };
        if let Some(number) = image_signal.and_then(signal::number) {
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

    /// Asks the init with this process id, as soon as it can hear: one that has just begun takes
    /// no signals yet, and no word from `poweroff`.
    pub async fn ask(self, init: u32) {
        while let Err(error) = self.try_to_ask(init).await {
            crate::power::say(&format!("asking init to stop: {error}"));
            sleep(ASK_AGAIN).await;
        }
    }

    async fn try_to_ask(self, init: u32) -> io::Result<()> {
        match self {
            StopMethod::Signal(number) => {
                // One that is not taken is lost, or goes to a sigwait(3) that shows nowhere.
                while !signal::is_taken(init, number)? {
                    signal::send(init, number)?;
                    sleep(ASK_AGAIN).await;
                }
                signal::send(init, number)
            }
            StopMethod::PowerOffProgram => commands::run_as_root(init, "poweroff").await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_word_wins_over_what_the_init_is() {
        let of = |init: &str, word| StopMethod::of(&InitProgram::OfImage(init.to_owned()), word);
        assert_eq!(of("/usr/lib/systemd/systemd", None), StopMethod::Signal(38));
        assert_eq!(
            of("/usr/lib/systemd/systemd", Some("SIGRTMIN+3")),
            StopMethod::Signal(37)
        );
        assert_eq!(of("/bin/busybox", Some("12")), StopMethod::Signal(12));
        assert_eq!(of("/bin/busybox", None), StopMethod::Signal(12));
        assert_eq!(
            of("/sbin/init", Some("nonsense")),
            StopMethod::PowerOffProgram
        );
        assert_eq!(
            StopMethod::of(&InitProgram::BuiltIn, Some("SIGQUIT")),
            StopMethod::Signal(38),
            "the signal is for a program that does not run"
        );
    }
}
