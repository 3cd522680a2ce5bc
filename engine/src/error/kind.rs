//! What a caller does about an error.

use super::Error;

/// What a caller does about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request or a setting is wrong; the caller can mend it.
    Input,
    /// The checkpoint's files are wrong or not supported.
    Checkpoint,
    /// Not enough memory now.
    Memory,
    /// A card refused, failed or is not there.
    Device,
    /// The model has gone away.
    Closed,
    /// Ours.
    Internal,
}

impl Error {
    /// What a caller does about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::PromptEmpty
            | Self::PromptTooLong { .. }
            | Self::PromptTooLarge { .. }
            | Self::TokenOutOfRange { .. }
            | Self::Setting { .. }
            | Self::Template { .. }
            | Self::Isa { .. } => ErrorKind::Input,
            Self::Memory { .. } => ErrorKind::Memory,
            Self::Device { .. } => ErrorKind::Device,
            Self::Closed => ErrorKind::Closed,
            Self::Internal { .. } | Self::NotFinite { .. } => ErrorKind::Internal,
            _ => ErrorKind::Checkpoint,
        }
    }
}
