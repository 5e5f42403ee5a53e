//! Answers to appends, on their way from the storage actor to the front ends.
//!
//! A sync makes many appends durable at once, and each has a caller in another thread. To wake that thread takes a
//! system call every time, and it would set out with the first answer alone. So answers cross in batches: one
//! wake-up for all that a sync has made true, and front ends find them all when they look.

use parhelion_mirror::Acked;
use parhelion_types::Error;
use tokio::sync::mpsc;

use crate::request::Answer;

/// Where the answers of appends go. Clones share it.
#[derive(Clone, Debug)]
pub struct AnswerBatches {
    queue: mpsc::UnboundedSender<Vec<Answered>>,
}

/// An answer and who waits for it.
#[derive(Debug)]
pub(crate) struct Answered {
    pub to: Answer<Box<Acked>>,
    pub answer: Result<Box<Acked>, Error>,
}

impl AnswerBatches {
    /// Starts the task that gives answers out, on the current runtime: that of the front ends, where waking a
    /// caller costs no system call.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start() -> Self {
        // As many answers as there are appends under way, which credits bound.
        let (queue, mut batches) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(batch) = batches.recv().await {
                give_out(batch);
            }
        });
        Self { queue }
    }

    pub(crate) fn send(&self, batch: Vec<Answered>) {
        // Without the front ends' runtime nobody should wait any more; who does is answered from here.
        if let Err(mpsc::error::SendError(batch)) = self.queue.send(batch) {
            give_out(batch);
        }
    }
}

fn give_out(batch: Vec<Answered>) {
    for Answered { to, answer } in batch {
        // Whoever asked may have gone.
        let _ = to.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    type Waiting = oneshot::Receiver<Result<Box<Acked>, Error>>;

    fn batch(count: usize) -> (Vec<Answered>, Vec<Waiting>) {
        let pairs = (0..count).map(|n| {
            let (to, wait) = oneshot::channel();
            (Answered { to, answer: Err(Error::unavailable(format!("answer {n}"))) }, wait)
        });
        pairs.unzip()
    }

    #[tokio::test]
    async fn every_answer_finds_who_waits_for_it() {
        let answers = AnswerBatches::start();
        let (first, mut waiting) = batch(5);
        // One who waits no longer is passed over.
        drop(waiting.remove(0));
        let (second, later) = batch(2);
        answers.send(first);
        answers.send(second);
        let waiting = waiting.into_iter().zip(1..).chain(later.into_iter().zip(0..));
        for (wait, n) in waiting {
            let error = wait.await.unwrap().unwrap_err();
            assert_eq!(error.message(), format!("answer {n}"));
        }
    }

    #[test]
    fn without_its_runtime_answers_are_given_in_place() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answers = runtime.block_on(async { AnswerBatches::start() });
        drop(runtime);
        let (batch, mut waiting) = batch(1);
        answers.send(batch);
        assert!(waiting[0].try_recv().unwrap().is_err());
    }
}
