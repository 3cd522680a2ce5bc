//! Bytes as people read them.

/// Bytes for people. What is needed is rounded up and what is free down, so that the two never look alike.
pub(super) fn sized(bytes: u64, round: fn(f64) -> f64) -> String {
    let (unit, digits, name) = match bytes {
        0..1000 => return format!("{bytes} bytes"),
        1000..1_000_000 => (1e3, 0, "KB"),
        1_000_000..1_000_000_000 => (1e6, 1, "MB"),
        _ => (1e9, 2, "GB"),
    };
    let steps = 10f64.powi(digits);
    let amount = round(bytes as f64 / unit * steps) / steps;
    format!("{amount:.*} {name}", digits as usize)
}

#[cfg(test)]
mod tests {
    use crate::error::Error;

    #[test]
    fn memory_is_told_in_units_that_people_read_and_never_looks_enough() {
        let told = |needed_bytes, free_bytes| {
            Error::Memory { what: "the model", needed_bytes, free_bytes }.to_string()
        };
        let gb = "the model needs 14.35 GB, 1.24 GB are free";
        assert_eq!(told(14_345_678_901, 1_249_999_999), gb);
        let close = "the model needs 2.01 GB, 2.00 GB are free";
        assert_eq!(told(2_000_000_001, 2_000_000_000), close);
        assert_eq!(told(123_456, 999), "the model needs 124 KB, 999 bytes are free");
        assert_eq!(told(1_000_001, 2_000), "the model needs 1.1 MB, 2 KB are free");
    }
}
