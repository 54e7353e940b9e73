#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod device;
mod losses;
#[allow(missing_docs, reason = "burn's macros ask for public items, nobody else sees them")]
#[allow(clippy::large_enum_variant, clippy::type_complexity, reason = "they take neither boxes nor aliases")]
mod ops;

pub use burn;
pub use device::{device, gpu, open, register, tune};
pub use losses::{
    Batch, Layer, Learned, Target, Weights, cross_entropy, info_nce, kl, linear_cross_entropy, linear_kl, siglip,
};
pub use wgloss;

/// What can go wrong. A loss that returns one has changed nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes or options that do not fit, a device that was lost or has no memory left.
    #[error(transparent)]
    Loss(#[from] wgloss::Error),
    /// A tensor lives on a device that this crate does not know.
    #[error(
        "{device} is not known here: open it with wgloss_burn::device() before the first tensor, or give its setup to wgloss_burn::register()"
    )]
    UnknownDevice {
        /// burn's name of it.
        device: String,
    },
    /// A tensor has an element type that the kernels do not read.
    #[error("{op}: {what} should be of {expected}, found {found}")]
    Type {
        /// The loss that refused.
        op: &'static str,
        /// The argument.
        what: &'static str,
        /// The types that would do.
        expected: &'static str,
        /// The type that came.
        found: String,
    },
    /// Two tensors live on two devices.
    #[error("{op}: {what} should be on {expected}, found {found}")]
    Devices {
        /// The loss that refused.
        op: &'static str,
        /// The argument.
        what: &'static str,
        /// The device of the first argument.
        expected: String,
        /// That of this one.
        found: String,
    },
    /// burn reports an error.
    #[error("burn: {message}")]
    Burn {
        /// burn's words.
        message: String,
    },
}

impl Error {
    fn burn(error: impl core::fmt::Debug) -> Self {
        Error::Burn { message: format!("{error:?}") }
    }
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = core::result::Result<T, E>;
