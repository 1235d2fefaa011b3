//! Whether anybody needs the service.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};

/// Counts the work that goes on.
#[derive(Debug, Clone, Default)]
pub struct Activity {
    going_on: watch::Sender<usize>,
}

/// Work that goes on until this is dropped.
#[derive(Debug)]
pub struct Work {
    going_on: watch::Sender<usize>,
}

impl Activity {
    /// Begins some work.
    pub fn begin(&self) -> Work {
        self.going_on.send_modify(|count| *count += 1);
        Work {
            going_on: self.going_on.clone(),
        }
    }

    /// Waits until no work goes on.
    pub async fn none(&self) {
        // It cannot be closed: this is a sender of it.
        let _ = self
            .going_on
            .subscribe()
            .wait_for(|count| *count == 0)
            .await;
    }

    /// Waits until no work has gone on for so long.
    pub async fn none_for(&self, long: Duration) {
        loop {
            let mut changes = self.going_on.subscribe();
            self.none().await;
            changes.mark_unchanged();
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep(long) => return,
            }
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.going_on.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_is_there_once_all_work_has_ended_for_long_enough() {
        let activity = Activity::default();
        let work = activity.begin();
        let long = Duration::from_secs(60);
        let idle = tokio::spawn({
            let activity = activity.clone();
            async move { activity.none_for(long).await }
        });
        sleep(long * 3).await;
        assert!(!idle.is_finished());
        drop(work);
        sleep(long / 2).await;
        drop(activity.begin());
        sleep(long * 3 / 4).await;
        assert!(!idle.is_finished(), "the work in between counts");
        idle.await.unwrap();
    }
}
