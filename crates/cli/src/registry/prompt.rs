//! Questions to whoever sits at the terminal.

use std::io::{self, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::{failure::Failure, interrupt::Interrupts};

/// Asks for a line that is not empty.
pub async fn line(question: &str) -> Result<String, Failure> {
    asked(question, None).await
}

/// Asks for a line that is not empty and that nobody should see.
pub async fn hidden_line(question: &str) -> Result<String, Failure> {
    let answer = asked(question, Some(Hidden::enter()?)).await;
    // The line end was not shown either.
    let _ = writeln!(io::stderr());
    answer
}

async fn asked(question: &str, hidden: Option<Hidden>) -> Result<String, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let _ = write!(io::stderr(), "{question}");
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = tokio::select! {
        answer = answer => answer??,
        code = interrupts.next() => {
            drop(hidden);
            let _ = writeln!(io::stderr());
            std::process::exit(code);
        }
    };
    drop(hidden);
    let answer = answer.trim_end_matches(['\r', '\n']);
    match answer.is_empty() {
        true => Err(Failure::new("nothing was given")),
        false => Ok(answer.to_owned()),
    }
}

/// Standard input's terminal while it does not show what is typed. Restored on drop.
struct Hidden {
    before: Termios,
}

impl Hidden {
    fn enter() -> io::Result<Hidden> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Hidden { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
