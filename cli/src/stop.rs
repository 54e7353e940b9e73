//! Ends long work early.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use crate::failure::Failure;

/// The exit code if the program was asked to end: 128 plus the signal's number. 0 if it was not asked.
static ASKED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);
/// The exit code after Ctrl-C (SIGINT).
const INTERRUPTED: usize = 128 + 2;

/// Ends training when the user asks for it, or when its results cannot be written.
pub struct Stop {
    failure: Option<Failure>,
}

impl Stop {
    /// Listens for Ctrl-C, SIGTERM and SIGHUP. A second Ctrl-C ends the program at once.
    pub fn on_ctrl_c() -> Result<Stop, Failure> {
        let handler = ctrlc::set_handler(|| {
            if ASKED.swap(INTERRUPTED, Ordering::Relaxed) != 0 {
                std::process::exit(INTERRUPTED as i32);
            }
        });
        handler.map_err(|error| Failure { message: format!("Ctrl-C cannot be caught: {error}"), code: 1 })?;
        // SIGTERM comes from batch queues and containers before they kill; SIGHUP from a terminal that closes.
        #[cfg(unix)]
        for (name, signal) in [("SIGTERM", signal_hook::consts::SIGTERM), ("SIGHUP", signal_hook::consts::SIGHUP)] {
            signal_hook::flag::register_usize(signal, ASKED.clone(), 128 + signal as usize)
                .map_err(|error| Failure { message: format!("{name} cannot be caught: {error}"), code: 1 })?;
        }
        Ok(Stop { failure: None })
    }

    /// Whether training goes on after an event. `kept` is the outcome of writing that event.
    pub fn after(&mut self, kept: Result<(), Failure>) -> ControlFlow<()> {
        match kept {
            Ok(()) if asked() => ControlFlow::Break(()),
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                self.failure = Some(failure);
                ControlFlow::Break(())
            }
        }
    }

    /// Whether writing has failed.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// The failure that ended training, if any.
    pub fn failure(self) -> Result<(), Failure> {
        self.failure.map_or(Ok(()), Err)
    }
}

/// Whether the program was asked to end.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed) != 0
}

/// The exit code of work that finished or that the user ended.
pub fn code() -> ExitCode {
    ExitCode::from(ASKED.load(Ordering::Relaxed) as u8)
}
