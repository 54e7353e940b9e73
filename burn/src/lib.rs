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

/// What can go wrong. A loss that returns an error has changed nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes or options do not fit, or the device is lost or out of memory.
    #[error(transparent)]
    Loss(#[from] wgloss::Error),
    /// A tensor lives on a device that this crate does not know.
    #[error(
        "{device} is not known here: open it with wgloss_burn::device() before the first tensor, or give its setup to wgloss_burn::register()"
    )]
    UnknownDevice {
        /// burn's name of the device.
        device: String,
    },
    /// A tensor has an element type that the kernels do not read.
    #[error("{op}: {what} should be of {expected}, found {found}")]
    Type {
        /// The loss that refused.
        op: &'static str,
        /// The argument.
        what: &'static str,
        /// The types that would be accepted.
        expected: &'static str,
        /// The type that was found.
        found: String,
    },
    /// Two tensors live on different devices.
    #[error("{op}: {what} should be on {expected}, found {found}")]
    Devices {
        /// The loss that refused.
        op: &'static str,
        /// The argument.
        what: &'static str,
        /// The device of the first argument.
        expected: String,
        /// The device of this argument.
        found: String,
    },
    /// burn reported an error.
    #[error("burn: {message}")]
    Burn {
        /// The message of burn.
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
