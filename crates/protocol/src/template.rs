//! The first messages on the channel, before it carries streams: the host decides whether the
//! kernel that has booted becomes a template or serves a machine.
//!
//! | host | agent |
//! |---|---|
//! | `PrepareTemplate`, any number of times | |
//! | | `TemplateReady` or `Failed` |
//! | *the virtual machine is saved, and restored any number of times* | |
//! | `Serve` | |
//! | [streams](crate::mux) | streams |
//!
//! The agent has mounted nothing and read nothing of a machine before `Serve`.

use serde::{Deserialize, Serialize};

/// Message of the host before the channel carries streams.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ChannelRequest {
    /// Release the devices that differ between machines, and wait for the next request. The virtual
    /// machine may be saved then.
    PrepareTemplate,
    /// Serve a machine: streams follow.
    Serve {
        /// Random bytes of the host. The guest's random numbers depend on them from now on, so that
        /// two machines from one template have none in common.
        entropy: Vec<u8>,
    },
    /// Serve the machine again that was [suspended](crate::ControlRequest::Suspend): streams
    /// follow.
    Resume {
        /// Random bytes of the host, as for `Serve`.
        entropy: Vec<u8>,
    },
}

/// Answer of the agent to [`ChannelRequest::PrepareTemplate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ChannelEvent {
    /// The virtual machine can be saved.
    TemplateReady {
        /// The guest's time (`CLOCK_MONOTONIC`) in nanoseconds.
        clock: u64,
    },
    /// The devices could not be released.
    Failed {
        /// Message with the attempted step and its error.
        message: String,
    },
}

impl std::fmt::Debug for ChannelRequest {
    /// Leaves the random bytes out.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            ChannelRequest::PrepareTemplate => "PrepareTemplate",
            ChannelRequest::Serve { .. } => "Serve",
            ChannelRequest::Resume { .. } => "Resume",
        })
    }
}
