//! Captured work: nodes with what they come after.

use super::queue::Command;

/// One captured command.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) command: Command,
    /// Nodes that come before it.
    pub(crate) after: Vec<usize>,
}

/// A capture that goes on.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    pub(crate) nodes: Vec<Node>,
    /// The stream it began on.
    pub(crate) origin: u64,
    /// A call that a capture does not bear has broken it.
    pub(crate) invalid: bool,
    /// Calls of other streams are forbidden too, unless the mode is relaxed.
    pub(crate) relaxed: bool,
    /// The streams in it: each with the nodes its next one comes after.
    pub(crate) streams: Vec<(u64, Vec<usize>)>,
}

impl Capture {
    pub(crate) fn new(origin: u64, relaxed: bool) -> Self {
        Self { origin, relaxed, streams: vec![(origin, Vec::new())], ..Self::default() }
    }

    pub(crate) fn has(&self, stream: u64) -> bool {
        self.streams.iter().any(|(id, _)| *id == stream)
    }

    pub(crate) fn add(&mut self, stream: u64, command: Command) {
        let at = self.nodes.len();
        let Some((_, last)) = self.streams.iter_mut().find(|(id, _)| *id == stream) else { return };
        self.nodes.push(Node { command, after: std::mem::replace(last, vec![at]) });
    }

    /// What an event that is recorded now stands for.
    pub(crate) fn last(&self, stream: u64) -> Vec<usize> {
        self.streams
            .iter()
            .find(|(id, _)| *id == stream)
            .map(|(_, last)| last.clone())
            .unwrap_or_default()
    }

    /// A stream's next node comes after these too; a stream that was not in the capture joins it.
    pub(crate) fn wait(&mut self, stream: u64, nodes: &[usize]) {
        match self.streams.iter_mut().find(|(id, _)| *id == stream) {
            Some((_, last)) => {
                last.extend(nodes);
                last.sort_unstable();
                last.dedup();
            }
            None => self.streams.push((stream, nodes.to_vec())),
        }
    }

    /// Whether all forked work leads back to the stream that the capture began on.
    pub(crate) fn joined(&self) -> bool {
        let mut reached = vec![false; self.nodes.len()];
        let mut open = self.last(self.origin);
        while let Some(node) = open.pop() {
            if !std::mem::replace(&mut reached[node], true) {
                open.extend(&self.nodes[node].after);
            }
        }
        reached.iter().all(|reached| *reached)
    }
}
