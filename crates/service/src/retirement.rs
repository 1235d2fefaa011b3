//! End of the service at the request of a client of another build.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

use crate::activity::Activity;

/// Time without a request after which a service that was busy ends. A command sends several
/// requests, which should reach the same service.
const PAUSE: Duration = Duration::from_secs(2);

/// Request to end.
#[derive(Debug, Default)]
pub(crate) struct Retirement {
    requested: Notify,
    is_delayed: AtomicBool,
}

impl Retirement {
    /// Requests the end, which is delayed while the service is busy.
    pub(crate) fn request(&self, is_busy: bool) {
        self.is_delayed.fetch_or(is_busy, Ordering::Relaxed);
        self.requested.notify_one();
    }

    /// Returns whether the end was requested while the service was busy.
    pub(crate) fn is_delayed(&self) -> bool {
        self.is_delayed.load(Ordering::Relaxed)
    }

    /// Waits until the end was requested and the service is not busy.
    pub(crate) async fn due(&self, activity: &Activity) {
        self.requested.notified().await;
        if self.is_delayed() {
            activity.idle_for(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_busy_service_ends_when_its_work_is_done() {
        let (retirement, activity) = (Retirement::default(), Activity::default());
        let long = Duration::from_secs(3600);
        assert!(timeout(long, retirement.due(&activity)).await.is_err());
        let work = activity.begin();
        retirement.request(true);
        assert!(retirement.is_delayed());
        let mut due = std::pin::pin!(retirement.due(&activity));
        assert!(timeout(long, &mut due).await.is_err());
        drop(work);
        timeout(long, due).await.unwrap();
    }

    #[tokio::test]
    async fn an_idle_service_ends_at_once() {
        let (retirement, activity) = (Retirement::default(), Activity::default());
        retirement.request(false);
        retirement.due(&activity).await;
        assert!(!retirement.is_delayed());
    }
}
