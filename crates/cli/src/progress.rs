//! How far a long command is, on standard error.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use container_api::{Progress, Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output;

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// A moving line on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// A moving line.
    Ansi,
    /// A line for each step.
    Plain,
    /// A moving line with colours.
    Color,
}

/// Shows the steps of one command.
pub struct ProgressDisplay {
    step: String,
    began: Instant,
    shown: Shown,
}

enum Shown {
    Nothing,
    Lines,
    Bar(ProgressBar),
}

impl ProgressDisplay {
    /// Shows progress in this way.
    pub fn new(mode: ProgressMode) -> ProgressDisplay {
        let on_terminal = io::stderr().is_terminal();
        let shown = match mode {
            ProgressMode::None => Shown::Nothing,
            ProgressMode::Plain => Shown::Lines,
            ProgressMode::Auto if !on_terminal => Shown::Lines,
            ProgressMode::Auto | ProgressMode::Color => {
                Shown::Bar(bar("{spinner:.cyan} {msg:.bold} {elapsed:.dim}"))
            }
            ProgressMode::Ansi => Shown::Bar(bar("{spinner} {msg} {elapsed}")),
        };
        ProgressDisplay {
            step: String::new(),
            began: Instant::now(),
            shown,
        }
    }

    /// Shows what is being done. Notes are shown whatever the mode.
    pub fn show(&mut self, progress: &Progress) {
        match progress {
            Progress::Step(step) => self.show_step(step),
            Progress::Note(note) => match &self.shown {
                Shown::Bar(bar) => bar.suspend(|| output::note(note)),
                Shown::Nothing | Shown::Lines => output::note(note),
            },
        }
    }

    fn show_step(&mut self, step: &Step) {
        let is_new = self.step != step.name;
        self.step.clone_from(&step.name);
        match &self.shown {
            Shown::Nothing => {}
            Shown::Lines if is_new => {
                let seconds = self.began.elapsed().as_secs_f64();
                output::note(&format!("[{seconds:.1}s] {}", step.name));
            }
            Shown::Lines => {}
            Shown::Bar(bar) => {
                if is_new {
                    bar.reset_elapsed();
                }
                bar.set_message(message(step));
            }
        }
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // The templates above are well-formed; a plain spinner is as good.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn message(step: &Step) -> String {
    let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let name = &step.name;
    match (step.done, step.total) {
        (Some(done), Some(total)) => {
            format!("{name} {} of {}", mebibytes(done), mebibytes(total))
        }
        (Some(done), None) => format!("{name} {}", mebibytes(done)),
        _ => name.clone(),
    }
}
