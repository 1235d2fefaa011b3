//! Progress of images and archives in the form of the API.

use std::cell::Cell;

use container_api::{Layers, Progress, Step};
use container_image::{Progress as ImageProgress, Step as ImageStep};

use crate::stream_client::StreamClient;

/// Bytes between two reports of a [`ByteCounter`].
const REPORT_INTERVAL: u64 = 1 << 20;

/// Returns a listener that reports the progress of a pull, a push or an unpacking to the client.
pub(crate) fn image_listener(client: &StreamClient) -> impl Fn(ImageProgress) + Sync {
    |progress| client.report(from_image(progress))
}

/// Converts the progress of a pull, a push or an unpacking.
fn from_image(progress: ImageProgress) -> Progress {
    let name = match progress.step {
        ImageStep::Resolving => return Progress::step("fetching image"),
        ImageStep::Offline { reason } => {
            return Progress::Note(format!(
                "Cannot reach the registry; using the image fetched before: {reason}"
            ));
        }
        ImageStep::CredentialsSkipped { reason } => {
            return Progress::Note(format!("Credentials for registries ignored: {reason}"));
        }
        ImageStep::EngineSkipped { reason } => {
            return Progress::Note(format!("Images of a container engine skipped: {reason}"));
        }
        ImageStep::SettingsUnavailable { reason } => {
            return Progress::Note(format!(
                "Cannot look up machine settings of the image; using those fetched before, if any: {reason}"
            ));
        }
        ImageStep::OnePlatform { platform } => {
            return Progress::Note(format!(
                "Only {platform} of the image's platforms is stored here, and is pushed alone."
            ));
        }
        ImageStep::Uploading => "pushing image",
        ImageStep::Importing { store } => {
            return Progress::step(format!("fetching image from {store}"));
        }
        ImageStep::Downloading => "fetching image",
        ImageStep::Unpacking => "unpacking image",
    };
    Progress::Step(Step {
        name: name.to_owned(),
        layers: progress.layers.map(|layers| Layers {
            done: layers.done,
            total: layers.total,
        }),
        done: Some(progress.done),
        total: progress.total,
    })
}

/// Reports the bytes of a step with unknown total to the client, at most once per MiB.
pub(crate) struct ByteCounter {
    client: StreamClient,
    step: &'static str,
    done: Cell<u64>,
    reported: Cell<Option<u64>>,
}

impl ByteCounter {
    /// Returns the counter for a step, of which nothing is reported yet.
    pub(crate) fn new(client: &StreamClient, step: &'static str) -> ByteCounter {
        ByteCounter {
            client: client.clone(),
            step,
            done: Cell::new(0),
            reported: Cell::new(None),
        }
    }

    /// Sets the number of bytes done, and reports it if it is the first or a MiB more than the last
    /// report.
    pub(crate) fn update(&self, done: u64) {
        self.done.set(done);
        let is_due = self
            .reported
            .get()
            .is_none_or(|reported| done.saturating_sub(reported) >= REPORT_INTERVAL);
        if is_due {
            self.report();
        }
    }

    /// Reports the number of bytes done.
    pub(crate) fn report(&self) {
        self.reported.set(Some(self.done.get()));
        self.client.report(Progress::Step(Step {
            name: self.step.to_owned(),
            layers: None,
            done: Some(self.done.get()),
            total: None,
        }));
    }
}
