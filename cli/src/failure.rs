use std::fmt::Display;

use clap::CommandFactory;

/// Why the program ends early: a message of one sentence, and the exit code.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub code: u8,
}

impl Failure {
    /// A failure because input of the user cannot be used.
    pub fn input(message: impl Display) -> Self {
        Failure { message: message.to_string(), code: 2 }
    }

    /// The failure of a fit. `users` and `items` are the ids by which the user knows the rows.
    pub fn of_rows(error: wgloss::Error, users: &[String], items: &[String]) -> Self {
        let wgloss::Error::Undetermined { side, row, ref found } = error else { return error.into() };
        let Some(id) = if side == "user" { users } else { items }.get(row) else { return error.into() };
        Failure::input(format!(
            "the observations of {side} {id} should be such that they and the regularization determine its factor, found {found}; a larger regularization \
             helps, or a smaller dim"
        ))
    }
}

impl From<wgloss::Error> for Failure {
    fn from(error: wgloss::Error) -> Self {
        use wgloss::Error::{Data, NoAdapter, Option, Undetermined};
        let of_input = matches!(error, Data { .. } | NoAdapter { .. } | Option { .. } | Undetermined { .. });
        let code = if of_input { 2 } else { 1 };
        let message = match &error {
            Option { option, expected, found, .. } => {
                flag(option).map(|flag| format!("--{flag}: expected {expected}, found {found}"))
            }
            _ => None,
        };
        Failure { message: message.unwrap_or_else(|| error.to_string()), code }
    }
}

/// The program's name of an option of the library, if it has one.
fn flag(option: &str) -> Option<String> {
    let long = match option {
        "rate" => "lr".to_owned(),
        "max_norm" => "clip".to_owned(),
        option => option.replace('_', "-"),
    };
    let program = crate::Arguments::command();
    let is_there = program.get_subcommands().any(|of| of.get_arguments().any(|one| one.get_long() == Some(&long)));
    is_there.then_some(long)
}
