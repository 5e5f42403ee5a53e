//! What a mirror's storage actor says, each answer before the marks that came after it.
//!
//! It answers a hello through one channel and reports marks through another. The order matters: marks count
//! from the answer on, so one that was reported after the answer must not be taken before it, and be lost.

use parhelion_link_driver::MirrorCommand;
use parhelion_types::Error;
use parhelion_wire::link::LogMarkV1;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

/// Where the logs of a storage node end, or why it takes no session.
pub(crate) type Answer = Result<Vec<LogMarkV1>, Error>;

/// A question to the storage actor. Hand it over before the storage actor hears of it.
pub(crate) struct Asked {
    pub(crate) number: u64,
    pub(crate) answer: oneshot::Receiver<Answer>,
}

/// What it said.
pub(crate) enum Said {
    Answer {
        number: u64,
        answer: Answer,
    },
    Command(MirrorCommand),
    /// It is gone.
    Over,
}

/// Commands and answers of one storage actor.
pub(crate) struct Sayings {
    commands: mpsc::UnboundedReceiver<MirrorCommand>,
    questions: mpsc::UnboundedReceiver<Asked>,
    /// The newest question; the storage actor need not answer older ones.
    asked: Option<Asked>,
    /// Said after an answer that was found on the way.
    held: Option<Said>,
}

impl Sayings {
    /// Nothing said yet; where commands and questions go.
    pub(crate) fn new() -> (mpsc::UnboundedSender<MirrorCommand>, Self, mpsc::UnboundedSender<Asked>) {
        let (send_command, commands) = mpsc::unbounded_channel();
        let (sayings, ask) = Self::of(commands);
        (send_command, sayings, ask)
    }

    /// As [`Sayings::new`], for a queue of commands that exists.
    pub(crate) fn of(
        commands: mpsc::UnboundedReceiver<MirrorCommand>,
    ) -> (Self, mpsc::UnboundedSender<Asked>) {
        let (ask, questions) = mpsc::unbounded_channel();
        (Self { commands, questions, asked: None, held: None }, ask)
    }

    /// The next saying. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Said {
        loop {
            if let Some(said) = self.held.take() {
                return said;
            }
            let Self { commands, questions, asked, .. } = self;
            let said = tokio::select! {
                biased;
                Some(question) = questions.recv() => {
                    *asked = Some(question);
                    continue;
                }
                answer = answer_of(asked) => return answer,
                command = commands.recv() => command.map_or(Said::Over, Said::Command),
            };
            return self.after_answer(said);
        }
    }

    /// Drops the question that is open: nobody waits for its answer any more.
    pub(crate) fn forget_question(&mut self) {
        while self.questions.try_recv().is_ok() {}
        self.asked = None;
    }

    /// The next saying, if there is one.
    pub(crate) fn try_next(&mut self) -> Option<Said> {
        if let Some(said) = self.held.take() {
            return Some(said);
        }
        let said = match self.commands.try_recv() {
            Ok(command) => Some(Said::Command(command)),
            Err(mpsc::error::TryRecvError::Disconnected) => Some(Said::Over),
            Err(mpsc::error::TryRecvError::Empty) => None,
        };
        match said {
            Some(said) => Some(self.after_answer(said)),
            None => self.try_answer(),
        }
    }

    /// An answer that was given before `said` comes first. If it was, it is here: the storage actor sent it
    /// before the command that has just been received.
    fn after_answer(&mut self, said: Said) -> Said {
        match self.try_answer() {
            Some(answer) => {
                self.held = Some(said);
                answer
            }
            None => said,
        }
    }

    fn try_answer(&mut self) -> Option<Said> {
        while let Ok(question) = self.questions.try_recv() {
            self.asked = Some(question);
        }
        let asked = self.asked.as_mut()?;
        let answer = match asked.answer.try_recv() {
            Ok(answer) => answer,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Closed) => Err(unanswered()),
        };
        let number = asked.number;
        self.asked = None;
        Some(Said::Answer { number, answer })
    }
}

async fn answer_of(asked: &mut Option<Asked>) -> Said {
    let Some(question) = asked else { return std::future::pending().await };
    let answer = (&mut question.answer).await.unwrap_or_else(|_| Err(unanswered()));
    let number = question.number;
    *asked = None;
    Said::Answer { number, answer }
}

fn unanswered() -> Error {
    Error::unavailable("its storage is restarting; the primary tries again by itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(records: u64) -> Vec<LogMarkV1> {
        vec![LogMarkV1 { log: 1, epoch: 1, records, segment: 0, offset: 0 }]
    }

    #[tokio::test]
    async fn an_answer_keeps_its_place_among_marks() {
        let (commands, mut sayings, ask) = Sayings::new();
        let (tell, answer) = oneshot::channel();
        commands.send(MirrorCommand::Marks(marks(1))).unwrap();
        // Known before it is answered: the mark above has to come first.
        assert!(matches!(sayings.next().await, Said::Command(MirrorCommand::Marks(m)) if m == marks(1)));
        ask.send(Asked { number: 4, answer }).unwrap();
        tell.send(Ok(marks(2))).unwrap();
        commands.send(MirrorCommand::Marks(marks(3))).unwrap();
        assert!(
            matches!(sayings.try_next(), Some(Said::Answer { number: 4, answer: Ok(m) }) if m == marks(2))
        );
        assert!(matches!(sayings.try_next(), Some(Said::Command(MirrorCommand::Marks(m))) if m == marks(3)));
        assert!(sayings.try_next().is_none());
        drop(commands);
        assert!(matches!(sayings.next().await, Said::Over));
    }

    #[tokio::test]
    async fn a_question_that_is_dropped_is_refused() {
        let (_commands, mut sayings, ask) = Sayings::new();
        let (tell, answer) = oneshot::channel();
        ask.send(Asked { number: 1, answer }).unwrap();
        drop(tell);
        assert!(matches!(sayings.next().await, Said::Answer { number: 1, answer: Err(_) }));
    }
}
