use std::fmt::Display;

/// Why the program ends early: one sentence, and the exit code.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub code: u8,
}

impl Failure {
    /// Something that the user gave cannot be used.
    pub fn input(message: impl Display) -> Self {
        Failure { message: message.to_string(), code: 2 }
    }
}

impl From<wgloss::Error> for Failure {
    fn from(error: wgloss::Error) -> Self {
        use wgloss::Error::{Data, NoAdapter, Option, Undetermined};
        let of_input = matches!(error, Data { .. } | NoAdapter { .. } | Option { .. } | Undetermined { .. });
        let code = if of_input { 2 } else { 1 };
        Failure { message: error.to_string(), code }
    }
}
