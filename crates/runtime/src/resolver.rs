//! Keeps the guest's resolver configuration equal to the host's, for example when a VPN comes up.

use std::path::Path;

use container_network::{HostResolver, RESOLV_CONF};
use container_protocol::{
    Port, ResolverSettings,
    frame::{self, FrameError},
    mux::Opener,
};
use tokio::io::AsyncReadExt;

use crate::{file_watch::FileWatch, state::MachineState};

/// Returns the host's current settings.
pub(crate) fn host_settings() -> ResolverSettings {
    let host = HostResolver::read();
    ResolverSettings {
        search: host.search,
        options: host.options,
    }
}

/// Starts to send the host's settings to the guest whenever they change, until the guest ends. An
/// isolated machine does not get them.
pub(crate) fn follow_host(opener: Opener, machine: &MachineState) {
    if !machine.is_isolated() {
        tokio::spawn(send_changes(opener));
    }
}

async fn send_changes(opener: Opener) {
    // The host's may have changed during the boot, so the first are always sent.
    let mut sent = None;
    while !opener.is_closed() {
        let watch = FileWatch::new(Path::new(RESOLV_CONF));
        let settings = host_settings();
        if sent.as_ref() != Some(&settings) {
            if let Err(error) = send(&opener, &settings).await {
                tracing::debug!("cannot send the resolver's settings to the guest: {error}");
                return;
            }
            sent = Some(settings);
        }
        tokio::select! {
            () = watch.changed() => {}
            () = opener.closed() => {}
        }
    }
}

async fn send(opener: &Opener, settings: &ResolverSettings) -> Result<(), FrameError> {
    let mut stream = opener.open().await.map_err(FrameError::Io)?;
    frame::write(&mut stream, &Port::Resolver).await?;
    frame::write(&mut stream, settings).await?;
    // The agent closes the stream when it has applied them.
    let _ = stream.read_u8().await;
    Ok(())
}
