//! Stop strings across token borders: no part of one is ever shown.
//!
//! An Aho-Corasick walk over all stop strings at once: linear in the text, whatever the strings. Held back is the
//! longest suffix that could still become a stop string, and no more.

use std::collections::{HashMap, VecDeque};

/// Text that may be shown, and whether a stop string ended it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// Shown now.
    pub text: String,
    /// Index of the stop string that was met; everything from its first byte on is withheld.
    pub stopped: Option<usize>,
}

/// A state of the automaton: a prefix of some stop string.
#[derive(Default)]
struct Node {
    next: HashMap<u8, usize>,
    /// The longest proper suffix that is a prefix too.
    fail: usize,
    /// Bytes of this prefix.
    depth: usize,
    /// The stop string that ends here, itself or as a suffix: (index, bytes); the longest.
    ends: Option<(usize, usize)>,
}

/// A scanner for one answer.
pub struct StopStrings {
    nodes: Vec<Node>,
    state: usize,
    held: String,
    is_done: bool,
}

impl StopStrings {
    /// A scanner for these strings; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        let mut nodes = vec![Node::default()];
        for (index, stop) in stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty()) {
            let mut at = 0;
            for byte in stop.bytes() {
                at = if let Some(next) = nodes[at].next.get(&byte) {
                    *next
                } else {
                    let depth = nodes[at].depth + 1;
                    nodes.push(Node { depth, ..Node::default() });
                    let new = nodes.len() - 1;
                    nodes[at].next.insert(byte, new);
                    new
                };
            }
            nodes[at].ends.get_or_insert((index, stop.len()));
        }
        link(&mut nodes);
        Self { nodes, state: 0, held: String::new(), is_done: false }
    }

    /// Takes the next text.
    pub fn push(&mut self, text: &str) -> Scan {
        if self.is_done {
            return Scan::default();
        }
        for (at, byte) in text.bytes().enumerate() {
            self.state = step(&self.nodes, self.state, byte);
            if let Some((index, len)) = self.nodes[self.state].ends {
                self.is_done = true;
                let mut shown = std::mem::take(&mut self.held);
                // A stop string ends where a character ends, so this is no cut inside one.
                shown.push_str(text.get(..=at).unwrap_or_default());
                shown.truncate(shown.len() - len);
                return Scan { text: shown, stopped: Some(index) };
            }
        }
        self.held.push_str(text);
        // The state is the longest suffix that begins some stop string; a prefix begins on a character's first byte.
        let kept = self.held.len() - self.nodes[self.state].depth;
        let rest = self.held.split_off(kept);
        Scan { text: std::mem::replace(&mut self.held, rest), stopped: None }
    }

    /// What was held back, when nothing more comes.
    pub fn finish(&mut self) -> String {
        self.is_done = true;
        std::mem::take(&mut self.held)
    }
}

/// Sets each node's failure link, breadth first, and hands down ends.
fn link(nodes: &mut [Node]) {
    let mut queue: VecDeque<usize> = nodes[0].next.values().copied().collect();
    while let Some(at) = queue.pop_front() {
        let children: Vec<(u8, usize)> =
            nodes[at].next.iter().map(|(byte, next)| (*byte, *next)).collect();
        for (byte, child) in children {
            nodes[child].fail = step(nodes, nodes[at].fail, byte);
            queue.push_back(child);
        }
        let fail = nodes[at].fail;
        nodes[at].ends = nodes[at].ends.or(nodes[fail].ends);
    }
}

/// The state after `byte`: back along failure links until some prefix goes on.
fn step(nodes: &[Node], mut state: usize, byte: u8) -> usize {
    loop {
        if let Some(next) = nodes[state].next.get(&byte) {
            return *next;
        }
        if state == 0 {
            return 0;
        }
        state = nodes[state].fail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops(list: &[&str]) -> StopStrings {
        StopStrings::new(&list.iter().map(|stop| (*stop).to_owned()).collect::<Vec<_>>())
    }

    /// Text pushed in pieces of every size shows what stands before the first stop string.
    #[track_caller]
    fn check(list: &[&str], text: &str, shown: &str, stopped: Option<usize>) {
        let characters: Vec<String> = text.chars().map(String::from).collect();
        for size in 1..=characters.len().max(1) {
            let mut scanner = stops(list);
            let (mut got, mut ended) = (String::new(), None);
            for piece in characters.chunks(size) {
                let scan = scanner.push(&piece.concat());
                got += &scan.text;
                ended = ended.or(scan.stopped);
            }
            if ended.is_none() {
                got += &scanner.finish();
            }
            assert_eq!((got.as_str(), ended), (shown, stopped), "{list:?} in pieces of {size}");
        }
    }

    #[test]
    fn a_stop_string_is_never_shown_in_part() {
        check(&["\n\nHuman:"], "Hi.\n\nHuman: more", "Hi.", Some(0));
        check(&["END", "E!"], "an E! and END", "an ", Some(1));
        check(&["aab"], "aaaab", "aa", Some(0));
        check(&["日本"], "今日本", "今", Some(0));
        check(&["abcd", "bc"], "xabce", "xa", Some(1));
    }

    #[test]
    fn text_without_one_comes_through_whole() {
        check(&["\n\nHuman:"], "a\n\nHumble", "a\n\nHumble", None);
        check(&[], "text 日本", "text 日本", None);
        check(&[""], "text", "text", None);
        check(&["aaab"], "aaaaaa", "aaaaaa", None);
    }

    #[test]
    fn only_what_could_become_a_stop_string_is_held_back() {
        let mut scanner = stops(&["STOP"]);
        assert_eq!(scanner.push("go ST").text, "go ");
        assert_eq!(scanner.push("AR").text, "STAR");
        assert_eq!(scanner.push("S").text, "");
        assert_eq!(scanner.finish(), "S");
    }

    #[test]
    fn hostile_strings_take_linear_time() {
        let mut scanner = stops(&[&format!("{}b", "a".repeat(1000))]);
        let shown = scanner.push(&"a".repeat(1_000_000)).text.len() + scanner.finish().len();
        assert_eq!(shown, 1_000_000);
    }
}
