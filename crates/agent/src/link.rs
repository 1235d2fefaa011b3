//! The channel while it carries streams, and its end and beginning when the machine is suspended.

use std::{io, time::Duration};

use container_protocol::{
    ChannelRequest, ResumeToken,
    frame::{self, FrameError},
    mux::{self, Incoming, Opener, Side, Stream},
};
use tokio::{
    io::split,
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use crate::{channel::Channel, kernel_log, random};

/// Backoff after the channel has failed while the agent waits for the host.
const BACKOFF: Duration = Duration::from_millis(50);

/// Timeout for the end of the connection after its streams have ended.
const END_TIMEOUT: Duration = Duration::from_secs(2);
const END_INTERVAL: Duration = Duration::from_millis(5);

/// The channel while it carries streams.
pub(crate) struct Link {
    /// Opens streams to the host.
    pub opener: Opener,
    driver: JoinHandle<Result<(), mux::ConnectionError>>,
}

impl Link {
    /// Lets the channel carry streams. Also returns those that the host opens.
    pub(crate) fn new(channel: Channel) -> (Link, Incoming) {
        let (opener, incoming, driver) = mux::multiplex(channel, Side::Guest);
        let link = Link {
            opener,
            driver: tokio::spawn(driver),
        };
        (link, incoming)
    }

    /// Whether the channel carries no streams any more. Waits a moment for it, because streams end
    /// before.
    pub(crate) async fn has_ended(&self) -> bool {
        let ended = async {
            while !self.driver.is_finished() {
                sleep(END_INTERVAL).await;
            }
        };
        timeout(END_TIMEOUT, ended).await.is_ok()
    }

    /// Ends all streams, closes the channel, and waits until the host serves the machine again.
    pub(crate) async fn renew(self, token: ResumeToken) -> (Link, Incoming) {
        self.driver.abort();
        // The task has closed the channel then. Its result is the cancellation.
        let _ = self.driver.await;
        loop {
            match await_host(token).await {
                Ok(channel) => return Link::new(channel),
                Err(error) => {
                    kernel_log::error(&format!("cannot reach the host: {error}"));
                    sleep(BACKOFF).await;
                }
            }
        }
    }
}

/// Interval at which an agent that waits for the host says so.
const MARK_INTERVAL: Duration = Duration::from_millis(200);

/// Opens the channel, and waits for the host's request to serve the machine again.
async fn await_host(token: ResumeToken) -> Result<Channel, FrameError> {
    let mut channel = Channel::open().await.map_err(FrameError::Io)?;
    let (mut from_host, mut to_host) = split((&mut channel).compat());
    let waiting = async {
        // Repeated, because the host may still read streams when the first is sent.
        loop {
            token.waiting_mark().write(&mut to_host).await?;
            sleep(MARK_INTERVAL).await;
        }
    };
    let found: io::Result<()> = tokio::select! {
        found = token.await_in(&mut from_host) => found,
        failed = waiting => failed,
    };
    found.map_err(FrameError::Io)?;
    if let ChannelRequest::Resume { entropy } = frame::read(&mut from_host).await?
        && let Err(error) = random::reseed(&entropy)
    {
        kernel_log::error(&format!("cannot use the host's random bytes: {error}"));
    }
    token.write(&mut to_host).await.map_err(FrameError::Io)?;
    Ok(channel)
}

/// Opens streams to the host, also after the machine was suspended.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    opener: watch::Receiver<Opener>,
}

impl Host {
    /// Returns the host, which is reached over `opener` until the sender gets another.
    pub(crate) fn new(opener: Opener) -> (watch::Sender<Opener>, Host) {
        let (sender, opener) = watch::channel(opener);
        (sender, Host { opener })
    }

    /// Opens a stream. Waits while the machine is being suspended.
    pub(crate) async fn open(&self) -> io::Result<Stream> {
        let mut opener = self.opener.clone();
        loop {
            let current = opener.borrow_and_update().clone();
            if let Ok(stream) = current.open().await {
                return Ok(stream);
            }
            let changed = opener.changed().await;
            changed.map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
    }
}
