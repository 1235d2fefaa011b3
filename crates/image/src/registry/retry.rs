//! Retry limits and backoff.

use std::time::Duration;

/// Retries of a transfer that makes no progress.
pub(crate) const MAX_RETRIES: u32 = 4;
/// Retries of a request to which the registry answers that it is busy.
pub(super) const MAX_BUSY_RETRIES: u32 = 2;
/// Delay before the first retry. It doubles with each further one.
const FIRST_DELAY: Duration = Duration::from_millis(300);

/// Waits before the retry after `failures` earlier retries.
pub(crate) async fn backoff(failures: u32) {
    tokio::time::sleep(FIRST_DELAY * 2u32.pow(failures)).await;
}
