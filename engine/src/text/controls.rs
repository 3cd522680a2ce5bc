//! A tokenizer's control tokens, and where they stand in a text.

use std::collections::HashMap;

use tokenizers::AddedToken;

use crate::step::TokenId;

/// Control tokens as a tree of bytes: a look costs the bytes that match, however many tokens there are.
pub(super) struct Controls {
    next: HashMap<(u32, u8), u32>,
    /// The token that ends at a node; node 0 is the root.
    ends: Vec<Option<TokenId>>,
    /// Bytes that some token begins with: most characters need no look at the tree.
    begins: [bool; 256],
}

/// What a text begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// The longest control token: its bytes and its id.
    pub token: Option<(usize, TokenId)>,
    /// The text ends inside a control token: with more text it could become one.
    pub is_open: bool,
}

/// Whether an added token controls, or is a word that people write: some tokenizers add letters and runs of spaces.
pub(super) fn is_control(token: &AddedToken) -> bool {
    token.special || token.content.chars().any(|c| !c.is_alphanumeric() && !c.is_whitespace())
}

impl Controls {
    pub(super) fn new(tokens: impl Iterator<Item = (String, TokenId)>) -> Self {
        let (mut next, mut ends, mut begins) = (HashMap::new(), vec![None], [false; 256]);
        for (content, id) in tokens {
            let mut node = 0;
            for byte in content.bytes() {
                node = *next.entry((node, byte)).or_insert_with(|| {
                    ends.push(None);
                    ends.len() as u32 - 1
                });
            }
            if let (Some(first), Some(end)) = (content.bytes().next(), ends.get_mut(node as usize))
            {
                begins[first as usize] = true;
                *end = Some(id);
            }
        }
        Self { next, ends, begins }
    }

    /// What `text` begins with.
    pub(super) fn look(&self, text: &str) -> Look {
        let mut look = Look { token: None, is_open: false };
        if !text.bytes().next().is_some_and(|first| self.begins[first as usize]) {
            return look;
        }
        let mut node = 0;
        for (at, byte) in text.bytes().enumerate() {
            let Some(next) = self.next.get(&(node, byte)) else { return look };
            node = *next;
            if let Some(id) = self.ends.get(node as usize).copied().flatten() {
                look.token = Some((at + 1, id));
            }
        }
        look.is_open = true;
        look
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_token_is_found_and_an_open_end_is_told() {
        let tokens = [("<a>", 1), ("<a>b", 2), ("日", 3)];
        let controls =
            Controls::new(tokens.iter().map(|(text, id)| ((*text).into(), TokenId(*id))));
        let check = |text: &str, token: Option<(usize, u32)>, is_open: bool| {
            let token = token.map(|(len, id)| (len, TokenId(id)));
            assert_eq!(controls.look(text), Look { token, is_open }, "{text}");
        };
        check("<a>c", Some((3, 1)), false);
        check("<a>bc", Some((4, 2)), false);
        check("<a>", Some((3, 1)), true);
        check("<", None, true);
        check("<b", None, false);
        check("日本", Some((3, 3)), false);
        check("本", None, false);
        check("", None, false);
    }

    #[test]
    fn letters_and_spaces_are_words() {
        let added = |content: &str, special| is_control(&AddedToken::from(content, special));
        assert!(added("<think>", false) && added("<｜User｜>", false) && added("s", true));
        assert!(!added("ü", false) && !added("    ", false));
    }
}
