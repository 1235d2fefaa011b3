//! Names and attributes that the guest may cache for long, because a change on the host ends it.
//!
//! Our kernel for guests (`guest/patches`) expires on request what it has cached of a directory.
//!
//! | step | where |
//! |---|---|
//! | a directory in which the guest looks up names gets a mark, before its files are read | [`Expiry::validity`] |
//! | the kernel reports changes; those of the guest, which this process made, are ignored | [`Expiry::read`] |
//! | mounts and unmounts of the host count as changes of all directories | [`Expiry::read_mounts`] |
//! | the agent has the guest's kernel expire what it has cached of the directory | [`Expiry::send`] |
//! | before a command starts, the runtime waits until this is done | [`Expiry::sync`] |
//!
//! An answer with old attributes may reach the guest after that, so the same is done a second later
//! again. After a change, what is in the directory is cached for a second only, until nothing has
//! changed for a while. So further changes need no request, however many they are.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    fs::File,
    io,
    sync::{
        Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use container_protocol::HomeRequest;
use libc::{FAN_DELETE_SELF, FAN_Q_OVERFLOW};

use crate::{
    agent::Agent,
    events::{EventFile, Group, Record, records},
    local_answers::SHORT_VALIDITY,
    mounts::Mounts,
    table::GuestInode,
};

/// Time for which the guest may cache names and attributes that it expires on request. It limits
/// how long changes are missed that the kernel does not report: those made through a memory map.
const LONG_VALIDITY: Duration = Duration::from_secs(60);

/// Time without a change after which names and attributes are cached for long again.
const CALM: Duration = Duration::from_secs(2);

/// Time after which the guest expires a directory again.
const AGAIN: Duration = Duration::from_secs(1);

/// Time in which the guest expires directories, unless something is wrong.
const EXPIRY_TIME: Duration = Duration::from_secs(5);

/// Number of directories with a mark. Each keeps about a kilobyte of the host's memory.
const MAX_DIRECTORIES: usize = 1 << 14;

/// Number of files and directories in a message to the agent.
const MAX_EXPIRED: usize = 1 << 12;

/// Size of the buffer for the kernel's events in bytes.
const BUFFER_SIZE: usize = 64 << 10;

/// What the guest caches for long.
#[derive(Debug, Default)]
pub(crate) struct Expiry {
    /// The marks. Absent if they are impossible, or if the guest has no agent.
    group: OnceLock<Group>,
    /// Whether the guest's kernel expires names on request.
    is_capable: AtomicBool,
    state: Mutex<State>,
    state_changed: Condvar,
    /// For events. It stays locked until they have been added to the state, so that
    /// [`sync`](Expiry::sync) misses none.
    buffer: Mutex<Vec<u8>>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the agent has begun to serve.
    has_agent: bool,
    /// The directories with a mark.
    directories: HashMap<GuestInode, Attention>,
    /// Those of which the guest may have cached a listing that is current.
    listed: HashSet<GuestInode>,
    by_file: HashMap<EventFile, GuestInode>,
    /// What the guest is to expire next.
    expired: BTreeSet<u64>,
    /// What it is to expire again, by time.
    again: VecDeque<(Instant, GuestInode)>,
    /// Number of requests to the agent, and of those that it has answered.
    sent: u64,
    answered: u64,
    last_sent: Option<Instant>,
    /// When something has changed last.
    last_changed: Option<Instant>,
    /// Number of the requests to [synchronize](Expiry::sync) that are to be answered.
    syncs: u32,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// The guest is to expire these files and directories.
    Expire(Vec<u64>),
    /// A request to synchronize is to be answered.
    Synced,
}

/// The attention that changes in a directory get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attention {
    /// They are reported from this time on. It is in the future after a change.
    From(Instant),
    /// The mark is not set yet, or cannot be set.
    None,
}

impl Expiry {
    /// Notes whether the kernel of a guest that begins its session expires names on request.
    pub(crate) fn begin(&self, is_capable: bool) {
        self.is_capable.store(is_capable, Ordering::Relaxed);
    }

    /// Has changes of the host reported by a group without marks.
    pub(crate) fn set_group(&self, group: Group) {
        // It is set once.
        let _ = self.group.set(group);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the guest may cache anything for long.
    pub(crate) fn is_possible(&self) -> bool {
        self.group().is_some()
    }

    /// Returns the marks, if the guest expires names on request.
    fn group(&self) -> Option<&Group> {
        let is_capable = self.is_capable.load(Ordering::Relaxed);
        self.group.get().filter(|_| is_capable)
    }

    /// Returns how long the guest may cache names in a directory, and attributes of the files that
    /// they belong to, which are read after this. `with_directory` gives access to the directory.
    pub(crate) fn validity(
        &self,
        directory: GuestInode,
        with_directory: impl FnOnce(&mut dyn FnMut(&File) -> io::Result<()>) -> io::Result<()>,
    ) -> Duration {
        let Some(group) = self.group() else {
            return SHORT_VALIDITY;
        };
        let mut state = self.state();
        if state.directories.contains_key(&directory) || !state.has_agent {
            return state.validity(directory);
        }
        if state.directories.len() >= MAX_DIRECTORIES {
            state.forget_directories();
            group.clear();
            self.state_changed.notify_all();
        }
        state.directories.insert(directory, Attention::None);
        drop(state);
        let marked = with_directory(&mut |file| {
            let event_file = EventFile::of(file)?;
            self.state().by_file.insert(event_file, directory);
            group.watch(file, true)
        });
        if let Err(error) = marked {
            log::debug!("names in a directory are not cached for long: {error}");
            return SHORT_VALIDITY;
        }
        let mut state = self.state();
        if let Some(attention @ Attention::None) = state.directories.get_mut(&directory) {
            *attention = Attention::From(Instant::now());
        }
        state.validity(directory)
    }

    /// Returns the same for a directory whose names the guest has looked up before.
    pub(crate) fn known_validity(&self, directory: GuestInode) -> Duration {
        self.state().validity(directory)
    }

    /// Notes that the guest opens a directory whose names are [valid](Self::validity) for long.
    /// Returns whether it may keep the listing that it has cached. If not, its kernel drops it, and
    /// caches the next one.
    pub(crate) fn keeps_listing(&self, directory: GuestInode) -> bool {
        !self.state().listed.insert(directory)
    }

    /// Reads the kernel's events until it fails.
    pub(crate) fn read(&self) {
        let Some(group) = self.group.get() else {
            return;
        };
        loop {
            if let Err(error) = group.wait().and_then(|()| self.read_queued(group)) {
                self.give_up();
                return log::warn!("cannot watch the shared home: {error}");
            }
        }
    }

    /// Reads the events that the kernel has queued.
    fn read_queued(&self, group: &Group) -> io::Result<()> {
        let own_process = std::process::id().cast_signed();
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.resize(BUFFER_SIZE, 0);
        loop {
            let length = group.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            let mut state = self.state();
            for record in records(buffer.get(..length).unwrap_or_default()) {
                state.add(record, own_process);
            }
            drop(state);
            self.state_changed.notify_all();
        }
    }

    /// Has the guest expire everything that the host has changed until now.
    /// [`send`](Self::send) answers when it has.
    pub(crate) fn sync(&self) {
        if let Some(group) = self.group() {
            // The reader reports a failure.
            let _ = self.read_queued(group);
        }
        let mut state = self.state();
        state.expire_recent();
        state.syncs += 1;
        drop(state);
        self.state_changed.notify_all();
    }

    /// Reads the mounts below the shared directory until it fails. A mount hides files, and
    /// unmounting shows them again.
    pub(crate) fn read_mounts(&self, mut mounts: Mounts) {
        loop {
            if let Err(error) = mounts.wait() {
                self.give_up();
                return log::warn!("cannot watch for mounts in the shared home: {error}");
            }
            self.expire_all();
        }
    }

    /// Lets the guest cache nothing for long any more.
    fn give_up(&self) {
        self.is_capable.store(false, Ordering::Relaxed);
        self.expire_all();
    }

    fn expire_all(&self) {
        self.state().all_changed();
        self.state_changed.notify_all();
    }

    /// Has the agent expire what has changed, until it cannot be reached.
    pub(crate) fn send(&self, agent: &Agent) {
        loop {
            let request = match self.next() {
                Next::Expire(nodes) => HomeRequest::Expire { nodes },
                Next::Synced => HomeRequest::Synced,
            };
            if let Err(error) = agent.send(&request) {
                return log::debug!("the agent does not expire files: {error}");
            }
        }
    }

    /// Waits until something is to be done.
    fn next(&self) -> Next {
        let mut state = self.state();
        loop {
            state.move_due();
            if state.sent == state.answered && !state.expired.is_empty() {
                state.sent += 1;
                state.last_sent = Some(Instant::now());
                let rest = state.expired.iter().nth(MAX_EXPIRED).copied();
                let rest = rest.map(|rest| state.expired.split_off(&rest));
                let nodes = std::mem::replace(&mut state.expired, rest.unwrap_or_default());
                return Next::Expire(nodes.into_iter().collect());
            }
            if state.syncs > 0 && (state.sent == state.answered || state.is_late()) {
                state.syncs -= 1;
                return Next::Synced;
            }
            let due = state.again.front().map(|(due, _)| *due);
            let until_due = due.map(|due| due.saturating_duration_since(Instant::now()));
            let timeout = until_due.unwrap_or(LONG_VALIDITY);
            let waited = self.state_changed.wait_timeout(state, timeout);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Records that the agent has done what it was asked last.
    pub(crate) fn expired(&self) {
        let mut state = self.state();
        state.answered = state.sent;
        drop(state);
        self.state_changed.notify_all();
    }

    /// Records that the agent begins to serve. One that was asked before never answers, and the
    /// guest may know `nodes` from before it was suspended.
    pub(crate) fn agent_begins(&self, nodes: impl Iterator<Item = GuestInode>) {
        let mut state = self.state();
        state.has_agent = true;
        state.answered = state.sent;
        if self.is_possible() {
            state.expired.extend(nodes.map(|node| node.0));
        }
        drop(state);
        self.state_changed.notify_all();
    }

    /// Has the guest expire the attributes of a file and waits until it has. Returns whether it
    /// has.
    pub(crate) fn expire_now(&self, file: GuestInode) -> bool {
        let mut state = self.state();
        if !self.is_possible() || !state.has_agent {
            return false;
        }
        state.expired.insert(file.0);
        // A request that is under way does not have it.
        let request = state.sent + 1;
        self.state_changed.notify_all();
        let is_waiting = |state: &mut State| state.answered < request;
        let waited = self
            .state_changed
            .wait_timeout_while(state, EXPIRY_TIME, is_waiting);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.answered >= request
    }
}

impl State {
    /// Returns whether the agent does not answer.
    fn is_late(&self) -> bool {
        self.sent != self.answered
            && self
                .last_sent
                .is_some_and(|sent| sent.elapsed() > EXPIRY_TIME)
    }

    fn validity(&self, directory: GuestInode) -> Duration {
        match self.directories.get(&directory) {
            Some(Attention::From(time)) if *time <= Instant::now() && !self.is_late() => {
                LONG_VALIDITY
            }
            _ => SHORT_VALIDITY,
        }
    }

    fn add(&mut self, record: Record, own_process: i32) {
        if record.mask & FAN_Q_OVERFLOW != 0 {
            return self.all_changed();
        }
        if record.process != own_process {
            let entries = [record.entry, record.old_entry, record.new_entry];
            for (directory, _) in entries.into_iter().flatten() {
                if let Some(directory) = self.by_file.get(&directory) {
                    self.changed(*directory);
                }
            }
        }
        if record.mask & FAN_DELETE_SELF != 0
            && let Some(file) = record.file
            && let Some(directory) = self.by_file.remove(&file)
        {
            self.directories.remove(&directory);
            self.listed.remove(&directory);
        }
    }

    fn all_changed(&mut self) {
        let all: Vec<GuestInode> = self.directories.keys().copied().collect();
        for directory in all {
            self.changed(directory);
        }
    }

    /// Records that a directory has changed, or a file in it.
    fn changed(&mut self, directory: GuestInode) {
        self.listed.remove(&directory);
        let now = Instant::now();
        self.last_changed = Some(now);
        let attention = Attention::From(now + CALM);
        let Some(before) = self.directories.insert(directory, attention) else {
            self.directories.remove(&directory);
            return;
        };
        if matches!(before, Attention::From(time) if time <= now) {
            self.expired.insert(directory.0);
            self.again.push_back((now + AGAIN, directory));
        }
    }

    /// Has everything expired that is cached for a second, because it has changed before.
    fn expire_recent(&mut self) {
        let now = Instant::now();
        if self.last_changed.is_none_or(|last| last + CALM < now) {
            return;
        }
        for (number, attention) in &self.directories {
            if matches!(attention, Attention::From(time) if *time > now) {
                self.expired.insert(number.0);
            }
        }
    }

    /// Forgets all directories, which have no marks any more.
    fn forget_directories(&mut self) {
        let directories = self.directories.drain();
        self.expired.extend(directories.map(|(number, _)| number.0));
        self.by_file.clear();
        self.listed.clear();
    }

    /// Adds what is due to be expired again.
    fn move_due(&mut self) {
        let now = Instant::now();
        while let Some((_, directory)) = self.again.pop_front_if(|(due, _)| *due <= now) {
            self.expired.insert(directory.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc, thread};

    use tempfile::TempDir;

    use super::*;

    const DIRECTORY: GuestInode = GuestInode(7);

    /// What the guest may cache of one directory, which has a mark.
    struct Watched {
        expiry: Arc<Expiry>,
        directory: TempDir,
    }

    impl Watched {
        fn new() -> Watched {
            let expiry = Arc::new(Expiry::default());
            expiry.set_group(Group::new().unwrap());
            expiry.begin(true);
            expiry.agent_begins([].into_iter());
            let directory = tempfile::tempdir().unwrap();
            let watched = Watched { expiry, directory };
            assert_eq!(watched.validity(), LONG_VALIDITY);
            watched
        }

        fn validity(&self) -> Duration {
            let directory = File::open(self.directory.path()).unwrap();
            self.expiry.validity(DIRECTORY, |mark| mark(&directory))
        }

        /// Changes a file as another process, and reads the event.
        fn change(&self) {
            fs::write(self.directory.path().join("file"), "").unwrap();
            let mut buffer = vec![0; BUFFER_SIZE];
            self.expiry.group().unwrap().wait().unwrap();
            let length = self.expiry.group().unwrap().read(&mut buffer).unwrap();
            for record in records(&buffer[..length]) {
                self.expiry.state().add(record, 0);
            }
        }
    }

    #[test]
    fn changes_expire_a_directory_at_once_and_again() {
        let watched = Watched::new();
        watched.change();
        assert_eq!(watched.validity(), SHORT_VALIDITY);
        assert_eq!(watched.expiry.next(), Next::Expire(vec![DIRECTORY.0]));
        // Nothing is valid for long, so nothing is to be expired.
        watched.change();
        assert!(watched.expiry.state().expired.is_empty());
        watched.expiry.expired();
        assert_eq!(watched.expiry.next(), Next::Expire(vec![DIRECTORY.0]));
        thread::sleep(CALM);
        assert_eq!(watched.validity(), LONG_VALIDITY);
    }

    #[test]
    fn listings_are_kept_until_a_change() {
        let watched = Watched::new();
        assert!(!watched.expiry.keeps_listing(DIRECTORY));
        assert!(watched.expiry.keeps_listing(DIRECTORY));
        watched.change();
        assert!(!watched.expiry.keeps_listing(DIRECTORY));
        // Also where names are not cached for long at that time.
        watched.change();
        assert!(!watched.expiry.keeps_listing(DIRECTORY));
    }

    #[test]
    fn own_changes_are_ignored() {
        let watched = Watched::new();
        fs::write(watched.directory.path().join("file"), "").unwrap();
        let mut buffer = vec![0; BUFFER_SIZE];
        let length = watched.expiry.group().unwrap().read(&mut buffer).unwrap();
        for record in records(&buffer[..length]) {
            let own_process = std::process::id().cast_signed();
            watched.expiry.state().add(record, own_process);
        }
        assert_eq!(watched.validity(), LONG_VALIDITY);
    }

    #[test]
    fn syncs_are_answered_when_everything_has_expired() {
        let watched = Watched::new();
        watched.expiry.sync();
        assert_eq!(watched.expiry.next(), Next::Synced);
        watched.change();
        watched.expiry.sync();
        assert_eq!(watched.expiry.next(), Next::Expire(vec![DIRECTORY.0]));
        watched.expiry.expired();
        assert_eq!(watched.expiry.next(), Next::Synced);
        // What has changed lately expires again.
        watched.expiry.sync();
        assert_eq!(watched.expiry.next(), Next::Expire(vec![DIRECTORY.0]));
        // An agent that does not answer delays nobody for long.
        watched.expiry.state().last_sent = Instant::now().checked_sub(EXPIRY_TIME);
        assert_eq!(watched.expiry.next(), Next::Synced);
    }

    #[test]
    fn lost_events_expire_everything() {
        let watched = Watched::new();
        let record = Record {
            mask: FAN_Q_OVERFLOW,
            ..Record::default()
        };
        watched.expiry.state().add(record, 0);
        assert_eq!(watched.validity(), SHORT_VALIDITY);
        assert_eq!(watched.expiry.next(), Next::Expire(vec![DIRECTORY.0]));
    }

    #[test]
    fn too_many_directories_are_forgotten() {
        let watched = Watched::new();
        let file = File::open(watched.directory.path()).unwrap();
        for number in 0..MAX_DIRECTORIES as u64 {
            let directory = GuestInode(100 + number);
            watched.expiry.validity(directory, |mark| mark(&file));
        }
        assert!(watched.expiry.state().directories.len() < MAX_DIRECTORIES);
        assert!(
            matches!(watched.expiry.next(), Next::Expire(nodes) if nodes.contains(&DIRECTORY.0))
        );
        assert_eq!(watched.expiry.known_validity(DIRECTORY), SHORT_VALIDITY);
    }

    #[test]
    fn an_agent_that_does_not_answer_is_not_relied_on() {
        let watched = Watched::new();
        {
            let mut state = watched.expiry.state();
            state.sent += 1;
            state.last_sent = Instant::now().checked_sub(EXPIRY_TIME);
        }
        assert_eq!(watched.validity(), SHORT_VALIDITY);
        watched.expiry.agent_begins([DIRECTORY].into_iter());
        assert_eq!(watched.validity(), LONG_VALIDITY);
        assert_eq!(watched.expiry.next(), Next::Expire(vec![DIRECTORY.0]));
    }

    #[test]
    fn a_file_is_expired_before_it_is_locked() {
        let watched = Watched::new();
        let waiting = thread::spawn({
            let expiry = Arc::clone(&watched.expiry);
            move || expiry.expire_now(GuestInode(9))
        });
        assert_eq!(watched.expiry.next(), Next::Expire(vec![9]));
        assert!(!waiting.is_finished());
        watched.expiry.expired();
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn nothing_is_valid_for_long_without_support() {
        let watched = Watched::new();
        watched.expiry.begin(false);
        assert_eq!(watched.validity(), SHORT_VALIDITY);
        assert!(!watched.expiry.expire_now(DIRECTORY));
        watched.expiry.agent_begins([DIRECTORY].into_iter());
        assert!(watched.expiry.state().expired.is_empty());
    }
}
