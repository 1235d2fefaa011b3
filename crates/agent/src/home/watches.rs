//! Reports what the machine's programs watch in the home.
//!
//! The marks of all inotify and fanotify descriptors are listed when an [event](super::mark_events)
//! says that they may have changed.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use container_protocol::{HomeReport, MAX_HOME_WATCHES};
use rustix::fs::{StatxFlags, statx};
use tokio::{
    sync::mpsc::UnboundedSender,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{fdinfo::watched_nodes, mark_events::MarkEvents};
use crate::{kernel_log, machine::GuestRoot};

/// Delay of a listing after an event, because events come in bursts.
const SETTLE_DELAY: Duration = Duration::from_millis(4);

/// Part of the time that may be spent on listings during a burst, as a divisor.
const MAX_LOAD: u32 = 5;

/// Interval of listings if the kernel reports no events.
const INTERVAL: Duration = Duration::from_secs(1);

/// Interval of listings while something is watched, because the ring buffer of the events may
/// overflow.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Reports the watches in the home at `path`, and their changes, until `reports` is closed.
pub(super) async fn report(path: String, reports: UnboundedSender<HomeReport>) {
    let device = match device(&path) {
        Ok(device) => device,
        Err(error) => {
            kernel_log::error(&format!("cannot look for watches in the home: {error}"));
            return reports.closed().await;
        }
    };
    let mut pace = Pace::new();
    let mut reported = BTreeSet::new();
    loop {
        let started = Instant::now();
        let Ok(current) = spawn_blocking(move || list(device)).await else {
            return reports.closed().await;
        };
        let duration = started.elapsed();
        let added: Vec<u64> = current.difference(&reported).copied().collect();
        let removed: Vec<u64> = reported.difference(&current).copied().collect();
        if !added.is_empty() || !removed.is_empty() {
            let sent = reports.send(HomeReport::Watches { added, removed });
            if sent.is_err() {
                return;
            }
        }
        reported = current;
        pace.wait(!reported.is_empty(), duration).await;
    }
}

/// Returns the kernel's number of the home's device.
fn device(path: &str) -> io::Result<u32> {
    let home = GuestRoot::open()?.directory(path)?;
    let attributes = statx(
        &home,
        c"",
        rustix::fs::AtFlags::EMPTY_PATH,
        StatxFlags::BASIC_STATS,
    )?;
    // `MKDEV` of Linux's kdev_t.h.
    Ok(attributes.stx_dev_major << 20 | attributes.stx_dev_minor)
}

/// Returns all nodes of a device that programs watch.
fn list(device: u32) -> BTreeSet<u64> {
    let mut nodes = BTreeSet::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let name = process.file_name();
        if name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            list_process(&process.path(), device, &mut nodes);
        }
    }
    while nodes.len() > MAX_HOME_WATCHES {
        nodes.pop_last();
    }
    nodes
}

fn list_process(process: &Path, device: u32, nodes: &mut BTreeSet<u64>) {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten();
    for descriptor in descriptors.flatten() {
        let target = fs::read_link(descriptor.path()).unwrap_or_default();
        let target = target.as_os_str();
        if target == "anon_inode:inotify" || target == "anon_inode:[fanotify]" {
            let info = process.join("fdinfo").join(descriptor.file_name());
            let info = fs::read_to_string(info).unwrap_or_default();
            nodes.extend(watched_nodes(&info, device));
        }
    }
}

/// Timing of the listings.
struct Pace {
    /// `None` without support in the kernel.
    events: Option<MarkEvents>,
}

impl Pace {
    fn new() -> Pace {
        let events = MarkEvents::attach();
        if let Err(error) = &events {
            kernel_log::error(&format!(
                "the kernel does not report watches ({error}); they are looked for every \
                 {INTERVAL:?}"
            ));
        }
        Pace {
            events: events.ok(),
        }
    }

    /// Waits until the watches have to be listed again. The last listing took `duration`.
    async fn wait(&mut self, is_watching: bool, duration: Duration) {
        let Some(events) = &mut self.events else {
            return sleep(INTERVAL).await;
        };
        sleep(duration * MAX_LOAD).await;
        let event = if is_watching {
            timeout(CHECK_INTERVAL, events.next()).await
        } else {
            Ok(events.next().await)
        };
        if let Ok(Err(error)) = event {
            kernel_log::error(&format!("cannot wait for changes of watches: {error}"));
            self.events = None;
        }
        sleep(SETTLE_DELAY).await;
    }
}
