//! How far a long command is, on standard error.

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

/// A step that takes longer than this gets a plain line in between, and again after as long.
const LONG: Duration = Duration::from_secs(10);

/// How often is looked whether it has taken that long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The moving line is drawn this often each second at most.
const HERTZ: u8 = 10;

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// A moving line with colours on a terminal, plain lines elsewhere, and where NO_COLOR is set
    /// or TERM is dumb.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// A moving line.
    Ansi,
    /// A line when a step begins, one when it ends, and now and then one in between.
    Plain,
    /// A moving line with colours.
    Color,
}

impl ProgressMode {
    /// What `auto` is here.
    fn resolved(self) -> ProgressMode {
        let has_moving_line = || {
            // What --debug tells would go through it.
            io::stderr().is_terminal()
                && output::is_coloured(&io::stderr())
                && !tracing::enabled!(tracing::Level::DEBUG)
        };
        match self {
            ProgressMode::Auto if has_moving_line() => ProgressMode::Color,
            ProgressMode::Auto => ProgressMode::Plain,
            chosen => chosen,
        }
    }
}

/// Carries out a request and shows how far it is. When this process is interrupted meanwhile the
/// process ends; `given_up` is told if there was anything to wait for.
pub async fn shown<T, E: Into<Failure>>(
    mode: ProgressMode,
    given_up: &str,
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
                    display.borrow_mut().step_is_done();
                }
                return outcome.map_err(Into::into);
            }
            code = interrupts.next() => break code,
            () = tokio::time::sleep(LOOK_AGAIN) => display.borrow_mut().look(),
        }
    };
    // What it has begun goes with it.
    drop(outcome);
    let mut display = display.borrow_mut();
    display.clear();
    if display.step.is_some() {
        output::note(given_up);
    }
    std::process::exit(code);
}

/// Shows the steps of one command.
struct ProgressDisplay {
    began: Instant,
    step: Option<RunningStep>,
    shown: Shown,
}

enum Shown {
    Nothing,
    Lines {
        last: Instant,
    },
    /// The bar is made when there is something to show.
    Moving {
        bar: Option<ProgressBar>,
        style: &'static str,
    },
}

impl ProgressDisplay {
    fn new(mode: ProgressMode) -> ProgressDisplay {
        let shown = match mode.resolved() {
            ProgressMode::None => Shown::Nothing,
            ProgressMode::Ansi => Shown::Moving {
                bar: None,
                style: "{spinner} {elapsed} {wide_msg}",
            },
            ProgressMode::Color => Shown::Moving {
                bar: None,
                style: "{spinner:.cyan.bold} {elapsed:.dim} {wide_msg}",
            },
            ProgressMode::Auto | ProgressMode::Plain => Shown::Lines {
                last: Instant::now(),
            },
        };
        // A mode that was asked for holds whatever standard output is.
        console::set_colors_enabled(true);
        ProgressDisplay {
            began: Instant::now(),
            step: None,
            shown,
        }
    }

    /// Shows what is being done. Notes are shown whatever the mode.
    fn show(&mut self, progress: &Progress) {
        match progress {
            Progress::Step(step) => self.show_step(step),
            Progress::Note(note) => match &self.shown {
                Shown::Moving { bar: Some(bar), .. } => bar.suspend(|| output::note(note)),
                _ => output::note(note),
            },
        }
    }

    fn show_step(&mut self, step: &Step) {
        let goes_on = self.step.as_mut().is_some_and(|it| it.goes_on(step));
        if !goes_on {
            self.step_is_done();
            self.line(&step.name);
        }
        let step = match &mut self.step {
            Some(running) if goes_on => running,
            other => other.insert(RunningStep::new(step)),
        };
        if let Shown::Moving { bar, style } = &mut self.shown {
            let bar = bar.get_or_insert_with(|| moving_line(style));
            if !goes_on {
                bar.reset_elapsed();
            }
            bar.set_message(step.so_far());
        }
    }

    /// The step that was shown, if any, is done.
    fn step_is_done(&mut self) {
        if let Some(step) = self.step.take() {
            self.line(&step.done());
        }
    }

    /// Looks at a step from which nothing is heard.
    fn look(&mut self) {
        let Some(step) = &self.step else { return };
        match &self.shown {
            Shown::Lines { last } if last.elapsed() >= LONG => self.line(&step.still()),
            // Its speed is another one by now.
            Shown::Moving { bar: Some(bar), .. } => bar.set_message(step.so_far()),
            _ => {}
        }
    }

    fn line(&mut self, text: &str) {
        if let Shown::Lines { last } = &mut self.shown {
            *last = Instant::now();
            let seconds = self.began.elapsed().as_secs_f64();
            output::note(&format!("[{seconds:.1}s] {text}"));
        }
    }

    fn clear(&mut self) {
        if let Shown::Moving { bar, .. } = &mut self.shown
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

fn moving_line(style: &str) -> ProgressBar {
    let target = ProgressDrawTarget::term_like_with_hz(Box::<StandardError>::default(), HERTZ);
    let bar = ProgressBar::with_draw_target(None, target);
    // The templates above are well-formed; a plain spinner is as good.
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
