//! The tokenizer library panics on some files and texts that it should refuse. What it is given comes from a checkpoint
//! and from clients, so its panics end here, as errors.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};

/// What `work` gives; a panic of it is an error that says what it said.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // What a panic leaves behind is dropped here, or a tokenizer, which only reads itself.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let problem = format!("the tokenizer failed: {}", said(panic.as_ref()));
        Err(Error::Tokenizer { problem })
    })
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        let failed: Result<()> = guarded(|| panic!("no {}", "colon"));
        assert!(failed.unwrap_err().to_string().contains("no colon"));
        assert_eq!(guarded(|| Ok(3)).unwrap(), 3);
    }
}
