//! The tables that a run of `train --interactions` or `wals` has left.

use std::path::Path;

use safetensors::SafeTensors;
use serde::Deserialize;
use wgloss::train::tables::Model;

use crate::failure::Failure;
use crate::fitted::Fitted;
use crate::run::{self, EMBEDDINGS, IDS};

/// Whose rows the tables have.
#[derive(Deserialize)]
pub struct Ids {
    pub users: Vec<String>,
    pub items: Vec<String>,
}

pub struct Tables {
    pub model: Model,
    pub ids: Ids,
    /// Of a run of `wals`.
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
