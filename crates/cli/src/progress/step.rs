//! A step in words.

use std::time::{Duration, Instant};

use container_api::{Layers, Step};

use crate::size::size;

/// Too short a time to tell a speed from.
const TOO_SHORT: Duration = Duration::from_millis(100);

/// A step that began, and how far it is.
pub struct RunningStep {
    newest: Step,
    began: Instant,
}

impl RunningStep {
    /// It begins now.
    pub fn new(step: &Step) -> RunningStep {
        RunningStep {
            newest: step.clone(),
            began: Instant::now(),
        }
    }

    /// Whether `step` is this one; then it is that far now.
    pub fn goes_on(&mut self, step: &Step) -> bool {
        let is_this = self.newest.name == step.name;
        if is_this {
            self.newest.clone_from(step);
        }
        is_this
    }

    /// What it is called, and its numbers so far.
    pub fn so_far(&self) -> String {
        so_far(&self.newest, self.began.elapsed())
    }

    /// As [`so_far`](Self::so_far), and where there are no numbers, how long it takes already.
    pub fn still(&self) -> String {
        still(&self.newest, self.began.elapsed())
    }

    /// What it is called, and its numbers now that it is done.
    pub fn done(&self) -> String {
        done(&self.newest, self.began.elapsed())
    }
}

fn so_far(step: &Step, elapsed: Duration) -> String {
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
    in_words(&step.name, &numbers)
}

fn still(step: &Step, elapsed: Duration) -> String {
    match step.done {
        Some(_) => so_far(step, elapsed),
        None => format!("{}: {}s so far", step.name, elapsed.as_secs()),
    }
}

fn done(step: &Step, elapsed: Duration) -> String {
    let mut numbers = vec![format!("done in {:.1}s", elapsed.as_secs_f64())];
    if let Some(Layers { total, .. }) = step.layers {
        numbers.push(layers(total));
    }
    // The last reports may have been left out; a step that is done did all of it.
    if let Some(bytes) = step.total.or(step.done) {
        numbers.push(size(bytes));
        numbers.extend(speed(bytes, elapsed));
    }
    in_words(&step.name, &numbers)
}

fn layers(count: usize) -> String {
    match count {
        1 => "1 layer".to_owned(),
        _ => format!("{count} layers"),
    }
}

fn speed(bytes: u64, elapsed: Duration) -> Option<String> {
    let is_telling = bytes > 0 && elapsed >= TOO_SHORT;
    is_telling.then(|| {
        let each_second = bytes as f64 / elapsed.as_secs_f64();
        format!("{}/s", size(each_second as u64))
    })
}

fn in_words(name: &str, numbers: &[String]) -> String {
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
    fn a_step_has_the_numbers_that_are_known() {
        let seconds = Duration::from_secs;
        assert_eq!(
            so_far(&step(None, None, None), seconds(9)),
            "fetching image"
        );
        assert_eq!(
            still(&step(None, None, None), seconds(9)),
            "fetching image: 9s so far"
        );
        assert_eq!(
            so_far(&step(None, Some(3 << 20), None), seconds(2)),
            "fetching image: 3.0 MiB, 1.5 MiB/s"
        );
        let three = Some(Layers { done: 1, total: 3 });
        let half = step(three, Some(4 << 20), Some(8 << 20));
        assert_eq!(
            so_far(&half, seconds(4)),
            "fetching image: 1 of 3 layers, 4.0 MiB of 8.0 MiB (50%), 1.0 MiB/s"
        );
        assert_eq!(
            done(&half, seconds(4)),
            "fetching image: done in 4.0s, 3 layers, 8.0 MiB, 2.0 MiB/s"
        );
        assert_eq!(
            done(&step(None, None, None), seconds(0)),
            "fetching image: done in 0.0s"
        );
        let empty = step(Some(Layers { done: 0, total: 1 }), Some(0), Some(0));
        assert_eq!(
            so_far(&empty, seconds(1)),
            "fetching image: 0 of 1 layer, 0 B"
        );
    }
}
