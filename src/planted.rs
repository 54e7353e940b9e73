//! Interactions with a known ground truth: blocks of users and items that are unrelated to each other. The same on
//! every machine.

use crate::train::tables::Interactions;
use crate::{Error, Random, Result};

/// How to plant blocks.
///
/// Within a block, the affinity of a user and an item is ⟨a, b⟩ of Gaussian vectors of q numbers, plus the logarithm of
/// the item's popularity, (place in the block)^−`zipf`. A user takes the items with the largest sum of affinity and
/// Gumbel noise. This draws items without replacement, in proportion to e^affinity (Kool et al. 2019,
/// arXiv:1903.06059). The number of items per user is lognormal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blocks {
    /// Number of blocks.
    pub blocks: u32,
    /// Users per block.
    pub users: u32,
    /// Items per block, at least 3.
    pub items: u32,
    /// q, the width of the vectors behind affinities.
    pub width: u32,
    /// Exponent of popularity; 0 makes all items equally popular.
    pub zipf: f64,
    /// The median number of items that a user takes. The number is clamped to at least 2 and at most two thirds of the
    /// block's items.
    pub activity: f64,
    /// The standard deviation of the logarithm of that number.
    pub spread: f64,
    /// The probability that an interaction is with a random item of any block instead.
    pub cross: f64,
    /// The seed: determines everything.
    pub seed: u64,
}

impl Default for Blocks {
    /// 40 blocks of 50 users and 30 items, affinities of width 2, 8 items per user: about 17,600 interactions.
    fn default() -> Self {
        Blocks {
            blocks: 40,
            users: 50,
            items: 30,
            width: 2,
            zipf: 0.5,
            activity: 8.0,
            spread: 0.5,
            cross: 0.0,
            seed: 7,
        }
    }
}

/// The result of [`Blocks::generate`].
#[derive(Debug, Clone, PartialEq)]
pub struct Planted {
    /// Interactions to train on.
    pub train: Interactions,
    /// One held-out interaction of each user, for evaluation.
    pub held_out: Interactions,
    /// The block of each user.
    pub user_blocks: Vec<u32>,
    /// The block of each item.
    pub item_blocks: Vec<u32>,
}

/// A number from the normal distribution (Box and Muller 1958).
fn normal(random: &mut Random) -> f64 {
    let [u, v] = [0, 1].map(|_| (f64::from(random.word()) + 0.5) / 2f64.powi(32));
    (-2.0 * u.ln()).sqrt() * (core::f64::consts::TAU * v).cos()
}

impl Blocks {
    /// Generates the interactions.
    ///
    /// ```
    /// let planted = wgloss::planted::Blocks { blocks: 3, ..Default::default() }.generate()?;
    /// assert_eq!(planted.item_blocks.len(), 90);
    /// assert_eq!(planted.held_out.len(), 150);
    /// # Ok::<(), wgloss::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Option`] for sizes of 0, fewer than three items per block, options out of range or not finite, or more
    /// than 2³² − 2 users or items.
    pub fn generate(&self) -> Result<Planted> {
        let option = |option, expected, found: String| Err(Error::Option { op: "planted", option, expected, found });
        if self.blocks == 0 || self.users == 0 || self.items < 3 {
            let found = format!("{} blocks of {} users and {} items", self.blocks, self.users, self.items);
            return option("blocks", "at least 1 block of 1 user and 3 items", found);
        }
        let most = u64::from(u32::MAX) - 1;
        let all = [self.users, self.items].map(|of_block| u64::from(self.blocks) * u64::from(of_block));
        if all.iter().any(|&count| count > most) {
            return option("blocks", "fewer than 2^32 - 1 users and items", format!("{} and {}", all[0], all[1]));
        }
        for (name, value, least) in
            [("zipf", self.zipf, f64::MIN), ("activity", self.activity, 0.0), ("spread", self.spread, 0.0)]
        {
            if !(value.is_finite() && value >= least) {
                return option(name, "a number, of activity and spread at least 0", value.to_string());
            }
        }
        if !(0.0..=1.0).contains(&self.cross) {
            return option("cross", "from 0 to 1", self.cross.to_string());
        }
        let [user_count, item_count] = all.map(|count| count as usize);
        let mut random = Random::new(self.seed, 0);
        let (mut train, mut held_out) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for block in 0..self.blocks {
            let mut vectors = |count: u32| -> Vec<Vec<f64>> {
                (0..count).map(|_| (0..self.width).map(|_| normal(&mut random)).collect()).collect()
            };
            let (of_users, of_items) = (vectors(self.users), vectors(self.items));
            let places = random.permutation(self.items);
            for (user, own) in of_users.iter().enumerate() {
                let wanted = self.activity * (self.spread * normal(&mut random)).exp();
                let count = (wanted.round() as u32).clamp(2, self.items * 2 / 3) as usize;
                let mut scored: Vec<(f64, u32)> = of_items
                    .iter()
                    .zip(&places)
                    .enumerate()
                    .map(|(item, (other, &place))| {
                        let affinity: f64 = own.iter().zip(other).map(|(a, b)| a * b).sum();
                        let gumbel = -(-((f64::from(random.word()) + 0.5) / 2f64.powi(32)).ln()).ln();
                        (affinity - self.zipf * (f64::from(place) + 1.0).ln() + gumbel, item as u32)
                    })
                    .collect();
                scored.sort_by(|a, b| b.0.total_cmp(&a.0));
                let last = random.below(count as u32) as usize;
                for (at, &(_, item)) in scored[..count].iter().enumerate() {
                    let strays = f64::from(random.uniform()) < self.cross;
                    let item = if strays { random.below(item_count as u32) } else { block * self.items + item };
                    let (users, items) = if at == last { &mut held_out } else { &mut train };
                    users.push(block * self.users + user as u32);
                    items.push(item);
                }
            }
        }
        let blocks_of = |of_block: u32| -> Vec<u32> { (0..self.blocks * of_block).map(|id| id / of_block).collect() };
        Ok(Planted {
            train: Interactions::new(train.0, train.1, user_count, item_count)?,
            held_out: Interactions::new(held_out.0, held_out.1, user_count, item_count)?,
            user_blocks: blocks_of(self.users),
            item_blocks: blocks_of(self.items),
        })
    }
}
