//! The tables that a run of `train --interactions` or `wals` leaves.

use std::path::Path;

use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::json;
use wgloss::train::tables::Model;

use crate::failure::Failure;
use crate::interactions::{Loaded, Split};
use crate::run::{self, EMBEDDINGS, HELD_OUT, IDS, Run};
use crate::wals::fitted::Fitted;

/// The ids of the tables' rows.
#[derive(Deserialize)]
pub struct Ids {
    pub users: Vec<String>,
    pub items: Vec<String>,
}

pub struct Tables {
    pub model: Model,
    pub ids: Ids,
    /// How the run was fitted, for runs of `wals`.
    pub fitted: Option<Fitted>,
}

impl Tables {
    pub fn load(folder: &Path) -> Result<Tables, Failure> {
        let refuse = |name: &str, found: String| {
            let expected = "expected what `wgloss train --interactions` or `wgloss wals` leaves";
            Failure::input(format!("{}: {expected}, found {found}", folder.join(name).display()))
        };
        let read = |name| std::fs::read(folder.join(name)).map_err(|error| refuse(name, error.to_string()));
        let ids: Ids = serde_json::from_slice(&read(IDS)?).map_err(|error| refuse(IDS, error.to_string()))?;
        let bytes = read(EMBEDDINGS)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| refuse(EMBEDDINGS, error.to_string()))?;
        let table = |name: &str, ids: &[String]| -> Result<(Vec<f32>, usize), Failure> {
            let (shape, numbers) = run::tensor(&tensors, name).map_err(|found| refuse(EMBEDDINGS, found))?;
            let [rows, dim] = shape[..] else { return Err(refuse(EMBEDDINGS, format!("{name} of shape {shape:?}"))) };
            if rows != ids.len() || dim == 0 {
                return Err(refuse(EMBEDDINGS, format!("{name} {shape:?} beside {} ids", ids.len())));
            }
            Ok((numbers, dim))
        };
        let ((users, dim), (items, item_dim)) = (table("users", &ids.users)?, table("items", &ids.items)?);
        if dim != item_dim {
            return Err(refuse(EMBEDDINGS, format!("users {dim} wide and items {item_dim}")));
        }
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| refuse(EMBEDDINGS, error.to_string()))?;
        let about = header.metadata().as_ref().and_then(|about| serde_json::from_str(about.get("wgloss")?).ok());
        let fitted = about.and_then(|about| Fitted::restored(&about)).filter(|fitted| fitted.config.dim == dim);
        Ok(Tables { model: Model { users, items, dim }, ids, fitted })
    }
}

/// Writes the tables, the ids of their rows, and the held-out interactions, if any.
pub fn keep(
    run: &mut Run,
    loaded: &Loaded,
    split: &Split,
    model: &Model,
    about: &serde_json::Value,
) -> Result<(), Failure> {
    let shape = |ids: &[String]| vec![ids.len(), model.dim];
    let tensors = [
        ("users".to_owned(), shape(&loaded.users), model.users.as_slice()),
        ("items".to_owned(), shape(&loaded.items), model.items.as_slice()),
    ];
    let tables = run::safetensors(EMBEDDINGS, &tensors, about)?;
    let ids = json!({"users": loaded.users, "items": loaded.items});
    let held_out = split.asked_for.iter().map(|&(user, item, weight)| {
        [loaded.users[user as usize].clone(), loaded.items[item as usize].clone(), weight.to_string()]
    });
    let held_out = run::csv(HELD_OUT, ["user", "item", "weight"], held_out)?;
    let ids = ids.to_string();
    let files = [(EMBEDDINGS, &tables[..]), (IDS, ids.as_bytes()), (HELD_OUT, &held_out)];
    run.write(if split.asked_for.is_empty() { &files[..2] } else { &files })
}
