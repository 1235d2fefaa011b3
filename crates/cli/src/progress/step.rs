//! Texts about the progress of one step.

use std::time::{Duration, Instant};

use container_api::{Layers, Step};

use crate::size::size;

/// Elapsed time below which a speed would be meaningless.
const MIN_TIME_FOR_SPEED: Duration = Duration::from_millis(100);

/// Step in progress.
pub(super) struct RunningStep {
    last_report: Step,
    began: Instant,
}

impl RunningStep {
    /// Starts the step now, with its first report.
    pub(super) fn new(step: &Step) -> RunningStep {
        RunningStep {
            last_report: step.clone(),
            began: Instant::now(),
        }
    }

    /// Updates the step if the report is about it. Returns whether it is.
    pub(super) fn update(&mut self, step: &Step) -> bool {
        let is_same = self.last_report.name == step.name;
        if is_same {
            self.last_report.clone_from(step);
        }
        is_same
    }

    /// Returns the name and the current numbers.
    pub(super) fn status(&self) -> String {
        status(&self.last_report, self.began.elapsed())
    }

    /// Returns the name and the current numbers, or the elapsed time if there are none.
    pub(super) fn status_with_elapsed(&self) -> String {
        status_with_elapsed(&self.last_report, self.began.elapsed())
    }

    /// Returns the name and the final numbers.
    pub(super) fn summary(&self) -> String {
        summary(&self.last_report, self.began.elapsed())
    }
}

fn status(step: &Step, elapsed: Duration) -> String {
    let mut numbers = Vec::new();
    if let Some(Layers { done, total }) = step.layers {
        numbers.push(format!("{done} of {}", layers(total)));
    }
    if let Some(bytes) = step.done {
        numbers.push(match step.total {
            Some(total) if total > 0 => {
                let percent = u128::from(bytes) * 100 / u128::from(total);
                format!("{} of {} ({percent}%)", size(bytes), size(total))
            }
            _ => size(bytes),
        });
        numbers.extend(speed(bytes, elapsed));
    }
    with_numbers(&step.name, &numbers)
}

fn status_with_elapsed(step: &Step, elapsed: Duration) -> String {
    match step.done {
        Some(_) => status(step, elapsed),
        None => format!("{}: {}s so far", step.name, elapsed.as_secs()),
    }
}

fn summary(step: &Step, elapsed: Duration) -> String {
    let mut numbers = vec![format!("done in {:.1}s", elapsed.as_secs_f64())];
    if let Some(Layers { total, .. }) = step.layers {
        numbers.push(layers(total));
    }
    // Reports are rate-limited, so the last one may be missing. A finished step has done its total.
    if let Some(bytes) = step.total.or(step.done) {
        numbers.push(size(bytes));
        numbers.extend(speed(bytes, elapsed));
    }
    with_numbers(&step.name, &numbers)
}

fn layers(count: usize) -> String {
    match count {
        1 => "1 layer".to_owned(),
        _ => format!("{count} layers"),
    }
}

fn speed(bytes: u64, elapsed: Duration) -> Option<String> {
    let is_meaningful = bytes > 0 && elapsed >= MIN_TIME_FOR_SPEED;
    is_meaningful.then(|| {
        let per_second = bytes as f64 / elapsed.as_secs_f64();
        format!("{}/s", size(per_second as u64))
    })
}

fn with_numbers(name: &str, numbers: &[String]) -> String {
    match numbers {
        [] => name.to_owned(),
        _ => format!("{name}: {}", numbers.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(layers: Option<Layers>, done: Option<u64>, total: Option<u64>) -> Step {
        Step {
            name: "fetching image".to_owned(),
            layers,
            done,
            total,
        }
    }

    #[test]
    fn a_step_shows_the_numbers_it_has() {
        let seconds = Duration::from_secs;
        assert_eq!(
            status(&step(None, None, None), seconds(9)),
            "fetching image"
        );
        assert_eq!(
            status_with_elapsed(&step(None, None, None), seconds(9)),
            "fetching image: 9s so far"
        );
        assert_eq!(
            status(&step(None, Some(3 << 20), None), seconds(2)),
            "fetching image: 3.0 MiB, 1.5 MiB/s"
        );
        let three = Some(Layers { done: 1, total: 3 });
        let half = step(three, Some(4 << 20), Some(8 << 20));
        assert_eq!(
            status(&half, seconds(4)),
            "fetching image: 1 of 3 layers, 4.0 MiB of 8.0 MiB (50%), 1.0 MiB/s"
        );
        assert_eq!(
            summary(&half, seconds(4)),
            "fetching image: done in 4.0s, 3 layers, 8.0 MiB, 2.0 MiB/s"
        );
        assert_eq!(
            summary(&step(None, None, None), seconds(0)),
            "fetching image: done in 0.0s"
        );
        let empty = step(Some(Layers { done: 0, total: 1 }), Some(0), Some(0));
        assert_eq!(
            status(&empty, seconds(1)),
            "fetching image: 0 of 1 layer, 0 B"
        );
    }
}
