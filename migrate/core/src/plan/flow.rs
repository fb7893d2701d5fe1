//! Maximum flow over a small directed graph, and the cut that proves it: Dinic's algorithm with its own stack.

/// A graph whose edges carry up to a capacity.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// For each vertex, the edges that leave it, backward ones included.
    edges_of: Vec<Vec<u32>>,
    /// An edge and the one back are neighbours: 2n and 2n + 1.
    edges: Vec<Edge>,
}

#[derive(Debug)]
struct Edge {
    to: u32,
    /// What it still carries.
    left: i128,
}

/// No vertex, or no level.
const NONE: u32 = u32::MAX;

impl Network {
    pub(super) fn with_vertices(count: usize) -> Self {
        Self { edges_of: vec![Vec::new(); count], edges: Vec::new() }
    }

    pub(super) fn connect(&mut self, from: usize, to: usize, capacity: i128) {
        for (from, to, left) in [(from, to, capacity), (to, from, 0)] {
            self.edges_of[from].push(self.edges.len() as u32);
            self.edges.push(Edge { to: to as u32, left });
        }
    }

    /// Sends as much as possible from `source` to `sink`, and says for each vertex whether it can't reach the sink any
    /// more: the largest source side of a smallest cut.
    pub(super) fn largest_source_side(mut self, source: usize, sink: usize) -> Vec<bool> {
        let (source, sink) = (source as u32, sink as u32);
        while let Some(levels) = self.levels(source, sink) {
            let mut next = vec![0; self.edges_of.len()];
            while self.push(source, sink, &levels, &mut next) {}
        }
        let mut reaches = vec![false; self.edges_of.len()];
        reaches[sink as usize] = true;
        let mut stack = vec![sink];
        while let Some(vertex) = stack.pop() {
            for edge in &self.edges_of[vertex as usize] {
                let from = self.edges[*edge as usize].to;
                // The edge here is the one back; its twin leads to `vertex`.
                if self.edges[(*edge ^ 1) as usize].left > 0 && !reaches[from as usize] {
                    reaches[from as usize] = true;
                    stack.push(from);
                }
            }
        }
        reaches.into_iter().map(|reaches| !reaches).collect()
    }

    /// How many edges each vertex is away from the source; none when the sink can't be reached.
    fn levels(&self, source: u32, sink: u32) -> Option<Vec<u32>> {
        let mut levels = vec![NONE; self.edges_of.len()];
        levels[source as usize] = 0;
        let mut queue = vec![source];
        let mut at = 0;
        while let Some(vertex) = queue.get(at).copied() {
            at += 1;
            for edge in &self.edges_of[vertex as usize] {
                let Edge { to, left } = self.edges[*edge as usize];
                if left > 0 && levels[to as usize] == NONE {
                    levels[to as usize] = levels[vertex as usize] + 1;
                    queue.push(to);
                }
            }
        }
        (levels[sink as usize] != NONE).then_some(levels)
    }

    /// Sends what one path carries; false when there is none left on these levels. `next` remembers which edges are
    /// spent.
    fn push(&mut self, source: u32, sink: u32, levels: &[u32], next: &mut [usize]) -> bool {
        let mut path: Vec<u32> = Vec::new();
        let mut vertex = source;
        while vertex != sink {
            let edges = &self.edges_of[vertex as usize];
            let level = levels[vertex as usize] + 1;
            let usable = |edge: &u32| {
                let Edge { to, left } = self.edges[*edge as usize];
                left > 0 && levels[to as usize] == level
            };
            match edges[next[vertex as usize]..].iter().position(usable) {
                Some(skipped) => {
                    next[vertex as usize] += skipped;
                    let edge = edges[next[vertex as usize]];
                    path.push(edge);
                    vertex = self.edges[edge as usize].to;
                }
                None => {
                    next[vertex as usize] = edges.len();
                    let Some(edge) = path.pop() else { return false };
                    vertex = self.edges[(edge ^ 1) as usize].to;
                    next[vertex as usize] += 1;
                }
            }
        }
        let carries = path.iter().map(|edge| self.edges[*edge as usize].left).min().unwrap_or(0);
        for edge in path {
            self.edges[edge as usize].left -= carries;
            self.edges[(edge ^ 1) as usize].left += carries;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cut_is_where_the_capacity_is_used_up() {
        // 0 -> 1 -> 3 carries 3 of 5, 0 -> 2 -> 3 all of 4; and 2 could take the rest of 1 if 2 -> 3 were wider.
        let mut network = Network::with_vertices(4);
        for (from, to, capacity) in [(0, 1, 5), (1, 3, 3), (0, 2, 4), (2, 3, 4), (1, 2, 9)] {
            network.connect(from, to, capacity);
        }
        assert_eq!(network.largest_source_side(0, 3), [true, true, true, false]);
    }

    #[test]
    fn of_equal_cuts_the_larger_side_is_found() {
        let mut network = Network::with_vertices(3);
        network.connect(0, 1, 7);
        network.connect(1, 2, 7);
        assert_eq!(network.largest_source_side(0, 2), [true, true, false]);
    }

    #[test]
    fn flow_takes_a_detour_back() {
        // The first path found goes 0-1-2-3; the best flow undoes its middle.
        let mut network = Network::with_vertices(6);
        for (from, to) in [(0, 1), (1, 4), (4, 5), (0, 2), (2, 5), (1, 3), (3, 2)] {
            network.connect(from, to, 1);
        }
        assert_eq!(network.largest_source_side(0, 5), [true, true, true, true, true, false]);
    }
}
