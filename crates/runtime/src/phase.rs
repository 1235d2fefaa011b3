//! The phase of a running machine: what it is doing, and with what it can be reached meanwhile.
//!
//! ```text
//!   Purpose::Run                Purpose::ReadDisk, Purpose::CheckDisk
//!        │                                     │
//!        ▼          set up                     ▼
//!     Booting ───────────────▶ Up         ReadingDisk
//!      ▲   │                  │  │             │
//!      │   │ stop             │  │ stop        │ stop
//!      │   ▼                  │  ▼             │
//!      │  Stopping ◀──────────┼──┴─────────────┘
//!      │                      │
//!      └──────────────────────┘
//!            guest reboots
//! ```
//!
//! A machine that is up may be suspended, for which it is in `Suspending`; its runtime ends then,
//! or it is up again.
//!
//! A stop is a request to the runtime's socket, SIGTERM to the runtime, or the end of the process
//! that serves the shared home. Nothing leads out of `Stopping`: the runtime process ends when the
//! engine has ended. So a stop is never lost, whether it arrives before the machine has booted,
//! while the guest reboots, or after the guest has decided to reboot.
//!
//! The guest's reboot is noted before its engine ends. A machine whose engine ends in phase
//! `Booting` therefore boots again, in any other phase it is off.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use container_engine::LiveDisk;
use container_network::Network;
use container_protocol::{InitProgram, local::MachinePhase, mux::Opener};

use crate::launch::Purpose;

/// Time that the guest may take to unmount and power off after init's grace period.
const POWER_OFF: Duration = Duration::from_secs(30);

/// Phase of a running machine.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The engine starts, or the guest is being set up. Also the guest's reboot, from its
    /// announcement on.
    Booting,
    /// The guest is set up and serves commands.
    Up(Guest),
    /// The machine is being suspended. Nothing is served.
    Suspending {
        /// The guest, which continues if the suspension fails.
        guest: Guest,
        /// The order to stop that arrived meanwhile.
        order: Option<StopOrder>,
    },
    /// The machine was ordered to stop.
    Stopping {
        /// The strictest order so far.
        order: StopOrder,
        /// The guest while it shuts down; absent if it was not up, or has ended.
        guest: Option<Guest>,
    },
    /// The disk is read or checked; nothing of the machine runs.
    ReadingDisk {
        /// Opens streams to the agent; absent until it serves them.
        opener: Option<Opener>,
    },
}

/// A guest that is set up.
#[derive(Debug)]
pub(crate) struct Guest {
    /// Program that runs as the guest's init.
    pub init: InitProgram,
    /// Opens streams to its agent.
    pub opener: Opener,
    /// Network of the guest, in which clients publish ports.
    pub network: Arc<Network>,
    /// Disk of the machine.
    pub disk: Arc<dyn LiveDisk>,
}

/// An order to stop the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopOrder {
    /// Grace period in seconds after which the agent kills init.
    pub grace_seconds: u32,
    /// Time at which the engine is ended, whatever the guest does.
    pub deadline: Instant,
}

impl StopOrder {
    /// Creates an order to shut down, after which the guest powers off.
    pub(crate) fn in_order(grace_seconds: u32) -> StopOrder {
        StopOrder::new(grace_seconds, POWER_OFF)
    }

    /// Creates an order to end the engine at once.
    pub(crate) fn power_cut() -> StopOrder {
        StopOrder::new(0, Duration::ZERO)
    }

    /// Creates an order from now on. `power_off` is the time that the guest may take after the
    /// grace period.
    pub(crate) fn new(grace_seconds: u32, power_off: Duration) -> StopOrder {
        StopOrder {
            grace_seconds,
            deadline: Instant::now() + Duration::from_secs(grace_seconds.into()) + power_off,
        }
    }
}

impl Phase {
    /// Returns the phase in which a runtime starts.
    pub(crate) fn initial(purpose: &Purpose) -> Phase {
        match purpose {
            Purpose::Run(_) => Phase::Booting,
            Purpose::ReadDisk | Purpose::CheckDisk => Phase::ReadingDisk { opener: None },
        }
    }

    /// Notes that the guest is set up. A stop that arrived meanwhile stands.
    pub(crate) fn set_up(&mut self, guest: Guest) {
        match self {
            Phase::Stopping { guest: stopped, .. } => *stopped = Some(guest),
            Phase::Booting
            | Phase::Up(_)
            | Phase::Suspending { .. }
            | Phase::ReadingDisk { .. } => *self = Phase::Up(guest),
        }
    }

    /// Notes that the disk can be read or checked. A stop that arrived meanwhile stands.
    pub(crate) fn set_disk_ready(&mut self, ready: Opener) {
        if let Phase::ReadingDisk { opener } = self {
            *opener = Some(ready);
        }
    }

    /// Notes an order to stop. One that arrives while the machine stops may bring the deadline
    /// forward, and never puts it off.
    pub(crate) fn stop(&mut self, order: StopOrder) {
        if let Phase::Stopping { order: earlier, .. } = self {
            if order.deadline < earlier.deadline {
                *earlier = order;
            }
            return;
        }
        if let Phase::Suspending { order: noted, .. } = self {
            *noted = Some(order);
            return;
        }
        let guest = match std::mem::replace(self, Phase::Booting) {
            Phase::Up(guest) => Some(guest),
            Phase::Booting
            | Phase::Suspending { .. }
            | Phase::Stopping { .. }
            | Phase::ReadingDisk { .. } => None,
        };
        *self = Phase::Stopping { order, guest };
    }

    /// Notes that the guest has shut down to reboot, and that its engine is about to end. A machine
    /// that was ordered to stop does not reboot.
    pub(crate) fn reboot(&mut self) {
        match self {
            Phase::Up(_) => *self = Phase::Booting,
            Phase::Stopping { guest, .. } => *guest = None,
            Phase::Booting | Phase::Suspending { .. } | Phase::ReadingDisk { .. } => {}
        }
    }

    /// Begins to suspend the machine. Returns whether it was up.
    pub(crate) fn begin_suspension(&mut self) -> bool {
        match std::mem::replace(self, Phase::Booting) {
            Phase::Up(guest) => {
                let order = None;
                *self = Phase::Suspending { guest, order };
                true
            }
            other => {
                *self = other;
                false
            }
        }
    }

    /// Continues a machine that could not be suspended, over `opener`. A stop that arrived
    /// meanwhile stands.
    pub(crate) fn end_suspension(&mut self, opener: Opener) {
        match std::mem::replace(self, Phase::Booting) {
            Phase::Suspending { guest, order } => {
                let guest = Guest { opener, ..guest };
                *self = match order {
                    Some(order) => Phase::Stopping {
                        order,
                        guest: Some(guest),
                    },
                    None => Phase::Up(guest),
                };
            }
            other => *self = other,
        }
    }

    /// Notes that the engine has ended without an error. Returns whether the machine boots again.
    pub(crate) fn power_off(&mut self) -> bool {
        if matches!(self, Phase::Booting) {
            return true;
        }
        // Without an order the guest has powered off by itself.
        let now = StopOrder::new(0, Duration::ZERO);
        *self = Phase::Stopping {
            order: self.stop_order().unwrap_or(now),
            guest: None,
        };
        false
    }

    /// Returns whether the guest is set up and serves commands.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self, Phase::Up(_))
    }

    /// Returns the order to stop; absent if there was none.
    pub(crate) fn stop_order(&self) -> Option<StopOrder> {
        match self {
            Phase::Stopping { order, .. } => Some(*order),
            Phase::Booting
            | Phase::Up(_)
            | Phase::Suspending { .. }
            | Phase::ReadingDisk { .. } => None,
        }
    }

    /// Returns what opens streams to the agent; absent while nothing serves them.
    pub(crate) fn opener(&self) -> Option<&Opener> {
        match self {
            Phase::ReadingDisk { opener } => opener.as_ref(),
            _ => self.guest().map(|guest| &guest.opener),
        }
    }

    /// Returns the guest's network; absent while it has none.
    pub(crate) fn network(&self) -> Option<&Arc<Network>> {
        self.guest().map(|guest| &guest.network)
    }

    fn guest(&self) -> Option<&Guest> {
        match self {
            Phase::Up(guest) => Some(guest),
            Phase::Stopping { guest, .. } => guest.as_ref(),
            Phase::Booting | Phase::Suspending { .. } | Phase::ReadingDisk { .. } => None,
        }
    }

    /// Returns the machine's disk; absent while the guest is not up.
    pub(crate) fn disk(&self) -> Option<&Arc<dyn LiveDisk>> {
        Some(&self.guest()?.disk)
    }

    /// Returns the phase as clients see it.
    pub(crate) fn reported(&self) -> MachinePhase {
        match self {
            Phase::Booting => MachinePhase::Booting,
            Phase::Up(guest) => MachinePhase::Up {
                init: guest.init.clone(),
            },
            Phase::Stopping { guest, .. } => MachinePhase::Stopping {
                init: guest.as_ref().map(|guest| guest.init.clone()),
            },
            Phase::Suspending { .. } => MachinePhase::Suspending,
            Phase::ReadingDisk { .. } => MachinePhase::ReadingDisk,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{os::unix::net::UnixDatagram, path::Path};

    use container_engine::LiveDiskError;
    use container_machine::MachineAddress;
    use container_network::{Policy, Settings};
    use container_protocol::{
        Egress,
        mux::{self, Side},
    };
    use futures::{FutureExt, future::BoxFuture};
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    fn opener() -> Opener {
        let (host, _guest) = tokio::io::duplex(64);
        mux::multiplex(host.compat(), Side::Host).0
    }

    /// A disk that cannot be changed.
    #[derive(Debug)]
    struct NoDisk;

    impl LiveDisk for NoDisk {
        fn put_overlay<'a>(
            &'a self,
            _overlay: &'a Path,
        ) -> BoxFuture<'a, Result<(), LiveDiskError>> {
            async { Err(LiveDiskError::Refused("no engine".to_owned())) }.boxed()
        }

        fn pause_reason(&self) -> Option<String> {
            None
        }
    }

    /// Returns a guest that serves nothing.
    pub(crate) fn guest() -> Guest {
        let directory = tempfile::tempdir().unwrap();
        let (card, _engine) = UnixDatagram::pair().unwrap();
        let settings = Settings {
            id: "dev".to_owned(),
            address: MachineAddress::from_index(0),
            policy: Policy::default(),
            egress: Egress::default(),
            published: Vec::new(),
            peer_directory: directory.path().to_owned(),
            name_server: ([127, 0, 0, 1], 53).into(),
        };
        Guest {
            init: InitProgram::BuiltIn,
            opener: opener(),
            network: Arc::new(Network::start(card, settings).unwrap()),
            disk: Arc::new(NoDisk),
        }
    }

    fn order(grace_seconds: u32) -> StopOrder {
        StopOrder::new(grace_seconds, Duration::ZERO)
    }

    fn has_booted(phase: &Phase) -> bool {
        matches!(phase.reported(), MachinePhase::Up { .. })
    }

    fn is_stopping(phase: &Phase) -> bool {
        matches!(phase.reported(), MachinePhase::Stopping { .. })
    }

    #[test]
    fn a_reboot_boots_again_and_is_not_stopping() {
        let mut phase = Phase::Booting;
        phase.set_up(guest());
        assert!(has_booted(&phase) && phase.opener().is_some() && phase.network().is_some());
        phase.reboot();
        assert_eq!(phase.reported(), MachinePhase::Booting);
        assert!(phase.opener().is_none() && phase.network().is_none());
        assert!(phase.power_off(), "the machine boots again");
        phase.set_up(guest());
        assert!(has_booted(&phase), "{phase:?}");
    }

    #[test]
    fn a_stop_after_a_reboot_was_announced_ends_the_machine() {
        let mut phase = Phase::Up(guest());
        phase.reboot();
        phase.stop(order(60));
        assert!(is_stopping(&phase));
        assert!(!phase.power_off(), "the machine stays off");
        assert!(is_stopping(&phase));
    }

    #[test]
    fn a_stop_before_a_reboot_is_announced_ends_the_machine() {
        let mut phase = Phase::Up(guest());
        phase.stop(order(60));
        assert!(phase.opener().is_some(), "commands end in order");
        phase.reboot();
        assert!(is_stopping(&phase) && phase.opener().is_none());
        assert!(!phase.power_off(), "the machine stays off");
    }

    #[test]
    fn a_stop_during_a_boot_outlasts_the_boot() {
        let mut phase = Phase::Booting;
        phase.stop(order(60));
        assert_eq!(phase.reported(), MachinePhase::Stopping { init: None });
        phase.set_up(guest());
        assert!(is_stopping(&phase) && phase.stop_order().is_some());
        assert!(phase.opener().is_some());
        assert!(!phase.power_off());
    }

    #[test]
    fn a_second_stop_only_brings_the_deadline_forward() {
        let mut phase = Phase::Up(guest());
        let (short, long) = (order(5), order(60));
        phase.stop(long);
        phase.stop(short);
        assert_eq!(phase.stop_order(), Some(short));
        phase.stop(long);
        assert_eq!(phase.stop_order(), Some(short));
    }

    #[test]
    fn a_guest_that_powers_off_is_not_booted_again() {
        let mut phase = Phase::Up(guest());
        assert!(!phase.power_off());
        assert_eq!(phase.reported(), MachinePhase::Stopping { init: None });
    }

    #[test]
    fn a_disk_reader_never_is_up_and_stops() {
        let mut phase = Phase::initial(&Purpose::ReadDisk);
        assert_eq!(phase.reported(), MachinePhase::ReadingDisk);
        assert!(phase.opener().is_none());
        phase.set_disk_ready(opener());
        assert!(phase.opener().is_some());
        assert_eq!(phase.reported(), MachinePhase::ReadingDisk);
        phase.stop(order(60));
        phase.set_disk_ready(opener());
        assert!(is_stopping(&phase));
        assert!(!phase.power_off());
    }
}
