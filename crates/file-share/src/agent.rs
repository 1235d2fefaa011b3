//! The connection to the guest's agent.

use std::{fs::File, sync::Mutex, sync::PoisonError};

use container_protocol::{
    HomeReport, HomeRequest,
    frame::{self, FrameError},
};

/// A connection to the agent. It is a file, because this process may not call recvfrom(2).
pub(crate) struct Agent {
    connection: File,
    sending: Mutex<()>,
}

impl Agent {
    pub(crate) fn new(connection: File) -> Agent {
        Agent {
            connection,
            sending: Mutex::new(()),
        }
    }

    pub(crate) fn send(&self, request: &HomeRequest) -> Result<(), FrameError> {
        let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        frame::write_blocking(&mut &self.connection, request)
    }

    /// Waits for the next report. Must be called by one thread only.
    pub(crate) fn receive(&self) -> Result<HomeReport, FrameError> {
        frame::read_blocking(&mut &self.connection)
    }
}
