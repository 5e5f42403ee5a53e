//! Request ids a log remembers, so that an append that is sent twice is stored once.

use std::collections::{HashMap, VecDeque};

use parhelion_log::KnownRequest;
use parhelion_types::RequestId;

/// The newest requests of one log.
#[derive(Debug)]
pub(crate) struct Requests {
    known: HashMap<RequestId, KnownRequest>,
    order: VecDeque<RequestId>,
    max: usize,
}

impl Requests {
    pub fn new(max: usize) -> Self {
        Self { known: HashMap::new(), order: VecDeque::new(), max: max.max(1) }
    }

    pub fn get(&self, request: RequestId) -> Option<KnownRequest> {
        self.known.get(&request).copied()
    }

    /// Remembers a request; the oldest one is forgotten above the limit.
    pub fn insert(&mut self, known: KnownRequest) {
        if self.known.insert(known.request, known).is_some() {
            return;
        }
        self.order.push_back(known.request);
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use parhelion_types::LogAddress;

    use super::*;

    #[test]
    fn the_newest_are_remembered() {
        let mut requests = Requests::new(2);
        for number in 1..=3 {
            let request = RequestId(number.into());
            requests.insert(KnownRequest {
                request,
                number,
                address: LogAddress::default(),
                length: 1,
                digest: 2,
            });
        }
        assert_eq!(requests.get(RequestId(1)), None);
        assert_eq!(requests.get(RequestId(3)).map(|s| s.number), Some(3));
        assert_eq!(requests.get(RequestId::NONE), None);
    }
}
