//! Splits interactions into those to train on and those held out to measure with.

use std::path::Path;

use wgloss::Random;
use wgloss::train::tables::{Interactions, Model};

use super::{Entry, Fields, Loaded};
use crate::failure::Failure;

/// Interactions to train on and to measure with.
pub struct Split {
    pub train: Interactions,
    /// The weights of `train`.
    pub values: Vec<f32>,
    pub held_out: Interactions,
    /// The held-out interactions as user, item and weight.
    pub asked_for: Vec<(u32, u32, f32)>,
    /// Users of whom `train` has nothing.
    pub new: Option<New>,
}

/// Users that were left out of training.
pub struct New {
    /// For each user, whether it was left out.
    pub users: Vec<bool>,
    /// The interactions from which they are solved, and their weights.
    pub known: Interactions,
    pub values: Vec<f32>,
}

impl Split {
    /// The interactions to measure with, if any.
    pub fn measured(&self) -> Option<&Interactions> {
        (!self.held_out.is_empty()).then_some(&self.held_out)
    }

    /// The RMSE of the held-out weights: of the products of factors as predictions, and of the mean of the training
    /// weights as the prediction.
    pub fn distance(&self, model: &Model) -> Option<[f64; 2]> {
        let count = self.asked_for.len() as f64;
        let row = |table: &[f32], at: u32| table[at as usize * model.dim..][..model.dim].to_vec();
        let product = |&(user, item, _): &(u32, u32, f32)| -> f64 {
            let (a, b) = (row(&model.users, user), row(&model.items, item));
            a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let mean = self.values.iter().copied().map(f64::from).sum::<f64>() / self.values.len() as f64;
        let root = |of: &dyn Fn(&(u32, u32, f32)) -> f64| {
            let squares = self.asked_for.iter().map(|asked| (of(asked) - f64::from(asked.2)).powi(2));
            (squares.sum::<f64>() / count).sqrt()
        };
        (count > 0.0).then(|| [root(&product), root(&|_| mean)])
    }

    /// A word for which of a user's items are held out.
    pub fn asked(&self) -> &'static str {
        if self.new.is_some() { "later" } else { "last" }
    }
}

/// The share of a new user's interactions that is held out: the last ones, at least one.
const LATER: f64 = 0.2;
/// The stream of random numbers that chooses new users.
const CHOICE: u32 = 0x6e65_7775;

/// Weights of a file without header that are larger may be times: seconds since 1970 passed this in 2001.
const LIKE_TIMES: f32 = 1e9;
/// All interactions of users with fewer than this are used for training.
const ENOUGH: usize = 3;

impl Loaded {
    /// Prints lines about what was read and held out.
    pub fn describe(&self, path: &Path, split: &Split) {
        let held_out = match &split.new {
            Some(new) => format!("{} users left out", new.users.iter().filter(|&&is_new| is_new).count()),
            None if split.asked_for.is_empty() && self.of_users().any(|of_user| last(of_user, is_any).is_some()) => {
                "nothing held out, and so nothing measured".to_owned()
            }
            None if split.asked_for.is_empty() => {
                "nothing held out, since no user has three interactions, and so nothing measured".to_owned()
            }
            None => format!("the last of {} users held out", split.asked_for.len()),
        };
        let [users, items] = [&self.users, &self.items].map(Vec::len);
        say!("{}: {} interactions of {users} users and {items} items; {held_out}", path.display(), self.entries.len());
        if let Some(account) = self.account() {
            say!("{account}");
        }
    }

    /// A line about the lines of the file: which fields were read, and how many lines did not become interactions of
    /// their own.
    fn account(&self) -> Option<String> {
        let rare = self.lines - self.joined - self.entries.len();
        let counts = [
            (self.all - self.lines, "below --min-rating"),
            (self.joined, "joined with others of their pair"),
            (rare, "left out by --min-interactions"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} {why}"));
        let is_guessed = self.fields.as_ref().is_some_and(|fields| fields.header.is_none());
        let like_times = self.largest.filter(|&largest| is_guessed && largest >= LIKE_TIMES).map(|largest| {
            format!("weights up to {largest:e}, which look like times (--columns says which column has what)")
        });
        let told: Vec<String> = self.fields.iter().map(Fields::describe).chain(counts).chain(like_times).collect();
        (!told.is_empty()).then(|| format!("of {} lines: {}", self.all, told.join("; ")))
    }

    fn of_users(&self) -> impl Iterator<Item = &[Entry]> {
        self.entries.chunk_by(|a, b| a.user == b.user)
    }

    /// Leaves out a share of the users with at least two interactions, chosen by `seed`. Nothing of them is trained on.
    pub fn leave_users_out(&self, share: f64, seed: u64, of: Kind) -> Result<Split, Failure> {
        if !(share > 0.0 && share < 1.0) {
            return Err(Failure::input(format!("--new-users: expected a share between 0 and 1, found {share}")));
        }
        let [mut train, mut known, mut held_out] = [const { Vec::new() }; 3];
        let able: Vec<u32> =
            self.of_users().filter(|of_user| of_user.len() > 1).map(|of_user| of_user[0].user).collect();
        let count = ((share * able.len() as f64).round() as usize).min(able.len());
        let mut users = vec![false; self.users.len()];
        for at in &Random::new(seed, CHOICE).permutation(able.len() as u32)[..count] {
            users[able[*at as usize] as usize] = true;
        }
        for of_user in self.of_users() {
            let is_new = users[of_user[0].user as usize];
            let later = ((LATER * of_user.len() as f64) as usize).max(1);
            let (first, last) = of_user.split_at(if is_new { of_user.len() - later } else { 0 });
            known.extend(first);
            match is_new {
                true => held_out.extend(last.iter().filter(|entry| of(entry))),
                false => train.extend(last),
            }
        }
        let refuse = |what: &str| {
            let expected =
                format!("--new-users {share}: expected users of two interactions to leave out, and others to train on");
            Err(Failure::input(format!("{expected}, found no {what}")))
        };
        if held_out.is_empty() || train.is_empty() {
            return refuse(if train.is_empty() { "others" } else { "such users" });
        }
        let new = New { users, known: self.interactions(&known)?, values: values(&known) };
        Ok(Split { new: Some(new), ..self.split(&train, &held_out)? })
    }

    /// Holds out the last interaction of a kind of each user with at least three, or of `most` of these users.
    pub fn leave_last_out(&self, most: u32, of: Kind) -> Result<Split, Failure> {
        let [mut train, mut held_out] = [const { Vec::new() }; 2];
        let all = self.of_users().filter(|of_user| last(of_user, of).is_some()).count();
        let mut next = 0;
        for of_user in self.of_users() {
            let mut held = last(of_user, of);
            if held.is_some() {
                // One user is held out each time the number due reaches the next integer, so that they are evenly
                // spread.
                let due = |users: usize| users * all.min(most as usize) / all;
                held = held.filter(|_| due(next + 1) > due(next));
                next += 1;
            }
            for (at, entry) in of_user.iter().enumerate() {
                if held == Some(at) { &mut held_out } else { &mut train }.push(entry);
            }
        }
        self.split(&train, &held_out)
    }

    fn split(&self, train: &[&Entry], held_out: &[&Entry]) -> Result<Split, Failure> {
        let asked_for = held_out.iter().map(|entry| (entry.user, entry.item, entry.value)).collect();
        let liked: Vec<&Entry> = held_out.iter().copied().filter(|entry| is_liked(entry)).collect();
        let [of_train, held_out] = [train, &liked].map(|entries| self.interactions(entries));
        Ok(Split { train: of_train?, values: values(train), held_out: held_out?, asked_for, new: None })
    }

    fn interactions(&self, entries: &[&Entry]) -> Result<Interactions, Failure> {
        let (users, items) = entries.iter().map(|entry| (entry.user, entry.item)).unzip();
        Ok(Interactions::new(users, items, self.users.len(), self.items.len())?)
    }
}

/// Which interactions may be held out.
pub type Kind = fn(&Entry) -> bool;

/// Where weights are preferences: a recommender should not find items that a user dislikes.
pub fn is_liked(entry: &Entry) -> bool {
    entry.value >= 0.0
}

/// Where weights are values to predict: without those below 0 the error would be that of others.
pub fn is_any(_: &Entry) -> bool {
    true
}

/// The position of the interaction of a user that can be held out.
fn last(of_user: &[Entry], of: Kind) -> Option<usize> {
    of_user.iter().rposition(of).filter(|_| of_user.len() >= ENOUGH)
}

fn values(entries: &[&Entry]) -> Vec<f32> {
    entries.iter().map(|entry| entry.value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interactions::{Rules, read};

    fn parsed(text: &str) -> Result<Loaded, String> {
        read(text.as_bytes(), &Rules::ALL)
    }

    /// Four of the ten users with three interactions are measured, each once. No interaction is lost.
    #[test]
    fn some_users_are_measured() {
        let text: String =
            (0..12).flat_map(|user| (0..3 - user / 10).map(move |item| format!("{user},{item}\n"))).collect();
        let loaded = parsed(&text).unwrap();
        let Split { train, held_out, .. } = loaded.leave_last_out(4, is_liked).unwrap();
        let users: Vec<usize> =
            held_out.lists().iter().enumerate().filter(|(_, of)| of.len() == 1).map(|(user, _)| user).collect();
        assert_eq!(users, [2, 4, 7, 9]);
        assert_eq!(train.len() + held_out.len(), 34);
    }

    #[test]
    fn the_last_is_held_out_of_three() {
        let loaded = parsed("a,x,1,3\na,y,2,2\na,z,3,1\nb,x,4,1\nb,y,5,2\n").unwrap();
        let Split { train, values, held_out, .. } = loaded.leave_last_out(u32::MAX, is_liked).unwrap();
        assert_eq!((train.len(), held_out.len()), (4, 1));
        assert_eq!(values, [3.0, 2.0, 4.0, 5.0]);
        assert_eq!(held_out.lists()[0], [loaded.items.iter().position(|item| item == "x").unwrap() as u32]);
    }

    #[test]
    fn the_distance_is_that_of_the_weights() {
        let loaded = parsed("a,x,1,3\na,y,2,2\na,z,3,1\nb,x,4,1\nb,y,5,2\nb,z,5,3\n").unwrap();
        let split = loaded.leave_last_out(u32::MAX, is_liked).unwrap();
        // Held out are x of a, weight 1, and z of b, weight 5. The training weights are 2, 3, 4 and 5, with mean 3.5.
        let item = |name: &str| if name == "x" { 3.0 } else { 2.0 };
        let model =
            Model { users: vec![1.0, 2.0], items: loaded.items.iter().map(|name| item(name)).collect(), dim: 1 };
        let [found, by_mean] = split.distance(&model).unwrap();
        assert_eq!(found, ((2.0f64.powi(2) + 1.0) / 2.0).sqrt());
        assert_eq!(by_mean, ((2.5f64.powi(2) + 1.5f64.powi(2)) / 2.0).sqrt());
        assert!(loaded.leave_last_out(0, is_liked).unwrap().distance(&model).is_none());
    }

    #[test]
    fn users_are_left_out() {
        let text: String =
            (0..40).flat_map(|user| (0..=user % 12).map(move |item| format!("{user},{item},2\n"))).collect();
        let loaded = parsed(&text).unwrap();
        let Split { train, values, held_out, new, .. } = loaded.leave_users_out(0.4, 1, is_liked).unwrap();
        let New { users, known, values: known_values } = new.unwrap();
        assert_eq!([values.len(), known_values.len()], [train.len(), known.len()]);
        assert_eq!(train.len() + known.len() + held_out.len(), loaded.entries.len());
        // 4 of the 40 users have one interaction.
        assert_eq!(users.iter().filter(|&&is_new| is_new).count(), 14, "{users:?}");
        let lists = [&train, &known, &held_out].map(Interactions::lists);
        for (user, &is_new) in users.iter().enumerate() {
            let all: u32 = (user % 12 + 1) as u32;
            let [trained, told, later] = lists.each_ref().map(|lists| lists[user].len() as u32);
            let last = if is_new { (all / 5).max(1) } else { 0 };
            assert_eq!([trained, told, later], if is_new { [0, all - last, last] } else { [all, 0, 0] }, "user {user}");
        }
        for share in [0.0, 1.0, f64::NAN] {
            assert!(loaded.leave_users_out(share, 1, is_liked).is_err());
        }
    }

    #[test]
    fn what_is_disliked_is_not_held_out() {
        let text = "a,x,1,1\na,y,2,2\na,z,-3,3\nb,x,-1,1\nb,y,-1,2\nb,z,-1,3\n";
        let loaded = read(text.as_bytes(), &Rules { negative: true, ..Rules::ALL }).unwrap();
        let split = loaded.leave_last_out(u32::MAX, is_liked).unwrap();
        assert_eq!(split.values, [1.0, -3.0, -1.0, -1.0, -1.0]);
        assert_eq!(split.held_out.lists()[0], [loaded.items.iter().position(|item| item == "y").unwrap() as u32]);
        // As values to predict all weights are asked for; what is recommended is compared with those from 0.
        let split = loaded.leave_last_out(u32::MAX, is_any).unwrap();
        let mut asked: Vec<f32> = split.asked_for.iter().map(|asked| asked.2).collect();
        asked.sort_by(f32::total_cmp);
        assert_eq!((asked, split.held_out.len()), (vec![-3.0, -1.0], 0));
    }

    #[test]
    fn lines_are_accounted_for() {
        let rules = Rules { min_rating: Some(2.0), min_interactions: 2, ..Rules::ALL };
        for (text, want) in [
            ("a,x\na,y\nb,x\nb,y\n", "of 4 lines: user from field 1, item from field 2, no weight, no time"),
            (
                "a x 2 1\na y 2 1\nb x 2 1\nb y 2 1\nb y 3 2\nb y 4 3\nb z 1 4\nc x 5 1\n",
                "of 8 lines: user from field 1, item from field 2, weight from field 3, time from field 4; 1 below --min-rating; 2 joined with others of their \
                 pair; 1 left out by --min-interactions",
            ),
            (
                "user,item,r\na,x,2\na,y,2\nb,x,2\nb,y,2\n",
                "of 4 lines: user from user, item from item, no weight, no time, nothing from r (--columns says which column has what)",
            ),
            (
                "a,x,1600000000\na,y,1600000001\nb,x,1600000002\nb,y,1600000003\n",
                "of 4 lines: user from field 1, item from field 2, weight from field 3, no time; weights up to 1.6e9, which look like times \
                 (--columns says which column has what)",
            ),
            (
                "Date;Item ID;uid\n1;x;a\n2;y;a\n1;x;b\n1;y;b\n",
                "of 4 lines: user from uid, item from Item ID, no weight, time from Date",
            ),
        ] {
            assert_eq!(read(text.as_bytes(), &rules).unwrap().account().unwrap(), want);
        }
    }

    #[test]
    fn of_no_users_nothing_is_held_out() {
        let loaded = parsed("a,x\na,y\na,z\nb,x\n").unwrap();
        let split = loaded.leave_last_out(0, is_liked).unwrap();
        assert!(split.measured().is_none() && split.train.len() == 4);
    }

    #[test]
    fn too_few_leave_nothing_to_measure_with() {
        let loaded = parsed("a,x\na,y\nb,x\n").unwrap();
        let split = loaded.leave_last_out(u32::MAX, is_liked).unwrap();
        assert!(split.measured().is_none() && split.train.len() == 3);
    }
}
