//! What ends a training early.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::Failure;

/// Ends a training when the user asks for it, or when what it tells cannot be kept.
pub struct Stop {
    asked: Arc<AtomicBool>,
    failure: Option<Failure>,
}

impl Stop {
    /// Asked for by Ctrl-C, which twice ends the program at once, or by SIGTERM or SIGHUP.
    pub fn on_ctrl_c() -> Result<Stop, Failure> {
        let asked = Arc::new(AtomicBool::new(false));
        let again = asked.clone();
        let handler = ctrlc::set_handler(move || {
            if again.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        });
        handler.map_err(|error| Failure { message: format!("Ctrl-C cannot be caught: {error}"), code: 1 })?;
        // What batch queues and containers send before they kill, and a terminal that is gone.
        #[cfg(unix)]
        for (name, signal) in [("SIGTERM", signal_hook::consts::SIGTERM), ("SIGHUP", signal_hook::consts::SIGHUP)] {
            signal_hook::flag::register(signal, asked.clone())
                .map_err(|error| Failure { message: format!("{name} cannot be caught: {error}"), code: 1 })?;
        }
        Ok(Stop { asked, failure: None })
    }

    /// Whether the training goes on after an event that was `kept`.
    pub fn after(&mut self, kept: Result<(), Failure>) -> ControlFlow<()> {
        match kept {
            Ok(()) if self.asked.load(Ordering::Relaxed) => ControlFlow::Break(()),
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                self.failure = Some(failure);
                ControlFlow::Break(())
            }
        }
    }

    /// Whether something that was told could not be kept.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// The failure that ended the training.
    pub fn failure(self) -> Result<(), Failure> {
        self.failure.map_or(Ok(()), Err)
    }
}
