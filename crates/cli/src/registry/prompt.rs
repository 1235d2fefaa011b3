//! Questions on the terminal.

use std::io::{self, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::{failure::Failure, interrupt::Interrupts};

/// Asks for a line, which must not be empty.
pub(super) async fn line(question: &str) -> Result<String, Failure> {
    ask(question, None).await
}

/// Asks for a line that is not shown while it is typed, and must not be empty.
pub(super) async fn hidden_line(question: &str) -> Result<String, Failure> {
    let answer = ask(
        question,
        Some(HiddenInput::enter().map_err(Failure::cannot("set up the terminal"))?),
    )
    .await;
    // The line break was not shown either.
    let _ = writeln!(io::stderr());
    answer
}

async fn ask(question: &str, hidden: Option<HiddenInput>) -> Result<String, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let _ = write!(io::stderr(), "{question}");
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = tokio::select! {
        answer = answer => answer
            .map_err(io::Error::from)
            .flatten()
            .map_err(Failure::cannot("read standard input"))?,
        code = interrupts.next() => {
            drop(hidden);
            let _ = writeln!(io::stderr());
            std::process::exit(code);
        }
    };
    drop(hidden);
    let answer = answer.trim_end_matches(['\r', '\n']);
    if answer.is_empty() {
        return Err(Failure::new("the input is empty"));
    }
    Ok(answer.to_owned())
}

/// Standard input's terminal without echo. Restored on drop.
struct HiddenInput {
    original: Termios,
}

impl HiddenInput {
    fn enter() -> io::Result<HiddenInput> {
        let original = tcgetattr(io::stdin())?;
        let mut hidden = original.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(HiddenInput { original })
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        // Fails only if the terminal no longer exists.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.original);
    }
}
