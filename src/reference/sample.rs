//! Draws and their probabilities. The draws use the kernels' own integer arithmetic, so that they can be compared
//! exactly.

use super::{Real, count, real};
use crate::random::philox;
use crate::sample::{Options, Proposal, log_of_ids, words_of};

/// ⌊a b 2⁻³²⌋.
fn upper_product(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

/// (2^f − 1) 2³² of f = `word` 2⁻³².
fn growth(word: u32) -> u32 {
    let y = upper_product(word, 0xb172_17f7);
    let p = (2..14).rev().fold(0, |p, n| {
        let share = u32::MAX / n;
        upper_product(y, share + upper_product(share, p))
    });
    y + upper_product(y, p)
}

fn log_uniform(word: u32, n: u32) -> u32 {
    let at = (u128::from(word) * u128::from(log_of_ids(n))) >> 32;
    let (e, f) = ((at >> 32) as u32, at as u32);
    let above = (u64::from(growth(f)) << e) >> 32;
    (1u64 << e).wrapping_add(above).wrapping_sub(1).min(u64::from(n) - 1) as u32
}

/// ln q(k), the log-probability of id k.
pub fn log_probability<F: Real>(proposal: Proposal<&[u32]>, k: u32) -> F {
    let ids: F = count(rows(proposal) as usize);
    match proposal {
        Proposal::Uniform { .. } => -ids.ln(),
        Proposal::LogUniform { .. } => {
            let place: F = count(k as usize + 1);
            (place.recip().ln_1p() / (ids + F::one()).ln()).ln()
        }
        Proposal::Table { table, uniform } => {
            let (log_p, uniform): (F, F) = (real(f32::from_bits(table[3 * k as usize + 2])), real(uniform));
            if uniform == F::zero() { log_p } else { (uniform / ids + (F::one() - uniform) * log_p.exp()).ln() }
        }
    }
}

fn rows(proposal: Proposal<&[u32]>) -> u32 {
    proposal.map(|table| table.len() / 3).ids()
}

/// `cols` draws for each of the `lists`: ids and their `log_q`. A list holds the ids that are left out of its row, in
/// ascending order.
pub fn draw<F: Real>(
    proposal: Proposal<&[u32]>,
    lists: &[&[u32]],
    cols: usize,
    options: Options,
) -> (Vec<u32>, Vec<F>) {
    let n = rows(proposal);
    let key = [options.seed as u32, (options.seed >> 32) as u32];
    let drawn = |row: usize, col: usize, attempt: u32| {
        let counter = [row as u32, col as u32, options.step, u32::from(options.stream) | attempt << 16];
        let [x, y, z, _] = philox(counter, key);
        match proposal {
            Proposal::Uniform { .. } => x,
            Proposal::LogUniform { n } => log_uniform(x, n),
            Proposal::Table { table, uniform } => {
                let k = upper_product(x, n);
                let own = z < words_of(uniform) || y < table[3 * k as usize];
                if own { k } else { table[3 * k as usize + 1] }
            }
        }
    };
    let more: F = if options.expected { count::<F>(cols.max(1)).ln() } else { F::zero() };
    let (mut ids, mut log_q) = (Vec::new(), Vec::new());
    for (row, list) in lists.iter().enumerate() {
        let listed: Vec<u32> = list.iter().copied().filter(|&id| id < n).collect();
        let uniform = matches!(proposal, Proposal::Uniform { .. });
        let left: F = F::one() - listed.iter().map(|&id| log_probability::<F>(proposal, id).exp()).sum::<F>();
        for col in 0..cols {
            let id = if uniform {
                let room = n - listed.len() as u32;
                let mut left_over = upper_product(drawn(row, col, 0), room);
                for &id in &listed {
                    left_over += u32::from(id <= left_over);
                }
                (room > 0).then_some(left_over)
            } else {
                (0..256).map(|attempt| drawn(row, col, attempt)).find(|id| listed.binary_search(id).is_err())
            };
            ids.push(id.unwrap_or(u32::MAX));
            log_q.push(match id {
                None => F::infinity(),
                Some(_) if uniform => -count::<F>(n as usize - listed.len()).ln() + more,
                Some(id) if listed.is_empty() => log_probability::<F>(proposal, id) + more,
                Some(id) => log_probability::<F>(proposal, id) - left.ln() + more,
            });
        }
    }
    (ids, log_q)
}
