//! What ends long work early.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use crate::failure::Failure;

/// The exit code of what was asked to end, 128 and the signal's number; 0 while nobody has asked.
static ASKED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);
/// After Ctrl-C, SIGINT.
const INTERRUPTED: usize = 128 + 2;

/// Ends a training when the user asks for it, or when what it tells cannot be kept.
pub struct Stop {
    failure: Option<Failure>,
}

impl Stop {
    /// Asked for by Ctrl-C, which twice ends the program at once, or by SIGTERM or SIGHUP.
    pub fn on_ctrl_c() -> Result<Stop, Failure> {
        let handler = ctrlc::set_handler(|| {
            if ASKED.swap(INTERRUPTED, Ordering::Relaxed) != 0 {
                std::process::exit(INTERRUPTED as i32);
            }
        });
        handler.map_err(|error| Failure { message: format!("Ctrl-C cannot be caught: {error}"), code: 1 })?;
        // What batch queues and containers send before they kill, and a terminal that is gone.
        #[cfg(unix)]
        for (name, signal) in [("SIGTERM", signal_hook::consts::SIGTERM), ("SIGHUP", signal_hook::consts::SIGHUP)] {
            signal_hook::flag::register_usize(signal, ASKED.clone(), 128 + signal as usize)
                .map_err(|error| Failure { message: format!("{name} cannot be caught: {error}"), code: 1 })?;
        }
        Ok(Stop { failure: None })
    }

    /// Whether the training goes on after an event that was `kept`.
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

    /// Whether something that was told could not be kept.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// The failure that ended the training.
    pub fn failure(self) -> Result<(), Failure> {
        self.failure.map_or(Ok(()), Err)
    }
}

/// Whether the user has asked for an end.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed) != 0
}

/// The exit code of work that was done, or that the user has ended.
pub fn code() -> ExitCode {
    ExitCode::from(ASKED.load(Ordering::Relaxed) as u8)
}
