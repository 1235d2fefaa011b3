//! Notices changes of files without reading them again and again.

use std::{io, path::Path, time::Duration};

use futures::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use tokio::time::timeout;

/// Interval at which a file is to be read although no change was noticed. Some are not: file
/// systems that are unmounted while they are in use, and changes on other hosts.
const INTERVAL: Duration = Duration::from_secs(60);

/// Events of a watched file: of its contents, its links, and its removal.
const EVENTS: WatchMask = WatchMask::MODIFY
    .union(WatchMask::ATTRIB)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::DELETE_SELF);

/// Size of the buffer for events, of which only the first counts. Those of single files have no
/// names.
const BUFFER_SIZE: usize = 256;

/// Watches what a path leads to, and the symbolic link at that path if there is one.
pub(crate) struct FileWatch {
    /// Absent if there is nothing to watch.
    events: Option<EventStream<[u8; BUFFER_SIZE]>>,
}

impl FileWatch {
    /// Starts to watch. Read the file afterwards, or a change is missed.
    pub(crate) fn new(path: &Path) -> FileWatch {
        let events = watch(path);
        if let Err(error) = &events {
            tracing::debug!("cannot watch {}: {error}", path.display());
        }
        FileWatch {
            events: events.ok(),
        }
    }

    /// Waits until the file may have changed. Another file may have its name then.
    pub(crate) async fn changed(self) {
        let change = async {
            match self.events {
                Some(mut events) => drop(events.next().await),
                None => std::future::pending().await,
            }
        };
        let _ = timeout(INTERVAL, change).await;
    }
}

fn watch(path: &Path) -> io::Result<EventStream<[u8; BUFFER_SIZE]>> {
    let inotify = Inotify::init()?;
    inotify
        .watches()
        .add(path, EVENTS | WatchMask::DONT_FOLLOW)?;
    match inotify.watches().add(path, EVENTS) {
        // The target of a link may come to exist. That is noticed later.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    inotify.into_event_stream([0; BUFFER_SIZE])
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use tokio::net::UnixListener;

    use super::*;

    /// Fails unless `change` is noticed long before the next reading.
    async fn notices(path: &Path, change: impl FnOnce()) {
        let watch = FileWatch::new(path);
        assert!(watch.events.is_some());
        change();
        let noticed = timeout(INTERVAL / 2, watch.changed()).await;
        assert!(noticed.is_ok(), "{}", path.display());
    }

    #[tokio::test]
    async fn changes_of_files_and_links_are_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let (file, link, new) = (at("file"), at("link"), at("new"));
        fs::write(&file, "one").unwrap();
        symlink("file", &link).unwrap();
        for path in [&file, &link] {
            notices(path, || fs::write(&file, "two").unwrap()).await;
            fs::write(&new, "three").unwrap();
            notices(path, || fs::rename(&new, &file).unwrap()).await;
        }
        notices(&link, || {
            symlink("other", &new).unwrap();
            fs::rename(&new, &link).unwrap();
        })
        .await;
        // The link leads nowhere now.
        notices(&link, || fs::remove_file(&link).unwrap()).await;
        assert!(FileWatch::new(&link).events.is_none());
    }

    #[tokio::test]
    async fn the_removal_of_a_socket_in_use_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        notices(&path, || fs::remove_dir_all(directory.path()).unwrap()).await;
    }
}
