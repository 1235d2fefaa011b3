//! Supervises a machine that has booted, until its engine has ended.

use std::{future::pending, sync::Arc, time::Duration};

use container_engine::{EngineExit, Running};
use container_network::{HeldSockets, Network};
use container_protocol::{MountReply, local::MountShare};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    agent_control::{AgentControl, GuestEnd, Request},
    boot::Booted,
    clock::Comparisons,
    console::drain,
    file_identity::FileIdentity,
    guest_link::GuestLink,
    idle::{IdleWatch, Sample},
    launch::Launch,
    mounts,
    phase::StopOrder,
    shares::{LostShare, Shares},
    snapshot,
    state::{MachineState, MountOrder, SaveOrder, SnapshotOrder, SuspendOccasion, SuspendOrder},
    suspend::{Origin, Outcome, SuspendError, Suspension},
};

/// Time in seconds that a machine gets to stop when its shared home is lost. Processes that wait
/// for a file there never end, so a longer grace period would not help.
const HOME_LOST_GRACE: u32 = 5;

/// Timeout for the end of an engine that has disconnected from the shared home.
const ENGINE_END_TIMEOUT: Duration = Duration::from_secs(10);

/// End of a machine.
#[derive(Debug)]
pub(crate) enum MachineEnd {
    /// The engine has ended by itself, or was ended after a deadline.
    Engine(EngineExit),
    /// The guest has ended the engine without shutting down.
    GuestCrashed,
    /// The machine is suspended. The ports of one that was idle are held.
    Suspended(Option<HeldSockets>),
}

/// Serves the machine until its engine has ended. Passes orders to stop on to the guest, and ends
/// the engine when the guest misses their deadline. `launch` is that of this boot.
pub(crate) async fn supervise(
    booted: Booted,
    launch: &Launch,
    machine: &MachineState,
) -> MachineEnd {
    let mut supervisor = Supervisor::new(booted, launch, machine);
    loop {
        match supervisor.next_event(machine).await {
            Event::EngineEnded(exit) => {
                if supervisor.end.is_none() {
                    let end = supervisor.agent.read_announced_end().await;
                    supervisor.note_end(end, machine);
                }
                drain(&mut supervisor.console).await;
                return if supervisor.has_crashed(&exit) && !machine.is_stopping() {
                    MachineEnd::GuestCrashed
                } else {
                    MachineEnd::Engine(exit)
                };
            }
            Event::GuestEnds(end) => {
                supervisor.note_end(end, machine);
                // The agent waits for this before it powers off.
                supervisor.agent.close();
            }
            Event::ClockDue => supervisor.agent.request(Request::CompareClock),
            Event::StopOrdered(order) => supervisor.stop_guest(order),
            Event::SaveOrdered(SaveOrder::Suspend(order)) => {
                supervisor = match supervisor.suspend(order, launch, machine).await {
                    Ok((supervisor, _)) => supervisor,
                    Err(end) => return end,
                };
            }
            Event::SaveOrdered(SaveOrder::Snapshot(order)) => {
                if let Err(end) = supervisor.save(order, launch, machine).await {
                    return end;
                }
                // It did not count while the machine was paused.
                supervisor.agent.request(Request::CompareClock);
            }
            Event::MountsOrdered(MountOrder { wanted, reply }) => {
                // A guest that hangs must not delay a stop.
                tokio::select! {
                    replaced = supervisor.replace_mounts(wanted, launch, machine) => {
                        // Fails if the client has disconnected.
                        let _ = reply.send(replaced);
                    }
                    _ = machine.stop_order(None) => {}
                }
            }
            Event::IdleTimeChanged(idle_time) => supervisor.idle = IdleWatch::new(idle_time),
            Event::SampleDue => {
                let sample = supervisor.sample(machine);
                if supervisor.idle.observe(sample) {
                    supervisor = match supervisor.suspend_idle(sample, launch, machine).await {
                        Ok(supervisor) => supervisor,
                        Err(end) => return end,
                    };
                }
            }
            Event::DeadlineMissed => {
                tracing::error!("guest did not power off in time");
                supervisor.engine.terminate().await;
            }
            // The engine disconnects before it ends, so this may be noticed first.
            Event::ShareLost(LostShare::Home(Ok(status)) | LostShare::Mount(_, Ok(status)))
                if status.success() && supervisor.engine_ends().await => {}
            Event::ShareLost(LostShare::Home(status)) => {
                tracing::error!("process of the shared home ended ({status:?})");
                machine.stop_without_home(HOME_LOST_GRACE);
            }
            Event::ShareLost(LostShare::Mount(share, status)) => {
                tracing::error!("process of {} ended ({status:?})", share.target);
                machine.add_note(format!(
                    "{} cannot be used in the machine any more, because the process that shares \
                     {} has ended; restart the machine",
                    share.target,
                    share.source.display()
                ));
            }
        }
    }
}

/// Event in the life of a machine that has booted.
enum Event {
    EngineEnded(EngineExit),
    /// The control stream is to be closed.
    GuestEnds(GuestEnd),
    /// The guest is to compare its clock with the host's.
    ClockDue,
    StopOrdered(StopOrder),
    SaveOrdered(SaveOrder),
    MountsOrdered(MountOrder),
    IdleTimeChanged(Option<Duration>),
    /// The use of the machine is to be looked at.
    SampleDue,
    DeadlineMissed,
    ShareLost(LostShare),
}

struct Supervisor {
    engine: Box<dyn Running>,
    shares: Shares,
    /// Absent if only the disk is read.
    network: Option<Arc<Network>>,
    link: GuestLink,
    fingerprint: String,
    guest_files: Vec<FileIdentity>,
    agent: AgentControl,
    /// The guest's end; absent while it runs.
    end: Option<GuestEnd>,
    /// Whether a guest is to announce its end; one of which only the disk is read does not.
    announces_end: bool,
    clock: Comparisons,
    idle: IdleWatch,
    /// Why the machine was not suspended when it was idle last.
    idle_refusal: Option<String>,
    /// The order that was passed on to the guest.
    order: Option<StopOrder>,
    /// Deadline of `order`; absent after it was missed.
    deadline: Option<Instant>,
    console: JoinHandle<()>,
}

impl Supervisor {
    fn new(booted: Booted, launch: &Launch, machine: &MachineState) -> Supervisor {
        let announces_end = launch.run_settings().is_some();
        Supervisor {
            engine: booted.engine,
            shares: booted.shares,
            network: booted.network,
            link: booted.link,
            fingerprint: booted.fingerprint,
            guest_files: booted.guest_files,
            agent: AgentControl::new(booted.control, machine.heartbeat()),
            end: None,
            announces_end,
            clock: Comparisons::new(),
            idle: IdleWatch::new(machine.idle_time()),
            idle_refusal: None,
            order: None,
            deadline: None,
            console: booted.console,
        }
    }

    /// Waits for the next event. Cancel safe.
    async fn next_event(&mut self, machine: &MachineState) -> Event {
        tokio::select! {
            // In this order: a guest that powers off ends its engine, and that ends the file share.
            biased;
            exit = self.engine.wait() => Event::EngineEnded(exit),
            end = self.agent.end() => Event::GuestEnds(end),
            order = machine.stop_order(self.order) => Event::StopOrdered(order),
            () = passed(self.deadline) => {
                self.deadline = None;
                Event::DeadlineMissed
            }
            lost = self.shares.lost() => Event::ShareLost(lost),
            order = machine.save_order() => Event::SaveOrdered(order),
            order = machine.mount_order() => Event::MountsOrdered(order),
            () = self.clock.next() => Event::ClockDue,
            idle_time = machine.idle_time_changed(self.idle.idle_time()) => {
                Event::IdleTimeChanged(idle_time)
            }
            () = self.idle.due() => Event::SampleDue,
        }
    }

    fn note_end(&mut self, end: GuestEnd, machine: &MachineState) {
        if end == GuestEnd::Reboots {
            machine.reboot();
        }
        self.end = Some(end);
    }

    /// Returns whether the guest has ended the engine without shutting down.
    fn has_crashed(&self, exit: &EngineExit) -> bool {
        self.announces_end
            && self.end == Some(GuestEnd::Unannounced)
            && *exit == EngineExit::Orderly
    }

    /// Returns whether the engine, which has disconnected from the shared home, ends.
    async fn engine_ends(&mut self) -> bool {
        timeout(ENGINE_END_TIMEOUT, self.engine.wait())
            .await
            .is_ok()
    }

    /// Asks the guest to stop, unless it is about to end anyway.
    fn stop_guest(&mut self, order: StopOrder) {
        self.order = Some(order);
        self.deadline = Some(Instant::from_std(order.deadline));
        self.agent.request(Request::Stop {
            grace_seconds: order.grace_seconds,
        });
    }

    /// Returns the machine's use at this moment.
    fn sample(&self, machine: &MachineState) -> Sample {
        let network = self.network.as_ref();
        Sample {
            is_in_use: machine.has_sessions() || network.is_some_and(|it| it.has_connections()),
            sessions: machine.sessions_begun(),
            network_uses: network.map(|it| it.uses()).unwrap_or_default(),
            processor_time: self.engine.processor_time(),
        }
    }

    /// Suspends a machine that is idle. Returns the supervisor of a machine that continues, because
    /// it was used meanwhile or cannot be suspended. A reason that is new is noted for the user.
    async fn suspend_idle(
        self,
        idle: Sample,
        launch: &Launch,
        machine: &MachineState,
    ) -> Result<Supervisor, MachineEnd> {
        tracing::info!("the machine is idle");
        let network_uses = idle.network_uses;
        // The order would be cancelled without a receiver.
        let (reply, _receiver) = oneshot::channel();
        let order = SuspendOrder {
            occasion: SuspendOccasion::Idle { network_uses },
            reply,
        };
        let (mut supervisor, error) = self.suspend(order, launch, machine).await?;
        supervisor.idle.restart();
        let reason = error.to_string();
        let is_new = supervisor.idle_refusal.as_ref() != Some(&reason);
        if is_new && !matches!(error, SuspendError::Used) {
            tracing::warn!("the machine is idle and cannot be suspended: {reason}");
            machine.add_note(format!(
                "The machine was idle and could not be suspended: {reason}"
            ));
            supervisor.idle_refusal = Some(reason);
        }
        Ok(supervisor)
    }

    /// Makes `wanted` the machine's mounts.
    async fn replace_mounts(
        &mut self,
        wanted: Vec<MountShare>,
        launch: &Launch,
        machine: &MachineState,
    ) -> MountReply {
        let parts = mounts::Parts {
            engine: self.engine.as_mut(),
            shares: &mut self.shares,
            opener: &self.link.opener,
            launch,
            machine,
        };
        parts.replace(wanted).await
    }

    /// Saves the machine for a snapshot, after which it continues. Returns the end of one that does
    /// not.
    async fn save(
        &mut self,
        order: SnapshotOrder,
        launch: &Launch,
        machine: &MachineState,
    ) -> Result<(), MachineEnd> {
        let parts = snapshot::Parts {
            engine: self.engine.as_mut(),
            shares: &mut self.shares,
            link: &self.link,
            agent: &mut self.agent,
        };
        let origin = Origin {
            fingerprint: &self.fingerprint,
            guest_files: &self.guest_files,
        };
        let saved = parts.save(order, origin, launch, machine).await;
        saved.map_err(MachineEnd::Engine)
    }

    /// Suspends the machine. Returns the supervisor of a machine that continues, and why it does.
    async fn suspend(
        self,
        order: SuspendOrder,
        launch: &Launch,
        machine: &MachineState,
    ) -> Result<(Supervisor, SuspendError), MachineEnd> {
        let suspension = Suspension {
            engine: self.engine,
            shares: self.shares,
            network: self.network,
            link: self.link,
            agent: self.agent,
            is_agent_waiting: false,
        };
        let origin = Origin {
            fingerprint: &self.fingerprint,
            guest_files: &self.guest_files,
        };
        let outcome = suspension.run(order, origin, launch, machine).await;
        let (parts, error) = match outcome {
            Outcome::Continues(parts, error) => (*parts, error),
            Outcome::Suspended(held) => return Err(MachineEnd::Suspended(held)),
            Outcome::Lost(exit) => return Err(MachineEnd::Engine(exit)),
        };
        let Suspension {
            engine,
            shares,
            network,
            link,
            agent,
            is_agent_waiting: _,
        } = parts;
        let supervisor = Supervisor {
            engine,
            shares,
            network,
            link,
            agent,
            ..self
        };
        Ok((supervisor, error))
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use container_engine::{
        AttachedShare, LiveDisk, ResumeError, SaveError, ShareError, SharePort,
    };
    use container_protocol::{
        ControlEvent, ControlRequest, frame,
        local::{MachinePhase, SuspendReply},
        mux::{self, Incoming, Opener, Side, Stream},
    };
    use futures::{FutureExt, future::BoxFuture};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
        sync::watch,
        task::yield_now,
        time::sleep,
    };
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;
    use crate::{clock, guest_streams::Targets, launch, phase::tests::guest};

    fn is_orderly(end: &MachineEnd) -> bool {
        matches!(end, MachineEnd::Engine(EngineExit::Orderly))
    }

    /// An engine whose process ends when the test says so.
    struct FakeEngine(watch::Sender<bool>);

    impl Running for FakeEngine {
        fn wait(&mut self) -> BoxFuture<'_, EngineExit> {
            let mut has_ended = self.0.subscribe();
            async move {
                has_ended.wait_for(|it| *it).await.unwrap();
                EngineExit::Orderly
            }
            .boxed()
        }

        fn save<'a>(&'a mut self, _: &'a Path) -> BoxFuture<'a, Result<(), SaveError>> {
            async { Err(SaveError::Failed("not a real engine".to_owned())) }.boxed()
        }

        fn pause(&mut self) -> BoxFuture<'_, Result<(), SaveError>> {
            async { Ok(()) }.boxed()
        }

        fn resume(&mut self) -> BoxFuture<'_, Result<(), ResumeError>> {
            async { Ok(()) }.boxed()
        }

        fn attach(&mut self, _: AttachedShare) -> BoxFuture<'_, Result<(), ShareError>> {
            async { Ok(()) }.boxed()
        }

        fn detach(&mut self, _: SharePort) -> BoxFuture<'_, Result<(), ShareError>> {
            async { Ok(()) }.boxed()
        }

        fn processor_time(&self) -> Option<Duration> {
            Some(Duration::ZERO)
        }

        fn terminate(&mut self) -> BoxFuture<'_, ()> {
            self.0.send_replace(true);
            async {}.boxed()
        }

        fn disk(&self) -> Option<Arc<dyn LiveDisk>> {
            None
        }
    }

    /// A machine that has booted, with the test as its guest and its engine.
    struct Fixture {
        machine: std::sync::Arc<MachineState>,
        supervised: JoinHandle<MachineEnd>,
        agent: Stream,
        has_ended: watch::Sender<bool>,
        _streams: (Opener, Opener, Incoming),
    }

    impl Fixture {
        async fn new() -> Fixture {
            let machine = MachineState::new(&launch::tests::example());
            machine.set_up(guest());
            let (host, guest) = tokio::io::duplex(1 << 16);
            let (opener, _, driver) = mux::multiplex(host.compat(), Side::Host);
            tokio::spawn(driver);
            let (guest_opener, mut incoming, driver) = mux::multiplex(guest.compat(), Side::Guest);
            tokio::spawn(driver);
            let mut control = opener.open().await.unwrap();
            // A stream reaches the other side with its first bytes.
            control.write_all(b"x").await.unwrap();
            let mut agent = incoming.recv().await.unwrap();
            agent.read_u8().await.unwrap();
            let has_ended = watch::Sender::new(false);
            let targets = Targets::new("/nonexistent".into(), Arc::clone(&machine), None);
            let booted = Booted {
                engine: Box::new(FakeEngine(has_ended.clone())),
                shares: Shares::default(),
                network: None,
                link: GuestLink::new(UnixStream::pair().unwrap().0, Arc::new(targets)).unwrap(),
                fingerprint: String::new(),
                guest_files: Vec::new(),
                control,
                console: tokio::spawn(async {}),
                make_template: false,
            };
            let supervised = tokio::spawn({
                let machine = machine.clone();
                async move { supervise(booted, &launch::tests::example(), &machine).await }
            });
            Fixture {
                machine,
                supervised,
                agent,
                has_ended,
                _streams: (opener, guest_opener, incoming),
            }
        }

        /// Announces a reboot as the agent does, and waits until the runtime has noted it.
        async fn reboot(&mut self) {
            let event = ControlEvent::Rebooting;
            frame::write(&mut self.agent, &event).await.unwrap();
            let read = self.agent.read_u8().await;
            assert!(read.is_err(), "the runtime closes the stream");
        }

        /// Announces the power-off as the agent does, and ends the engine. Returns whether the
        /// machine boots again.
        async fn power_off(mut self) -> bool {
            // Fails if a reboot was announced.
            let _ = frame::write(&mut self.agent, &ControlEvent::PoweringOff).await;
            self.has_ended.send_replace(true);
            let exit = timeout(Duration::from_secs(10), self.supervised).await;
            let exit = exit.unwrap().unwrap();
            assert!(is_orderly(&exit), "{exit:?}");
            self.machine.power_off()
        }

        fn phase(&self) -> MachinePhase {
            self.machine.report().phase
        }
    }

    #[tokio::test]
    async fn a_guest_that_reboots_is_booted_again() {
        let mut fixture = Fixture::new().await;
        fixture.reboot().await;
        assert_eq!(fixture.phase(), MachinePhase::Booting);
        assert!(fixture.power_off().await);
    }

    #[tokio::test]
    async fn an_engine_that_ends_unannounced_has_crashed() {
        let fixture = Fixture::new().await;
        drop(fixture.agent);
        fixture.has_ended.send_replace(true);
        let end = fixture.supervised.await.unwrap();
        assert!(matches!(end, MachineEnd::GuestCrashed), "{end:?}");
    }

    #[tokio::test]
    async fn a_reboot_that_is_read_after_the_engines_end_is_not_lost() {
        let mut fixture = Fixture::new().await;
        fixture.has_ended.send_replace(true);
        let event = ControlEvent::Rebooting;
        frame::write(&mut fixture.agent, &event).await.unwrap();
        assert!(fixture.power_off().await);
    }

    #[tokio::test]
    async fn a_stop_between_reboot_and_power_off_is_not_lost() {
        let mut fixture = Fixture::new().await;
        fixture.reboot().await;
        fixture.machine.stop(60);
        yield_now().await;
        assert_eq!(fixture.phase(), MachinePhase::Stopping { init: None });
        assert!(!fixture.power_off().await);
    }

    #[tokio::test]
    async fn a_stop_before_a_reboot_is_not_lost() {
        let mut fixture = Fixture::new().await;
        fixture.machine.stop(60);
        let request: ControlRequest = frame::read(&mut fixture.agent).await.unwrap();
        assert_eq!(request, ControlRequest::Stop { grace_seconds: 60 });
        fixture.reboot().await;
        assert!(!fixture.power_off().await);
    }

    #[tokio::test]
    async fn a_request_for_the_clock_is_answered_and_does_not_end_the_machine() {
        let mut fixture = Fixture::new().await;
        for _ in 0..2 {
            let before = clock::now();
            let event = ControlEvent::ClockRequested;
            frame::write(&mut fixture.agent, &event).await.unwrap();
            let request: ControlRequest = frame::read(&mut fixture.agent).await.unwrap();
            let ControlRequest::SetClock(now) = request else {
                panic!("{request:?}");
            };
            assert!(now >= before);
        }
        fixture.reboot().await;
        assert!(fixture.power_off().await);
    }

    #[tokio::test]
    async fn an_engine_is_ended_at_the_deadline() {
        let fixture = Fixture::new().await;
        fixture.machine.stop_without_home(0);
        let exit = timeout(Duration::from_secs(10), fixture.supervised).await;
        let exit = exit.unwrap().unwrap();
        assert!(is_orderly(&exit), "{exit:?}");
    }

    #[tokio::test]
    async fn a_waiting_client_is_released_with_the_state() {
        let fixture = Fixture::new().await;
        let (mut client, connection) = tokio::net::UnixStream::pair().unwrap();
        let machine = fixture.machine.clone();
        machine.stop_for(connection, StopOrder::in_order(60));
        assert!(!fixture.power_off().await);
        drop(machine);
        let read = timeout(Duration::from_secs(10), client.read_u8()).await;
        assert!(read.unwrap().is_err(), "the connection is closed");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_machine_that_cannot_be_suspended_is_noted_once() {
        let fixture = Fixture::new().await;
        let machine = Arc::clone(&fixture.machine);
        sleep(Duration::from_secs(1000)).await;
        assert_eq!(machine.take_notes(), [""; 0]);
        machine.set_idle_time(Some(Duration::from_secs(20)));
        sleep(Duration::from_secs(1000)).await;
        let notes = machine.take_notes();
        assert!(notes.len() == 1 && notes[0].contains("idle"), "{notes:?}");
        assert!(matches!(fixture.phase(), MachinePhase::Up { .. }));
        fixture.power_off().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_does_not_answer_is_unresponsive() {
        let mut fixture = Fixture::new().await;
        let unresponsive = |fixture: &Fixture| fixture.machine.report().unresponsive;
        let request: ControlRequest = frame::read(&mut fixture.agent).await.unwrap();
        assert_eq!(request, ControlRequest::CompareClock);
        assert!(!unresponsive(&fixture));
        sleep(Duration::from_secs(40)).await;
        assert!(unresponsive(&fixture));
        let event = ControlEvent::ClockRequested;
        frame::write(&mut fixture.agent, &event).await.unwrap();
        // Those that were sent meanwhile come first.
        while frame::read::<ControlRequest>(&mut fixture.agent)
            .await
            .unwrap()
            == ControlRequest::CompareClock
        {}
        assert!(!unresponsive(&fixture));
        fixture.power_off().await;
    }

    #[tokio::test]
    async fn a_machine_with_sessions_is_not_suspended() {
        let mut fixture = Fixture::new().await;
        let session = fixture.machine.begin_session();
        let refused = fixture.machine.suspend(false).await.unwrap();
        assert!(matches!(refused, SuspendReply::Refused(_)), "{refused:?}");
        drop(session);
        fixture.reboot().await;
        assert!(fixture.power_off().await);
    }
}
