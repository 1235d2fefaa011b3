//! A machine that QEMU has paused because its disk cannot be written, usually because the host's
//! disk is full.

use std::{io, pin::pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use qapi::qmp::{BlockErrorAction, Event};
use tokio::{sync::watch, time::sleep};

/// Interval at which a paused machine writes again what could not be written.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The reason why the machine is paused, as QEMU says it; absent while it is not.
pub(super) type PauseReason = Option<Arc<str>>;

/// Follows QEMU's events until they end.
pub(super) async fn follow(
    events: impl Stream<Item = io::Result<Event>>,
    reason: watch::Sender<PauseReason>,
) {
    let mut events = pin!(events);
    while let Some(Ok(event)) = events.next().await {
        match event {
            Event::BLOCK_IO_ERROR { data, .. } if data.action == BlockErrorAction::stop => {
                reason.send_replace(Some(data.reason.into()));
            }
            Event::RESUME { .. } => {
                reason.send_replace(None);
            }
            _ => {}
        }
    }
}

/// Calls `retry` at intervals while the machine is paused, until [`follow`] has ended.
///
/// Space is not looked for, because a quota or a file system of another kind may be what is full:
/// the machine writes again, and is paused again if that fails.
pub(super) async fn retry_while_paused(
    mut reason: watch::Receiver<PauseReason>,
    retry: impl AsyncFn(),
) {
    let mut logged = None;
    while let Ok(paused) = reason.wait_for(Option::is_some).await.map(|it| it.clone()) {
        if logged != paused {
            let reason = paused.as_deref().unwrap_or_default();
            tracing::error!("machine paused, because its disk cannot be written: {reason}");
            logged = paused;
        }
        sleep(RETRY_INTERVAL).await;
        retry().await;
    }
}
