//! Reports the machine's listening sockets to the host whenever they change.
//!
//! The kernel's [list of sockets](sockets) is read when an [event](socket_events) says that it may
//! have changed. The name of a listener's program is only looked up when the listener is new.

mod pace;
mod programs;
mod socket_events;
mod sockets;

pub(crate) use sockets::addresses_of;

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    fs, io,
    ops::RangeInclusive,
    time::Duration,
};

use container_protocol::{
    HostPort, Listener, Transport,
    frame::{self, FrameError},
    mux::{Opener, Stream},
};
use tokio::time::{Instant, sleep};

use crate::kernel_log;
use pace::Pace;
use sockets::{ListeningSocket, SocketList};

/// A listener that has ended is still reported for this long. A server that restarts listens again
/// by then, and clients on the host are not refused in between.
const LINGER: Duration = Duration::from_millis(30);

/// Delay after an error.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// Maximum number of listeners in a report, which then fits in a frame.
const MAX_LISTENERS: usize = 16_384;

/// Error of reporting listeners.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error("cannot list the sockets: {0}")]
    Sockets(io::Error),
    #[error("cannot open a stream: {0}")]
    Open(io::Error),
    #[error("cannot send a message: {0}")]
    Send(FrameError),
}

/// Reports listeners to the host until this is dropped. After an error, for example for lack of
/// memory, the reports begin again.
pub(crate) async fn report(opener: Opener) {
    let mut pace = Pace::new();
    let mut logged = String::new();
    loop {
        let Err(error) = report_changes(&opener, &mut pace).await;
        let error = error.to_string();
        if logged != error {
            kernel_log::error(&format!(
                "cannot report the machine's listeners to the host: {error}"
            ));
            logged = error;
        }
        sleep(RETRY_DELAY).await;
    }
}

async fn report_changes(opener: &Opener, pace: &mut Pace) -> Result<Infallible, ReportError> {
    let mut host: Stream = opener.open().await.map_err(ReportError::Open)?;
    frame::write(&mut host, &HostPort::Listeners)
        .await
        .map_err(ReportError::Send)?;
    let mut sockets = SocketList::open().map_err(ReportError::Sockets)?;
    let ephemeral = ephemeral_ports();
    let mut lingering = Lingering::default();
    let mut reported = BTreeSet::new();
    let mut names: HashMap<u32, String> = HashMap::new();
    loop {
        let mut current = sockets.listening().map_err(ReportError::Sockets)?;
        // A UDP socket with a port that the kernel chose is a client's, which sends from it.
        current.retain(|socket| {
            socket.transport == Transport::Tcp
                || !ephemeral.contains(&socket.address.port())
                || pace.was_requested(socket.address.port())
        });
        lingering.add_to(&mut current, &reported);
        if current != reported {
            if current
                .iter()
                .any(|socket| !names.contains_key(&socket.inode))
            {
                names = programs::names_by_inode(current.iter().map(|socket| socket.inode));
            }
            let listeners = current.iter().take(MAX_LISTENERS).map(|socket| Listener {
                transport: socket.transport,
                address: socket.address,
                process: names
                    .get(&socket.inode)
                    .filter(|name| !name.is_empty())
                    .cloned(),
            });
            frame::write(&mut host, &listeners.collect::<Vec<_>>())
                .await
                .map_err(ReportError::Send)?;
            reported = current;
        }
        pace.wait().await;
    }
}

/// Listeners that have ended less than [`LINGER`] ago, with the time at which that was noticed.
#[derive(Default)]
struct Lingering {
    ended: HashMap<ListeningSocket, Instant>,
}

impl Lingering {
    /// Adds the listeners of `reported` that have ended a short time ago to `current`.
    fn add_to(
        &mut self,
        current: &mut BTreeSet<ListeningSocket>,
        reported: &BTreeSet<ListeningSocket>,
    ) {
        self.ended.retain(|socket, _| !current.contains(socket));
        let gone: Vec<ListeningSocket> = reported.difference(current).copied().collect();
        for socket in gone {
            let since = *self.ended.entry(socket).or_insert_with(Instant::now);
            if since.elapsed() < LINGER {
                current.insert(socket);
            } else {
                self.ended.remove(&socket);
            }
        }
    }
}

/// Returns the ports that the kernel chooses for sockets without a port of their own (ip(7)).
fn ephemeral_ports() -> RangeInclusive<u16> {
    let setting = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let setting = setting.unwrap_or_default();
    let mut numbers = setting.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        // The kernel's default.
        _ => 32768..=60999,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use container_protocol::mux::{Side, multiplex};
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    #[tokio::test]
    async fn reports_begin_again_after_an_error() {
        let (host, guest) = tokio::io::duplex(1 << 16);
        let (_opener, mut incoming, driver) = multiplex(host.compat(), Side::Host);
        tokio::spawn(driver);
        let (opener, _incoming, driver) = multiplex(guest.compat(), Side::Guest);
        tokio::spawn(driver);
        let reporter = tokio::spawn(async move {
            let mut pace = Pace::polling();
            loop {
                let Err(_) = report_changes(&opener, &mut pace).await;
            }
        });
        let mut open = Vec::new();
        for _ in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            open.push(listener);
            let mut stream = incoming.recv().await.unwrap();
            let port = frame::read::<HostPort>(&mut stream).await.unwrap();
            assert_eq!(port, HostPort::Listeners);
            let is_reported = async |stream: &mut Stream| {
                let listeners = frame::read::<Vec<Listener>>(stream).await.unwrap();
                listeners.iter().any(|it| it.address == address)
            };
            while !is_reported(&mut stream).await {}
            // The next change finds that the host's end of the stream is closed.
        }
        reporter.abort();
    }
}
