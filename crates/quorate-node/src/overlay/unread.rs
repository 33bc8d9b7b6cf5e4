//! What peers have sent and nobody has read: one account for all connections of a node.
//!
//! ```text
//!   socket ──► header of a frame: came(stream, length) ──► yamux keeps it ──► read(stream, bytes)
//!                 └─ more than the budget: the connection that holds most is doomed, and ends
//! ```
//! yamux promises every stream a window of 256 KiB and keeps what is not read. Many streams on many
//! connections would be gigabytes, and a limit per connection that never hits an honest peer allows just
//! that. So all together have a budget, and when it is used up, the one that holds most goes: honest peers
//! hold next to nothing, because what they send is read or their circuit's other end is slow.
//!
//! Limits: the budget. Streams per connection are bounded by yamux's configuration.
//!
//! Security. Requires: what is told is what yamux does. Provides: no more than the budget is held, but
//! for what a doomed connection holds until its task has run. Does not provide: which peers are honest.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
};

/// The account; clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Mutex<Books>>);

#[derive(Debug)]
struct Books {
    most: usize,
    held: usize,
    next: u64,
    connections: HashMap<u64, Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    /// By number of the stream.
    streams: HashMap<u32, usize>,
    doomed: bool,
    task: Option<Waker>,
}

impl Budget {
    /// For this many bytes.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Books {
            most,
            held: 0,
            next: 0,
            connections: HashMap::new(),
        })))
    }

    /// One more connection.
    pub fn connection(&self) -> Account {
        let mut books = self.books();
        let id = books.next;
        books.next += 1;
        books.connections.insert(id, Held::default());
        Account {
            budget: self.clone(),
            id,
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.books().held
    }
}

impl Books {
    /// Dooms those that hold most until the rest is within the budget.
    fn make_room(&mut self) {
        let live = self.connections.values().filter(|c| !c.doomed);
        let mut held: usize = live.map(|c| c.bytes).sum();
        while held > self.most {
            let live = self.connections.values_mut().filter(|c| !c.doomed);
            let Some(largest) = live.max_by_key(|c| c.bytes) else {
                return;
            };
            held -= largest.bytes;
            largest.doomed = true;
            if let Some(task) = largest.task.take() {
                task.wake();
            }
        }
    }

    fn forget(&mut self, connection: u64, stream: u32) {
        if let Some(held) = self.connections.get_mut(&connection)
            && let Some(bytes) = held.streams.remove(&stream)
        {
            held.bytes -= bytes;
            self.held -= bytes;
        }
    }
}

/// The account of one connection, closed when it is dropped.
#[derive(Debug)]
pub(super) struct Account {
    budget: Budget,
    id: u64,
}

impl Account {
    /// A stream is there that may bring something.
    pub fn opened(&self, stream: u32) {
        let mut books = self.budget.books();
        if let Some(held) = books.connections.get_mut(&self.id) {
            held.streams.entry(stream).or_default();
        }
    }

    /// Bytes of a stream have come, or are about to. Those of a stream that is gone are not kept by yamux.
    pub fn came(&self, stream: u32, bytes: usize) {
        let mut books = self.budget.books();
        let Some(held) = books.connections.get_mut(&self.id) else {
            return;
        };
        let Some(of_stream) = held.streams.get_mut(&stream) else {
            return;
        };
        *of_stream += bytes;
        held.bytes += bytes;
        books.held += bytes;
        if books.held > books.most {
            books.make_room();
        }
    }

    /// Bytes of a stream were read.
    pub fn read(&self, stream: u32, bytes: usize) {
        let mut books = self.budget.books();
        let Some(held) = books.connections.get_mut(&self.id) else {
            return;
        };
        let Some(of_stream) = held.streams.get_mut(&stream) else {
            return;
        };
        let bytes = bytes.min(*of_stream);
        *of_stream -= bytes;
        held.bytes -= bytes;
        books.held -= bytes;
    }

    /// The stream is gone, with what it held.
    pub fn closed(&self, stream: u32) {
        self.budget.books().forget(self.id, stream);
    }

    /// Whether the connection has to end; if not yet, its task is woken when it has to.
    pub fn is_doomed(&self, cx: &Context<'_>) -> bool {
        let mut books = self.budget.books();
        let Some(held) = books.connections.get_mut(&self.id) else {
            return true;
        };
        if !held.doomed && !held.task.as_ref().is_some_and(|t| t.will_wake(cx.waker())) {
            held.task = Some(cx.waker().clone());
        }
        held.doomed
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut books = self.budget.books();
        if let Some(held) = books.connections.remove(&self.id) {
            books.held -= held.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        task::Wake,
    };

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn doomed(account: &Account) -> bool {
        account.is_doomed(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn when_the_budget_is_used_up_the_connection_that_holds_most_goes() {
        let budget = Budget::new(1000);
        let [one, two] = [(); 2].map(|()| budget.connection());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(!one.is_doomed(&Context::from_waker(&waker)));
        for (account, stream, bytes) in [(&one, 1, 400), (&one, 3, 300), (&two, 1, 300)] {
            account.opened(stream);
            account.came(stream, bytes);
        }
        assert!(!doomed(&one) && !doomed(&two), "exactly the budget");
        assert!(!one.is_doomed(&Context::from_waker(&waker)));
        two.came(1, 1);
        assert!(doomed(&one) && !doomed(&two));
        assert!(woken.0.load(Ordering::Relaxed), "its task is told");
        drop(one);
        assert_eq!(budget.held(), 301);
    }

    #[test]
    fn what_was_read_or_dropped_is_held_no_more() {
        let budget = Budget::new(1000);
        let one = budget.connection();
        one.opened(1);
        one.opened(2);
        one.came(1, 600);
        one.came(2, 300);
        one.read(1, 500);
        one.closed(2);
        one.closed(2);
        assert_eq!(budget.held(), 100);
        // What comes for a stream that is gone, or never was, is thrown away by yamux.
        one.came(2, 5000);
        one.read(2, 5000);
        one.read(1, 5000);
        assert_eq!(budget.held(), 0);
        assert!(!doomed(&one));
    }
}
