//! Progress of long requests, on standard error: a moving line on a terminal, plain lines
//! elsewhere.

mod step;
mod terminal;

use std::{
    cell::RefCell,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use container_api::{Progress, Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::{step::RunningStep, terminal::StandardError};
use crate::{failure::Failure, interrupt::Interrupts, output};

/// Interval between plain lines about the same step.
const PLAIN_LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Interval at which the display is refreshed while no progress is reported.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum redraws of the moving line per second.
const MAX_REDRAW_HERTZ: u8 = 10;

/// Kind of progress display.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// A coloured moving line on a terminal; plain lines elsewhere, and if NO_COLOR is set or TERM
    /// is dumb.
    #[default]
    Auto,
    /// No progress.
    None,
    /// A moving line without colours.
    Ansi,
    /// A line when a step begins and when it ends, and one every 10 seconds in between.
    Plain,
    /// A coloured moving line.
    Color,
}

impl ProgressMode {
    /// Replaces `auto` by the mode for this process's standard error.
    fn resolve(self) -> ProgressMode {
        let can_move_line = || {
            // With --debug, log messages would be written over the moving line.
            io::stderr().is_terminal()
                && output::is_coloured(&io::stderr())
                && !tracing::enabled!(tracing::Level::DEBUG)
        };
        match self {
            ProgressMode::Auto if can_move_line() => ProgressMode::Color,
            ProgressMode::Auto => ProgressMode::Plain,
            chosen => chosen,
        }
    }
}

/// Waits for a request and shows its progress. SIGINT or SIGTERM cancels the request and ends the
/// process; `cancelled` is printed if any progress was shown by then.
pub(crate) async fn show_while<T, E: Into<Failure>>(
    mode: ProgressMode,
    cancelled: &str,
    request: impl AsyncFnOnce(&mut dyn FnMut(Progress)) -> Result<T, E>,
) -> Result<T, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let display = RefCell::new(ProgressDisplay::new(mode));
    let mut show = |progress| display.borrow_mut().show(&progress);
    let mut outcome = Box::pin(request(&mut show));
    let code = loop {
        tokio::select! {
            outcome = &mut outcome => {
                if outcome.is_ok() {
                    display.borrow_mut().end_step();
                }
                return outcome.map_err(Into::into);
            }
            code = interrupts.next() => break code,
            () = tokio::time::sleep(REFRESH_INTERVAL) => display.borrow_mut().refresh(),
        }
    };
    // Closes the connection, which cancels the request in the service (but not a boot).
    drop(outcome);
    let mut display = display.borrow_mut();
    display.clear();
    if display.step.is_some() {
        output::note(cancelled);
    }
    std::process::exit(code);
}

/// Display of the steps of one request.
struct ProgressDisplay {
    began: Instant,
    step: Option<RunningStep>,
    style: DisplayStyle,
}

enum DisplayStyle {
    Nothing,
    Lines {
        last: Instant,
    },
    Animated {
        /// Absent until there is a step to show.
        bar: Option<ProgressBar>,
        template: &'static str,
    },
}

impl ProgressDisplay {
    fn new(mode: ProgressMode) -> ProgressDisplay {
        let style = match mode.resolve() {
            ProgressMode::None => DisplayStyle::Nothing,
            ProgressMode::Ansi => DisplayStyle::Animated {
                bar: None,
                template: "{spinner} {elapsed} {wide_msg}",
            },
            ProgressMode::Color => DisplayStyle::Animated {
                bar: None,
                template: "{spinner:.cyan.bold} {elapsed:.dim} {wide_msg}",
            },
            ProgressMode::Auto | ProgressMode::Plain => DisplayStyle::Lines {
                last: Instant::now(),
            },
        };
        // indicatif only colours its templates if standard output is a terminal. Here standard
        // error counts, and the mode has been chosen for it.
        console::set_colors_enabled(true);
        ProgressDisplay {
            began: Instant::now(),
            step: None,
            style,
        }
    }

    /// Shows a report. Notes are printed in every mode.
    fn show(&mut self, progress: &Progress) {
        match progress {
            Progress::Step(step) => self.show_step(step),
            Progress::Note(note) => match &self.style {
                DisplayStyle::Animated { bar: Some(bar), .. } => bar.suspend(|| output::note(note)),
                _ => output::note(note),
            },
        }
    }

    fn show_step(&mut self, step: &Step) {
        let is_same_step = self.step.as_mut().is_some_and(|it| it.update(step));
        if !is_same_step {
            self.end_step();
            self.line(&step.name);
        }
        let step = match &mut self.step {
            Some(running) if is_same_step => running,
            other => other.insert(RunningStep::new(step)),
        };
        if let DisplayStyle::Animated { bar, template } = &mut self.style {
            let bar = bar.get_or_insert_with(|| animated_line(template));
            if !is_same_step {
                bar.reset_elapsed();
            }
            bar.set_message(step.status());
        }
    }

    /// Ends the current step, if there is one.
    fn end_step(&mut self) {
        if let Some(step) = self.step.take() {
            self.line(&step.summary());
        }
    }

    /// Updates the display of a step that has not reported progress.
    fn refresh(&mut self) {
        let Some(step) = &self.step else { return };
        match &self.style {
            DisplayStyle::Lines { last } if last.elapsed() >= PLAIN_LINE_INTERVAL => {
                self.line(&step.status_with_elapsed())
            }
            // The speed is an average over the elapsed time.
            DisplayStyle::Animated { bar: Some(bar), .. } => bar.set_message(step.status()),
            _ => {}
        }
    }

    fn line(&mut self, text: &str) {
        if let DisplayStyle::Lines { last } = &mut self.style {
            *last = Instant::now();
            let seconds = self.began.elapsed().as_secs_f64();
            output::note(&format!("[{seconds:.1}s] {text}"));
        }
    }

    fn clear(&mut self) {
        if let DisplayStyle::Animated { bar, .. } = &mut self.style
            && let Some(bar) = bar.take()
        {
            bar.finish_and_clear();
        }
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        self.clear();
    }
}

fn animated_line(template: &str) -> ProgressBar {
    let target =
        ProgressDrawTarget::term_like_with_hz(Box::<StandardError>::default(), MAX_REDRAW_HERTZ);
    let bar = ProgressBar::with_draw_target(None, target);
    // Only an invalid template fails; indicatif then keeps its default spinner.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
