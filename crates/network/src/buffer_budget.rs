//! Memory for the buffers of TCP connections. All connections of a network together have at most
//! [`BUDGET`]: the first ones get large buffers, and with many open connections further ones get
//! smaller ones.

/// Size of each of a connection's two buffers while there are few connections. The kernels of host
/// and guest have buffers of their own.
pub(crate) const MAX_BUFFER: usize = 512 << 10;

/// Size of each of a connection's two buffers however many connections there are.
pub(crate) const MIN_BUFFER: usize = 16 << 10;

/// Memory in bytes for the buffers of all connections.
const BUDGET: usize = 256 << 20;

/// A connection gets at most this part of the memory that is not used yet, so that some remains for
/// the next ones.
const PARTS: usize = 16;

/// Buffers are multiples of this, the size of a page of memory.
const PAGE: usize = 4096;

/// The part of the memory that is not used yet.
#[derive(Debug)]
pub(crate) struct BufferBudget {
    /// In bytes, without [`MIN_BUFFER`] for each connection.
    unused: usize,
}

impl BufferBudget {
    /// Creates the budget of a network with this limit of connections.
    pub(crate) fn new(max_connections: usize) -> BufferBudget {
        let least = max_connections.saturating_mul(2 * MIN_BUFFER);
        BufferBudget {
            unused: BUDGET.saturating_sub(least),
        }
    }

    /// Returns the size of each of the two buffers of one more connection.
    pub(crate) fn take(&mut self) -> usize {
        let more = (self.unused / PARTS / 2).min(MAX_BUFFER - MIN_BUFFER);
        let more = more - more % PAGE;
        self.unused -= 2 * more;
        MIN_BUFFER + more
    }

    /// Returns the buffers of a connection, whose size was `size`.
    pub(crate) fn give_back(&mut self, size: usize) {
        self.unused += 2 * size.saturating_sub(MIN_BUFFER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_together_stay_within_the_budget() {
        const MAX_CONNECTIONS: usize = 4096;
        let mut budget = BufferBudget::new(MAX_CONNECTIONS);
        let unused = budget.unused;
        let sizes: Vec<usize> = (0..MAX_CONNECTIONS).map(|_| budget.take()).collect();
        assert!(sizes[..64].iter().all(|size| *size == MAX_BUFFER));
        assert!(sizes.is_sorted_by(|one, next| one >= next));
        assert_eq!(sizes.last(), Some(&MIN_BUFFER));
        assert!(2 * sizes.iter().sum::<usize>() <= BUDGET);
        for size in sizes {
            budget.give_back(size);
        }
        assert_eq!(budget.unused, unused);
    }
}
