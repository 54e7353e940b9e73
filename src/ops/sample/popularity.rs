use super::OP;
use crate::{Error, Result};

/// A distribution over ids as an alias table. A draw takes two random words and reads one row, whatever the number of
/// ids.
///
/// Source: Walker 1977, doi:10.1145/355744.355749, built as by Vose 1991, doi:10.1109/32.92917.
#[derive(Debug, Clone, PartialEq)]
pub struct Popularity {
    words: Vec<u32>,
}

impl Popularity {
    /// p(k) = `weights`\[k\]^`power`/Σ, the sum over all ids; the probability of each draw is exact to 2⁻³². A power of
    /// 0.75 is word2vec's. A power of 0 makes all ids with a weight above 0 equally likely.
    ///
    /// # Errors
    /// [`Error::Option`] unless `power` is finite, every weight is finite and at least 0, the sum of their powers is
    /// finite and above 0, and there are fewer than 2³² weights.
    pub fn new(weights: &[f32], power: f64) -> Result<Popularity> {
        let option = |option, expected, found| Err(Error::Option { op: OP, option, expected, found });
        if !power.is_finite() {
            return option("power", "a number", power.to_string());
        }
        if let Some((k, weight)) =
            weights.iter().enumerate().find(|(_, weight)| !(weight.is_finite() && **weight >= 0.0))
        {
            return option("weights", "numbers of at least 0", format!("{weight} for id {k}"));
        }
        let raised: Vec<f64> =
            weights.iter().map(|&weight| if weight > 0.0 { f64::from(weight).powf(power) } else { 0.0 }).collect();
        let sum: f64 = raised.iter().fold(0.0, |sum, raised| sum + raised);
        if !(sum.is_finite() && sum > 0.0) || u32::try_from(weights.len()).is_err() {
            return option(
                "weights",
                "fewer than 2^32 with a sum above 0",
                format!("{} with the sum {sum}", weights.len()),
            );
        }
        let n = weights.len();
        let mut words = vec![0; 3 * n];
        // Height: probability relative to the mean. A row below 1 fills up with the id of a row above 1.
        let mut height: Vec<f64> = raised.iter().map(|raised| raised / sum * n as f64).collect();
        let (mut below, mut above): (Vec<usize>, Vec<usize>) = (0..n).partition(|&k| height[k] < 1.0);
        while let (Some(&low), Some(&high)) = (below.last(), above.last()) {
            below.pop();
            words[3 * low] = (height[low] * 2f64.powi(32)) as u32;
            words[3 * low + 1] = high as u32;
            height[high] -= 1.0 - height[low];
            if height[high] < 1.0 {
                above.pop();
                below.push(high);
            }
        }
        // Rows that rounding leaves over keep their own id, except ids without weight, which become the likeliest id.
        let likeliest = (0..n).max_by(|&a, &b| raised[a].total_cmp(&raised[b])).unwrap_or(0);
        for k in below.into_iter().chain(above) {
            let stays = raised[k] > 0.0;
            words[3 * k] = if stays { u32::MAX } else { 0 };
            words[3 * k + 1] = if stays { k } else { likeliest } as u32;
        }
        for (row, raised) in words.chunks_exact_mut(3).zip(&raised) {
            row[2] = ((raised / sum).ln() as f32).to_bits();
        }
        Ok(Popularity { words })
    }

    /// The table [n, 3] for [`Proposal::Table`](super::Proposal::Table). Row k: the random word below which the draw
    /// stays k; the id drawn otherwise; the bits of ln p(k) as f32, −∞ for an id without weight.
    pub fn words(&self) -> &[u32] {
        &self.words
    }
}
