//! Request ids a log remembers, so that an append that is sent twice is stored once.

use std::collections::{HashMap, VecDeque};

use parhelion_types::{LogAddress, RequestId};

/// The newest requests of one log.
#[derive(Debug)]
pub(crate) struct Requests {
    known: HashMap<RequestId, Stored>,
    order: VecDeque<RequestId>,
    max: usize,
}

/// Where a request's append was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub number: u64,
    pub address: LogAddress,
}

impl Requests {
    pub fn new(max: usize) -> Self {
        Self { known: HashMap::new(), order: VecDeque::new(), max: max.max(1) }
    }

    pub fn get(&self, request: RequestId) -> Option<Stored> {
        self.known.get(&request).copied()
    }

    /// Remembers a request; the oldest one is forgotten above the limit.
    pub fn insert(&mut self, request: RequestId, stored: Stored) {
        if request.is_none() || self.known.insert(request, stored).is_some() {
            return;
        }
        self.order.push_back(request);
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered() {
        let mut requests = Requests::new(2);
        for number in 1..=3 {
            requests.insert(RequestId(number.into()), Stored { number, address: LogAddress::default() });
        }
        requests.insert(RequestId::NONE, Stored { number: 9, address: LogAddress::default() });
        assert_eq!(requests.get(RequestId(1)), None);
        assert_eq!(requests.get(RequestId(3)).map(|s| s.number), Some(3));
        assert_eq!(requests.get(RequestId::NONE), None);
    }
}
