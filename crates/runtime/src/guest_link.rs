//! The channel to the guest's agent while it carries streams.

use std::{io, os::unix::net::UnixStream as StdUnixStream, sync::Arc, time::Duration};

use container_protocol::{
    BREAK, ChannelRequest, ControlEvent, ControlRequest, InitProgram, Port, ResumeToken,
    frame::{self, FrameError},
    mux::{self, Opener, Side, Stream},
};
use tokio::{io::AsyncWriteExt, net::UnixStream, task::JoinHandle, time::timeout};
use tokio_util::compat::TokioAsyncReadCompatExt;

use crate::{
    clock,
    entropy::read_entropy,
    guest_streams::{self, Targets},
    pausable::{Pausable, Writing},
};

/// Timeout for the agent of a machine that continues to answer.
const RESUME_TIMEOUT: Duration = Duration::from_secs(120);

/// The channel to the guest's agent while it carries streams.
pub(crate) struct GuestLink {
    /// Opens streams to the agent.
    pub opener: Opener,
    /// Pauses what is written to the agent.
    pub writing: Writing,
    targets: Arc<Targets>,
    socket: StdUnixStream,
    driver: JoinHandle<Result<(), mux::ConnectionError>>,
}

/// Error of reaching the agent of a machine that continues.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResumeLinkError {
    #[error("cannot use the channel to the guest agent: {0}")]
    Channel(io::Error),
    #[error("cannot communicate with the guest agent: {0}")]
    Frame(FrameError),
    #[error("timed out waiting for the guest agent")]
    TimedOut,
}

impl From<FrameError> for ResumeLinkError {
    fn from(cause: FrameError) -> ResumeLinkError {
        ResumeLinkError::Frame(cause)
    }
}

impl GuestLink {
    /// Lets the channel carry streams, and serves those that the agent opens.
    pub(crate) fn new(channel: UnixStream, targets: Arc<Targets>) -> io::Result<GuestLink> {
        let channel = channel.into_std()?;
        let socket = channel.try_clone()?;
        let channel = UnixStream::from_std(channel)?;
        let (channel, writing) = Pausable::new(channel, socket.try_clone()?.into());
        let (opener, incoming, driver) = mux::multiplex(channel.compat(), Side::Host);
        tokio::spawn(guest_streams::serve(incoming, Arc::clone(&targets)));
        Ok(GuestLink {
            opener,
            writing,
            targets,
            socket,
            driver: tokio::spawn(driver),
        })
    }

    /// Ends all streams, and waits until the agent waits to be resumed.
    pub(crate) async fn close(&mut self, token: ResumeToken) -> Result<(), ResumeLinkError> {
        self.driver.abort();
        // The result is the cancellation.
        let _ = (&mut self.driver).await;
        await_waiting(&mut self.channel()?, token).await
    }

    /// Reaches the agent of a machine that was not suspended after all. Returns its control stream
    /// and what runs as init.
    pub(crate) async fn renew(
        &mut self,
        token: ResumeToken,
    ) -> Result<(Stream, InitProgram), ResumeLinkError> {
        let targets = Arc::clone(&self.targets);
        let resumed = GuestLink::resume(self.channel()?, targets, token).await?;
        let (link, control, init) = resumed;
        *self = link;
        Ok((control, init))
    }

    fn channel(&self) -> Result<UnixStream, ResumeLinkError> {
        let socket = self.socket.try_clone();
        let channel = socket.and_then(UnixStream::from_std);
        channel.map_err(ResumeLinkError::Channel)
    }

    /// Ends the streams of an agent that was saved with them, and waits until it waits to be
    /// resumed.
    pub(crate) async fn disconnect(
        channel: &mut UnixStream,
        token: ResumeToken,
    ) -> Result<(), ResumeLinkError> {
        let written = channel.write_all(&BREAK).await;
        written.map_err(ResumeLinkError::Channel)?;
        await_waiting(channel, token).await
    }

    /// Reaches the agent of a machine that was suspended, and waits until it has set its clock.
    /// Also returns its control stream and what runs as init.
    pub(crate) async fn resume(
        channel: UnixStream,
        targets: Arc<Targets>,
        token: ResumeToken,
    ) -> Result<(GuestLink, Stream, InitProgram), ResumeLinkError> {
        let resumed = timeout(RESUME_TIMEOUT, resume(channel, targets, token)).await;
        resumed.unwrap_or(Err(ResumeLinkError::TimedOut))
    }
}

/// Waits until the agent waits to be resumed.
async fn await_waiting(
    channel: &mut UnixStream,
    token: ResumeToken,
) -> Result<(), ResumeLinkError> {
    let mark = token.waiting_mark();
    let waited = timeout(RESUME_TIMEOUT, mark.await_in(channel)).await;
    let waited = waited.map_err(|_| ResumeLinkError::TimedOut)?;
    waited.map_err(ResumeLinkError::Channel)
}

async fn resume(
    mut channel: UnixStream,
    targets: Arc<Targets>,
    token: ResumeToken,
) -> Result<(GuestLink, Stream, InitProgram), ResumeLinkError> {
    let entropy = read_entropy().map_err(ResumeLinkError::Channel)?;
    token.write(&mut channel).await.map_err(FrameError::Io)?;
    frame::write(&mut channel, &ChannelRequest::Resume { entropy }).await?;
    token.await_in(&mut channel).await.map_err(FrameError::Io)?;
    let link = GuestLink::new(channel, targets).map_err(ResumeLinkError::Channel)?;
    let mut control = link.opener.open().await.map_err(FrameError::Io)?;
    frame::write(&mut control, &Port::Control).await?;
    loop {
        match frame::read(&mut control).await? {
            ControlEvent::ClockRequested => {
                frame::write(&mut control, &ControlRequest::SetClock(clock::now())).await?;
            }
            ControlEvent::Started { init, .. } => return Ok((link, control, init)),
            _ => {}
        }
    }
}
