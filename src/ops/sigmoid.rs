//! y = 1 / (1 + e^−x), or its logarithm, −ln(1 + e^−x).
//!
//! Both keep their relative accuracy into their tails. +inf gives 1 and −inf gives 0, the logarithm 0 and −inf; NaN gives NaN.
//! Source: Rumelhart, Hinton and Williams 1986, doi:10.1038/323533a0.

/// Options of the op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Give the logarithm (log_sigmoid). Default no.
    pub log: bool,
}
