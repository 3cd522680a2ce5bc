//! What a model tells a backend of matrices, buffers and steps beside their sizes.

/// What a matrix is for: a backend may keep it accordingly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Whole products.
    Product,
    /// Single rows are read, and it may be multiplied with too: an embedding.
    Table,
    /// Router logits, whose inputs and weights are never rounded.
    Router,
    /// What the latent is expanded with.
    KvB(KvBPart),
}

/// A matrix of a [`super::KvB`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvBPart {
    /// [`super::KvB::Whole`].
    Whole,
    /// The key of [`super::KvB::Apart`].
    Key,
    /// The key of [`super::KvB::Halves`].
    KeyTurned,
    /// The value of either.
    Value,
}

/// What a buffer is for: how exact it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sums that grow over all layers, and logits: f32 everywhere.
    Sum,
    /// Everything else: in the type the backend likes best.
    Inner,
}

/// Whether buffers are read between a step's operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// What is drawn is all that is wanted.
    Outcome,
    /// Intermediate results, too.
    Everything,
}
