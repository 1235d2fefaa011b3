//! Counter of the requests in progress, from which the service knows when it is idle.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};

/// Number of requests and background tasks in progress.
#[derive(Debug, Clone, Default)]
pub(crate) struct Activity {
    in_progress: watch::Sender<usize>,
}

/// A request or task in progress; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct ActivityGuard {
    in_progress: watch::Sender<usize>,
}

impl Activity {
    /// Counts a request or task until the guard is dropped.
    pub(crate) fn begin(&self) -> ActivityGuard {
        self.in_progress.send_modify(|count| *count += 1);
        ActivityGuard {
            in_progress: self.in_progress.clone(),
        }
    }

    /// Returns the number of requests and tasks in progress.
    pub(crate) fn count(&self) -> usize {
        *self.in_progress.borrow()
    }

    /// Waits until nothing is in progress.
    pub(crate) async fn idle(&self) {
        // The channel cannot be closed: `self` is a sender of it.
        let _ = self
            .in_progress
            .subscribe()
            .wait_for(|count| *count == 0)
            .await;
    }

    /// Waits until nothing has been in progress for `duration`.
    pub(crate) async fn idle_for(&self, duration: Duration) {
        loop {
            let mut changes = self.in_progress.subscribe();
            self.idle().await;
            changes.mark_unchanged();
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep(duration) => return,
            }
        }
    }
}

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        self.in_progress.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_restarts_the_idle_time() {
        let activity = Activity::default();
        let request = activity.begin();
        let idle_time = Duration::from_secs(60);
        let idle = tokio::spawn({
            let activity = activity.clone();
            async move { activity.idle_for(idle_time).await }
        });
        sleep(idle_time * 3).await;
        assert!(!idle.is_finished());
        drop(request);
        sleep(idle_time / 2).await;
        drop(activity.begin());
        sleep(idle_time * 3 / 4).await;
        assert!(
            !idle.is_finished(),
            "the request in between was not counted"
        );
        idle.await.unwrap();
    }
}
