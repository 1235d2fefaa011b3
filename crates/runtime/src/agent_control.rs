//! The agent's control stream of a machine that is up.

use std::{future::pending, sync::Arc, time::Duration};

use container_protocol::{
    ControlEvent, ControlRequest, ResumeToken,
    frame::{self, FrameError},
    mux::Stream,
};
use tokio::{
    io::{AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
    time::timeout,
};

use crate::{clock, heartbeat::Heartbeat};

/// Timeout for the guest's last event after the engine has ended.
const EVENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Request for the guest.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request {
    CompareClock,
    /// The host's clock at the moment of sending.
    SetClock,
    Suspend(ResumeToken),
    PrepareSnapshot(ResumeToken),
    Stop {
        grace_seconds: u32,
    },
}

/// End of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestEnd {
    /// The agent has unmounted the machine, and waits for the stream's end to power off.
    PowersOff,
    /// The same, and the machine is to boot again.
    Reboots,
    /// The stream has ended without an announcement.
    Unannounced,
}

/// Event of the guest.
enum GuestEvent {
    Ends(GuestEnd),
    /// The machine can be suspended, or saved for a snapshot.
    Ready,
    /// It cannot; the message of the agent.
    NotReady(String),
}

/// The control stream of a machine that is up.
pub(crate) struct AgentControl {
    /// Requests in transit to the guest, which may not read them. Absent after the guest has
    /// announced its end.
    requests: Option<UnboundedSender<Request>>,
    sending: JoinHandle<()>,
    events: UnboundedReceiver<GuestEvent>,
    /// The guest's end, if it was noticed while something else was waited for.
    end: Option<GuestEnd>,
    heartbeat: Arc<Heartbeat>,
}

impl AgentControl {
    pub(crate) fn new(control: Stream, heartbeat: Arc<Heartbeat>) -> AgentControl {
        heartbeat.note_answer();
        let (from_guest, to_guest) = split(control);
        let (requests, outgoing) = unbounded_channel();
        let (found, events) = unbounded_channel();
        // A task of its own: a read of a frame must not be cancelled half-way.
        let answered = Arc::clone(&heartbeat);
        tokio::spawn(read_events(from_guest, requests.clone(), found, answered));
        AgentControl {
            requests: Some(requests),
            sending: tokio::spawn(send_requests(outgoing, to_guest)),
            events,
            end: None,
            heartbeat,
        }
    }

    /// Returns the control of the same guest over a new stream.
    pub(crate) fn renewed(&self, control: Stream) -> AgentControl {
        AgentControl::new(control, Arc::clone(&self.heartbeat))
    }

    /// Sends the guest a request, without waiting until it is read.
    pub(crate) fn request(&self, request: Request) {
        if let Some(requests) = &self.requests {
            if let Request::CompareClock = request {
                self.heartbeat.note_request();
            }
            // Fails if the stream has failed. The engine's end follows.
            let _ = requests.send(request);
        }
    }

    /// Sends no more requests, and closes the stream.
    pub(crate) fn close(&mut self) {
        self.requests = None;
    }

    /// Closes the stream, and waits until everything is sent.
    pub(crate) async fn close_completely(&mut self) {
        self.requests = None;
        // Fails only if the task has panicked.
        let _ = (&mut self.sending).await;
    }

    /// Waits until the guest is about to end. Cancel safe; never returns a second time.
    pub(crate) async fn end(&mut self) -> GuestEnd {
        if let Some(end) = self.end.take() {
            return end;
        }
        loop {
            match self.events.recv().await {
                Some(GuestEvent::Ends(end)) => return end,
                Some(GuestEvent::Ready | GuestEvent::NotReady(_)) => {}
                None => return pending().await,
            }
        }
    }

    /// Returns the end that the guest had announced, if that was not read before the engine ended,
    /// as may happen on a busy host.
    pub(crate) async fn read_announced_end(&mut self) -> GuestEnd {
        // The channel is closed, so the read ends after what is buffered.
        let end = timeout(EVENT_TIMEOUT, self.end()).await;
        end.unwrap_or(GuestEnd::Unannounced)
    }

    /// Asks the agent to prepare for a suspension. Returns its message if that is not possible.
    pub(crate) async fn prepare_suspension(&mut self, token: ResumeToken) -> Result<(), String> {
        self.request(Request::Suspend(token));
        self.await_ready().await
    }

    /// Asks the agent to prepare for a snapshot. Returns its message if that is not possible.
    pub(crate) async fn prepare_snapshot(&mut self, token: ResumeToken) -> Result<(), String> {
        self.request(Request::PrepareSnapshot(token));
        self.await_ready().await
    }

    async fn await_ready(&mut self) -> Result<(), String> {
        match self.events.recv().await {
            Some(GuestEvent::Ready) => Ok(()),
            Some(GuestEvent::NotReady(message)) => Err(message),
            Some(GuestEvent::Ends(end)) => {
                self.end = Some(end);
                Err("the machine shuts down".to_owned())
            }
            None => Err("the machine has ended".to_owned()),
        }
    }
}

/// Writes requests to the guest until there are no more senders, and closes the stream.
async fn send_requests(mut requests: UnboundedReceiver<Request>, mut stream: WriteHalf<Stream>) {
    while let Some(request) = requests.recv().await {
        let request = match request {
            Request::CompareClock => ControlRequest::CompareClock,
            Request::SetClock => ControlRequest::SetClock(clock::now()),
            Request::Suspend(token) => ControlRequest::Suspend { token },
            Request::PrepareSnapshot(token) => ControlRequest::PrepareSnapshot { token },
            Request::Stop { grace_seconds } => ControlRequest::Stop { grace_seconds },
        };
        if let Err(error) = frame::write(&mut stream, &request).await {
            tracing::warn!("cannot send a request to the guest: {error}");
            return;
        }
    }
    // Fails if the engine has ended.
    let _ = stream.shutdown().await;
}

/// Reads the agent's events until the last, and answers requests for the clock.
async fn read_events(
    mut stream: ReadHalf<Stream>,
    requests: UnboundedSender<Request>,
    found: UnboundedSender<GuestEvent>,
    heartbeat: Arc<Heartbeat>,
) {
    loop {
        let event: Result<ControlEvent, FrameError> = frame::read(&mut stream).await;
        let continues = matches!(
            event,
            Ok(ControlEvent::SuspendFailed { .. }
                | ControlEvent::SnapshotReady
                | ControlEvent::SnapshotFailed { .. })
        );
        let event = match event {
            Ok(ControlEvent::ClockRequested) => {
                heartbeat.note_answer();
                // Fails if the stream has failed, which the next read notices.
                let _ = requests.send(Request::SetClock);
                continue;
            }
            Ok(
                ControlEvent::SuspendFailed { message } | ControlEvent::SnapshotFailed { message },
            ) => GuestEvent::NotReady(message),
            Ok(ControlEvent::SuspendReady | ControlEvent::SnapshotReady) => GuestEvent::Ready,
            Ok(ControlEvent::PoweringOff) => GuestEvent::Ends(GuestEnd::PowersOff),
            Ok(ControlEvent::Rebooting) => GuestEvent::Ends(GuestEnd::Reboots),
            _ => GuestEvent::Ends(GuestEnd::Unannounced),
        };
        // Fails if the machine has ended.
        let _ = found.send(event);
        if !continues {
            return;
        }
    }
}
