//! `wgloss wals --from RUN`: a fit that starts from the factors of an earlier run.

use std::collections::HashMap;
use std::path::Path;

use wgloss::train::tables::Model;
use wgloss::train::wals::Config;

use crate::failure::Failure;
use crate::interactions::Loaded;
use crate::tables::Tables;

/// The starting factors. Ids that the run knows have its factors; other items start as drawn, other users at 0.
pub fn start(folder: &Path, loaded: &Loaded, config: &Config) -> Result<Model, Failure> {
    let Tables { model, ids, .. } = Tables::load(folder)?;
    let dim = config.dim;
    if model.dim != dim {
        let expected = format!("expected factors as wide as --dim says, {dim}");
        return Err(Failure::input(format!("--from {}: {expected}, found {}", folder.display(), model.dim)));
    }
    let (mut users, mut items) = (vec![0.0; loaded.users.len() * dim], config.drawn(loaded.items.len()));
    let known_users = take_over(&ids.users, &model.users, &loaded.users, &mut users, dim);
    let known_items = take_over(&ids.items, &model.items, &loaded.items, &mut items, dim);
    if known_users + known_items == 0 {
        let of = |ids: &[String]| ids.first().cloned().unwrap_or_default();
        let expected =
            format!("expected users or items of the run, such as {:?} and {:?}", of(&ids.users), of(&ids.items));
        let found =
            format!("found none in the interactions, which have {:?} and {:?}", of(&loaded.users), of(&loaded.items));
        return Err(Failure::input(format!("--from {}: {expected}, {found}", folder.display())));
    }
    say!("start:   factors of {known_users} of the users and {known_items} of the items from {}", folder.display());
    Ok(Model { users, items, dim })
}

/// Replaces the rows of ids that are in both. Returns how many.
fn take_over(old: &[String], rows: &[f32], new: &[String], into: &mut [f32], dim: usize) -> usize {
    let rows: HashMap<&String, &[f32]> = old.iter().zip(rows.chunks(dim)).collect();
    let both = new.iter().zip(into.chunks_mut(dim)).filter_map(|(id, row)| Some((rows.get(id)?, row)));
    both.map(|(old, row)| row.copy_from_slice(old)).count()
}

/// Refuses to replace the run that the factors come from, because a failing fit would then lose both.
pub fn check_folders(from: &Path, out: Option<&Path>) -> Result<(), Failure> {
    let place = |folder: &Path| folder.canonicalize().ok();
    match out.filter(|out| place(out).is_some_and(|out| place(from) == Some(out))) {
        None => Ok(()),
        Some(out) => {
            let expected = "expected another folder than that of --from, which a fit that fails would lose";
            Err(Failure::input(format!("--out {}: {expected}, found the same", out.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_taken_over_by_their_ids() {
        let ids = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        let mut rows = [0.5; 8];
        assert_eq!(take_over(&ids("abc"), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &ids("xcyb"), &mut rows, 2), 2);
        assert_eq!(rows, [0.5, 0.5, 5.0, 6.0, 0.5, 0.5, 3.0, 4.0]);
    }
}
