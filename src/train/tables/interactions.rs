use crate::{Error, Result};

/// Which user took which item. A pair may occur more than once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interactions {
    pub(in crate::train) users: Vec<u32>,
    pub(in crate::train) items: Vec<u32>,
    pub(in crate::train) user_count: usize,
    pub(in crate::train) item_count: usize,
}

impl Interactions {
    /// User `users[e]` took item `items[e]`. User ids are 0 to `user_count` − 1, item ids 0 to `item_count` − 1.
    ///
    /// # Errors
    /// [`Error::Data`] if the lengths differ or exceed 2³² − 1, an id is out of range, or there are more than 2³² − 2
    /// users or items.
    pub fn new(users: Vec<u32>, items: Vec<u32>, user_count: usize, item_count: usize) -> Result<Interactions> {
        let refuse = |what: &str, expected, found| Err(Error::Data { what: what.into(), expected, found });
        if items.len() != users.len() || u32::try_from(users.len()).is_err() {
            let found = format!("{}", items.len());
            return refuse("items", format!("as many as users, {}, fewer than 2^32", users.len()), found);
        }
        for (what, ids, count) in [("users", &users, user_count), ("items", &items, item_count)] {
            if let Some(at) = ids.iter().position(|&id| id as usize >= count) {
                return refuse(what, format!("ids below {count}"), format!("{} in interaction {at}", ids[at]));
            }
            // u32::MAX stands for no id.
            if count >= u32::MAX as usize {
                return refuse(what, "fewer than 2^32 - 1".into(), count.to_string());
            }
        }
        Ok(Interactions { users, items, user_count, item_count })
    }

    /// Number of interactions.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there are no interactions.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// The items of each user, ascending and without duplicates.
    pub fn lists(&self) -> Vec<Vec<u32>> {
        let mut lists = vec![Vec::new(); self.user_count];
        for (&user, &item) in self.users.iter().zip(&self.items) {
            lists[user as usize].push(item);
        }
        for list in &mut lists {
            list.sort_unstable();
            list.dedup();
        }
        lists
    }

    /// The number of interactions of each item.
    pub fn popularity(&self) -> Vec<f32> {
        let mut counts = vec![0u32; self.item_count];
        self.items.iter().for_each(|&item| counts[item as usize] += 1);
        counts.into_iter().map(|count| count as f32).collect()
    }
}
