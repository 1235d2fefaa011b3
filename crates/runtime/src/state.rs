//! The state of a running machine, shared by the tasks of its runtime.

use std::{
    collections::BTreeMap,
    future::pending,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use container_engine::LiveDisk;
use container_network::Network;
use container_protocol::{
    Egress, MountProblem, MountReply, PublishedPort,
    local::{BootKind, MountShare, RuntimeReport, SnapshotReply, SuspendReply},
    mux::Opener,
};
use futures::future::join_all;
use tokio::{
    net::UnixStream,
    sync::{Notify, oneshot, watch},
    time::sleep,
};

use crate::{
    heartbeat::Heartbeat,
    home_relay::HomeRelay,
    launch::Launch,
    phase::{Guest, Phase, StopOrder},
    sockets::Sockets,
    ssh_agents::SshAgents,
};

/// Interval at which the number of clients is read before a suspension.
const SESSION_INTERVAL: Duration = Duration::from_millis(10);

/// State of a running machine.
#[derive(Debug)]
pub(crate) struct MachineState {
    /// The report's fixed part; its phase is that of the start.
    about: RuntimeReport,
    phase: watch::Sender<Phase>,
    /// How the machine was booted last.
    boot: Mutex<Option<BootKind>>,
    requested: Mutex<Requested>,
    egress: Mutex<CurrentEgress>,
    /// Whether the machine may use no SSH agent, and follows no resolver of the host.
    is_isolated: bool,
    ssh_agents: SshAgents,
    sockets: Sockets,
    /// The file shares' connections for the agent, by virtio-fs tag.
    relays: Mutex<BTreeMap<String, Arc<HomeRelay>>>,
    /// The mounts that the machine is to have.
    mounts: Mutex<Vec<MountShare>>,
    mount_problems: Mutex<Vec<MountProblem>>,
    /// The order to replace the mounts that is to be carried out next.
    mount_order: Mutex<Option<MountOrder>>,
    mounts_ordered: Notify,
    /// The file that the engine writes the disk to.
    disk_file: Mutex<PathBuf>,
    /// Notes for the user that no client has asked for yet.
    notes: Mutex<Vec<String>>,
    /// The order to save the machine that is to be carried out next.
    save_order: Mutex<Option<SaveOrder>>,
    save_ordered: Notify,
    /// Number of clients' connections to the guest.
    sessions: Arc<()>,
    /// Number of all those since the start.
    sessions_begun: AtomicU64,
    /// Idle time after which the machine is suspended.
    idle_time: watch::Sender<Option<Duration>>,
    /// Connections of clients that wait for the runtime's end. They are closed when this is
    /// dropped, which happens after the machine's processes have ended.
    heartbeat: Arc<Heartbeat>,
    waiting: Mutex<Vec<UnixStream>>,
}

/// An order to save the machine.
#[derive(Debug)]
pub(crate) enum SaveOrder {
    Suspend(SuspendOrder),
    Snapshot(SnapshotOrder),
}

/// An order to replace the mounts.
#[derive(Debug)]
pub(crate) struct MountOrder {
    pub wanted: Vec<MountShare>,
    pub reply: oneshot::Sender<MountReply>,
}

/// An order to save the machine, which continues. It is cancelled when its receiver is dropped.
#[derive(Debug)]
pub(crate) struct SnapshotOrder {
    /// The file to which the disk is written from now on.
    pub overlay: PathBuf,
    /// The directory for the memory.
    pub memory: PathBuf,
    pub reply: oneshot::Sender<SnapshotReply>,
}

/// An order to suspend the machine. It is cancelled when its receiver is dropped.
#[derive(Debug)]
pub(crate) struct SuspendOrder {
    pub occasion: SuspendOccasion,
    pub reply: oneshot::Sender<SuspendReply>,
}

/// Why a machine is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SuspendOccasion {
    /// A client has asked for it.
    Requested {
        /// Whether commands that run for clients are ended.
        force: bool,
    },
    /// The machine is idle. Its ports are held, and the first use resumes it.
    Idle {
        /// Number of the uses of its network when it was found idle.
        network_uses: u64,
    },
}

/// A client's connection to the guest, until this is dropped.
#[derive(Debug)]
pub(crate) struct Session(#[expect(dead_code, reason = "only counted")] Arc<()>);

/// Egress rules, and the network that has them.
#[derive(Debug, Default)]
struct CurrentEgress {
    rules: Egress,
    /// That of the last boot, also while the machine is not up.
    network: Weak<Network>,
}

/// Settings that clients have changed since the launch.
#[derive(Debug, Default)]
struct Requested {
    /// Published ports; those of the launch if absent.
    published: Option<Vec<PublishedPort>>,
}

impl MachineState {
    /// Creates the state of a machine that starts to boot.
    pub(crate) fn new(launch: &Launch) -> Arc<MachineState> {
        let phase = Phase::initial(&launch.purpose);
        let now = jiff::Timestamp::now().as_nanosecond();
        let settings = launch.run_settings();
        let network = settings.map(|settings| &settings.network);
        let sockets = settings.map(|settings| settings.sockets.clone());
        let sockets = sockets.unwrap_or_default();
        Arc::new(MachineState {
            about: RuntimeReport {
                container_id: launch.container_id.clone(),
                started_nanoseconds: i64::try_from(now).unwrap_or_default(),
                ip_address: network.map(|network| network.address.host()),
                pid: std::process::id(),
                phase: phase.reported(),
                boot: None,
                pause_reason: None,
                unresponsive: false,
            },
            phase: watch::Sender::new(phase),
            boot: Mutex::default(),
            requested: Mutex::default(),
            egress: Mutex::new(CurrentEgress {
                rules: network.map_or_else(Egress::default, |network| network.egress.clone()),
                network: Weak::new(),
            }),
            is_isolated: settings.is_some_and(|settings| settings.isolated),
            ssh_agents: SshAgents::default(),
            relays: Mutex::default(),
            mounts: Mutex::new(settings.map(|it| it.mounts.clone()).unwrap_or_default()),
            mount_problems: Mutex::default(),
            mount_order: Mutex::default(),
            mounts_ordered: Notify::new(),
            sockets: Sockets::new(&launch.runtime_directory, sockets),
            disk_file: Mutex::new(launch.disk.clone()),
            notes: Mutex::default(),
            save_order: Mutex::default(),
            save_ordered: Notify::new(),
            sessions: Arc::default(),
            sessions_begun: AtomicU64::default(),
            idle_time: watch::Sender::new(launch.idle_suspend.after()),
            heartbeat: Arc::default(),
            waiting: Mutex::default(),
        })
    }

    /// Returns the report for clients.
    pub(crate) fn report(&self) -> RuntimeReport {
        let phase = self.phase.borrow();
        RuntimeReport {
            phase: phase.reported(),
            boot: lock(&self.boot).clone(),
            pause_reason: phase.disk().and_then(|disk| disk.pause_reason()),
            unresponsive: phase.is_up() && self.heartbeat.is_overdue(),
            ..self.about.clone()
        }
    }

    /// Notes how the machine is booted.
    pub(crate) fn set_boot(&self, boot: BootKind) {
        *lock(&self.boot) = Some(boot);
    }

    /// Notes that the guest is set up.
    pub(crate) fn set_up(&self, guest: Guest) {
        self.phase.send_modify(|phase| phase.set_up(guest));
    }

    /// Notes that the machine's disk can be read.
    pub(crate) fn set_disk_ready(&self, opener: Opener) {
        self.phase.send_modify(|phase| phase.set_disk_ready(opener));
    }

    /// Orders the machine to stop.
    pub(crate) fn stop(&self, grace_seconds: u32) {
        self.order_stop(StopOrder::in_order(grace_seconds));
    }

    fn order_stop(&self, order: StopOrder) {
        self.phase.send_modify(|phase| phase.stop(order));
    }

    /// Orders the machine to stop, and keeps the client's connection open until the runtime ends.
    pub(crate) fn stop_for(&self, client: UnixStream, order: StopOrder) {
        // First, so that the connection is never closed before the order is noted.
        lock(&self.waiting).push(client);
        self.order_stop(order);
    }

    /// Keeps a client's connection open until the runtime ends.
    pub(crate) fn release_at_end(&self, client: UnixStream) {
        lock(&self.waiting).push(client);
    }

    /// Orders the machine to be suspended. Returns the receiver of the result, without which the
    /// order is cancelled.
    pub(crate) fn suspend(&self, force: bool) -> oneshot::Receiver<SuspendReply> {
        let (reply, result) = oneshot::channel();
        let occasion = SuspendOccasion::Requested { force };
        self.order_save(SaveOrder::Suspend(SuspendOrder { occasion, reply }));
        result
    }

    /// Orders the machine to be saved, and to continue with `overlay` as its disk. Returns the
    /// receiver of the result, without which the order is cancelled.
    pub(crate) fn snapshot(
        &self,
        overlay: PathBuf,
        memory: PathBuf,
    ) -> oneshot::Receiver<SnapshotReply> {
        let (reply, result) = oneshot::channel();
        self.order_save(SaveOrder::Snapshot(SnapshotOrder {
            overlay,
            memory,
            reply,
        }));
        result
    }

    fn order_save(&self, order: SaveOrder) {
        if let Some(other) = lock(&self.save_order).replace(order) {
            let message = "another request to save the machine has replaced this one".to_owned();
            // Fails if the client has disconnected.
            let _ = match other {
                SaveOrder::Suspend(it) => it.reply.send(SuspendReply::Failed(message)).is_ok(),
                SaveOrder::Snapshot(it) => it.reply.send(SnapshotReply::Refused(message)).is_ok(),
            };
        }
        self.save_ordered.notify_one();
    }

    /// Waits for an order to save the machine. Cancel safe.
    pub(crate) async fn save_order(&self) -> SaveOrder {
        loop {
            if let Some(order) = lock(&self.save_order).take() {
                return order;
            }
            self.save_ordered.notified().await;
        }
    }

    /// Whether the machine is up.
    pub(crate) fn is_up(&self) -> bool {
        self.phase.borrow().is_up()
    }

    /// Returns whether the guest answers.
    pub(crate) fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.heartbeat)
    }

    /// Begins to suspend the machine. Returns whether it was up.
    pub(crate) fn begin_suspension(&self) -> bool {
        let mut was_up = false;
        self.phase
            .send_modify(|phase| was_up = phase.begin_suspension());
        was_up
    }

    /// Notes that the machine continues, and how its agent is reached.
    pub(crate) fn end_suspension(&self, opener: Opener) {
        self.phase.send_modify(|phase| phase.end_suspension(opener));
    }

    /// Counts a client's connection to the guest.
    pub(crate) fn begin_session(&self) -> Session {
        self.sessions_begun.fetch_add(1, Ordering::Relaxed);
        Session(Arc::clone(&self.sessions))
    }

    /// Whether clients are connected to the guest.
    pub(crate) fn has_sessions(&self) -> bool {
        Arc::strong_count(&self.sessions) > 1
    }

    /// Returns the number of connections of clients since the start.
    pub(crate) fn sessions_begun(&self) -> u64 {
        self.sessions_begun.load(Ordering::Relaxed)
    }

    /// Sets the idle time after which the machine is suspended.
    pub(crate) fn set_idle_time(&self, idle_time: Option<Duration>) {
        self.idle_time.send_replace(idle_time);
    }

    /// Waits until the idle time is another than `known`, and returns it. Cancel safe.
    pub(crate) async fn idle_time_changed(&self, known: Option<Duration>) -> Option<Duration> {
        let mut idle_time = self.idle_time.subscribe();
        while *idle_time.borrow_and_update() == known {
            // An error is not possible: the sender lives as long as `self`.
            let _ = idle_time.changed().await;
        }
        *idle_time.borrow()
    }

    /// Returns the idle time after which the machine is suspended.
    pub(crate) fn idle_time(&self) -> Option<Duration> {
        *self.idle_time.borrow()
    }

    /// Waits until no clients are connected to the guest.
    pub(crate) async fn sessions_ended(&self) {
        while self.has_sessions() {
            sleep(SESSION_INTERVAL).await;
        }
    }

    /// Orders the machine to stop within `grace_seconds` altogether, if it has booted or is
    /// stopping: its shared home is lost, and what waits for a file there never ends.
    pub(crate) fn stop_without_home(&self, grace_seconds: u32) {
        let order = StopOrder::new(grace_seconds, Duration::ZERO);
        self.phase.send_if_modified(|phase| {
            // The server also ends with the engine of a guest that reboots.
            let is_booting = matches!(phase, Phase::Booting);
            if !is_booting {
                phase.stop(order);
            }
            !is_booting
        });
    }

    /// Notes that the guest is about to reboot.
    pub(crate) fn reboot(&self) {
        self.phase.send_modify(Phase::reboot);
    }

    /// Notes that the engine has ended without an error. Returns whether the machine boots again.
    pub(crate) fn power_off(&self) -> bool {
        let mut boots_again = false;
        self.phase
            .send_modify(|phase| boots_again = phase.power_off());
        boots_again
    }

    /// Returns whether the machine was ordered to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.phase.borrow().stop_order().is_some()
    }

    /// Waits for an order to stop other than `known`. Cancel safe.
    pub(crate) async fn stop_order(&self, known: Option<StopOrder>) -> StopOrder {
        let mut phase = self.phase.subscribe();
        let is_new = |phase: &Phase| phase.stop_order().is_some_and(|it| Some(it) != known);
        let order = phase.wait_for(|phase| is_new(phase)).await;
        match order.ok().and_then(|phase| phase.stop_order()) {
            Some(order) => order,
            // Not reached: the sender lives as long as `self`.
            None => pending().await,
        }
    }

    /// Returns what opens streams to the guest agent; absent while nothing serves them.
    pub(crate) fn opener(&self) -> Option<Opener> {
        self.phase.borrow().opener().cloned()
    }

    /// Removes all connections of file shares.
    pub(crate) fn clear_relays(&self) {
        lock(&self.relays).clear();
    }

    /// Adds the connection of a file share.
    pub(crate) fn add_relay(&self, tag: String, relay: Arc<HomeRelay>) {
        lock(&self.relays).insert(tag, relay);
    }

    /// Removes the connection of a file share.
    pub(crate) fn remove_relay(&self, tag: &str) {
        lock(&self.relays).remove(tag);
    }

    /// Returns the connection of a file share.
    pub(crate) fn relay(&self, tag: &str) -> Option<Arc<HomeRelay>> {
        lock(&self.relays).get(tag).cloned()
    }

    /// Waits until the guest knows what the host has changed in the shared directories.
    pub(crate) async fn sync_shares(&self) {
        let relays: Vec<_> = lock(&self.relays).values().cloned().collect();
        join_all(relays.iter().map(|relay| relay.sync())).await;
    }

    /// Returns the mounts that the machine is to have.
    pub(crate) fn wanted_mounts(&self) -> Vec<MountShare> {
        lock(&self.mounts).clone()
    }

    /// Sets the mounts that later boots have.
    pub(crate) fn set_wanted_mounts(&self, mounts: Vec<MountShare>) {
        *lock(&self.mounts) = mounts;
    }

    /// Returns the mounts that were not possible.
    pub(crate) fn mount_problems(&self) -> Vec<MountProblem> {
        lock(&self.mount_problems).clone()
    }

    /// Sets the mounts that were not possible.
    pub(crate) fn set_mount_problems(&self, problems: Vec<MountProblem>) {
        *lock(&self.mount_problems) = problems;
    }

    /// Adds mounts that the guest found not to be possible.
    pub(crate) fn add_mount_problems(&self, problems: Vec<MountProblem>) {
        lock(&self.mount_problems).extend(problems);
    }

    /// Orders the mounts to be replaced. Returns the receiver of the result.
    pub(crate) fn replace_mounts(&self, wanted: Vec<MountShare>) -> oneshot::Receiver<MountReply> {
        let (reply, result) = oneshot::channel();
        // The sender of an order that is replaced is dropped, which its client notices.
        *lock(&self.mount_order) = Some(MountOrder { wanted, reply });
        self.mounts_ordered.notify_one();
        result
    }

    /// Waits for an order to replace the mounts. Cancel safe.
    pub(crate) async fn mount_order(&self) -> MountOrder {
        loop {
            if let Some(order) = lock(&self.mount_order).take() {
                return order;
            }
            self.mounts_ordered.notified().await;
        }
    }

    /// Returns the machine's network; absent while it has none.
    pub(crate) fn network(&self) -> Option<Arc<Network>> {
        self.phase.borrow().network().cloned()
    }

    /// Returns the machine's disk; absent while the guest is not up.
    pub(crate) fn disk(&self) -> Option<Arc<dyn LiveDisk>> {
        self.phase.borrow().disk().cloned()
    }

    /// Returns the file that the engine writes the disk to, also at the next boot.
    pub(crate) fn disk_file(&self) -> PathBuf {
        lock(&self.disk_file).clone()
    }

    /// Notes that the engine writes to another file.
    pub(crate) fn set_disk_file(&self, file: PathBuf) {
        *lock(&self.disk_file) = file;
    }

    /// Adds a note for the user, which the next client that asks shows.
    pub(crate) fn add_note(&self, note: String) {
        lock(&self.notes).push(note);
    }

    /// Returns the notes since the last call.
    pub(crate) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.notes))
    }

    /// Returns whether the machine is isolated.
    pub(crate) fn is_isolated(&self) -> bool {
        self.is_isolated
    }

    /// Returns the SSH agents that the machine may use.
    pub(crate) fn ssh_agents(&self) -> &SshAgents {
        &self.ssh_agents
    }

    /// Returns the forwarded sockets.
    pub(crate) fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// Returns the ports that a boot publishes: the requested ones, or else those of the launch.
    pub(crate) fn published(&self, launched: &[PublishedPort]) -> Vec<PublishedPort> {
        let requested = lock(&self.requested);
        requested.published.as_deref().unwrap_or(launched).to_vec()
    }

    /// Sets the ports that later boots publish.
    pub(crate) fn set_published(&self, ports: Vec<PublishedPort>) {
        lock(&self.requested).published = Some(ports);
    }

    /// Starts the network of a boot with the current egress rules.
    pub(crate) fn start_network(
        &self,
        start: impl FnOnce(Egress) -> io::Result<Network>,
    ) -> io::Result<Arc<Network>> {
        let mut egress = lock(&self.egress);
        let network = Arc::new(start(egress.rules.clone())?);
        egress.network = Arc::downgrade(&network);
        Ok(network)
    }

    /// Replaces the egress rules, in the network and for later boots.
    pub(crate) async fn set_egress(&self, rules: Egress) {
        let network = {
            let mut egress = lock(&self.egress);
            egress.rules = rules.clone();
            egress.network.upgrade()
        };
        if let Some(network) = network {
            network.set_egress(rules).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
