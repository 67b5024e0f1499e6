//! An error in one line.

use std::error::Error;

/// An error and what caused it, in one text: `a failed: b is missing: no such file`.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Failed(&'static str, #[source] Option<Box<Failed>>);

    #[test]
    fn all_causes_in_their_order() {
        let error = Failed("a", Some(Box::new(Failed("b", Some(Box::new(Failed("c", None)))))));
        assert_eq!(with_causes(&error), "a: b: c");
        assert_eq!(with_causes(&Failed("alone", None)), "alone");
    }
}
