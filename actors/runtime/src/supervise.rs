//! Actors that outlive their panics.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::dev::ContextFut;
use actix::{Actor, Addr, AsyncContext, Context, Supervised};
use tokio::time::{Instant, Sleep};

use crate::fault::panic_at;

/// How often an actor may be rebuilt.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Panics within `window` that are survived; one more escalates. 0 escalates at the first: right for an
    /// actor that holds promises which only a restart of the process restores from disk.
    pub restarts_max: usize,
    /// The window.
    pub window: Duration,
    /// Pause before the first restart; doubles with each further panic in the window.
    pub backoff: Duration,
}

impl Policy {
    /// For actors whose state is rebuilt from others: links, estimator, front ends.
    pub const REBUILD: Self =
        Self { restarts_max: 5, window: Duration::from_secs(10), backoff: Duration::from_millis(20) };

    /// For actors whose state is a promise: a crash of the process is the restart path that is tested most.
    pub const CRASH: Self =
        Self { restarts_max: 0, window: Duration::from_secs(10), backoff: Duration::ZERO };
}

/// Called when an actor has used up its restarts; gets the actor's name. The actor is dead by then.
pub type Escalation = Arc<dyn Fn(&str) + Send + Sync>;

/// Of this process, by name: an actor that runs on any arbiter is counted, whoever started it.
static RESTARTS: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// How often each supervised actor of this process was rebuilt. Actors that are never rebuilt ([`Policy::CRASH`]) are
/// not listed.
#[must_use]
pub fn restarts() -> Vec<(&'static str, u64)> {
    let restarts = RESTARTS.lock().unwrap_or_else(PoisonError::into_inner);
    restarts.iter().map(|(&name, &count)| (name, count)).collect()
}

fn count_restarts(name: &'static str, more: u64) {
    *RESTARTS.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += more;
}

/// Starts `actor` on the current arbiter, or on the current `LocalSet`.
///
/// When a handler panics, the message in hand is lost (its sender sees a closed mailbox), every other
/// message stays queued, the address stays valid, and after the pause the actor gets
/// [`Supervised::restarting`], where it must rebuild itself from what is durable, then `started`.
pub fn supervise<A>(name: &'static str, policy: Policy, escalate: Escalation, actor: A) -> Addr<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    if policy.restarts_max > 0 {
        count_restarts(name, 0);
    }
    let context = Context::new();
    let address = context.address();
    let shell = Shell {
        name,
        _address: address.clone(),
        policy,
        escalate,
        context: context.into_future(actor),
        pause: None,
        panics: VecDeque::new(),
        fault: panic_at(name).map(|at| Box::pin(tokio::time::sleep_until(at.into()))),
    };
    tokio::task::spawn_local(shell);
    address
}

struct Shell<A: Supervised + Actor<Context = Context<A>>> {
    name: &'static str,
    policy: Policy,
    escalate: Escalation,
    /// actix restarts no actor that nobody can send to, and some live by what they spawn alone.
    _address: Addr<A>,
    context: ContextFut<A, Context<A>>,
    pause: Option<Pin<Box<Sleep>>>,
    panics: VecDeque<Instant>,
    /// Passes when a panic of this actor is injected.
    fault: Option<Pin<Box<Sleep>>>,
}

impl<A: Supervised + Actor<Context = Context<A>> + Unpin> Future for Shell<A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        loop {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(task).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
                let restarted = catch_unwind(AssertUnwindSafe(|| self.context.restart()));
                match restarted {
                    Ok(true) => count_restarts(self.name, 1),
                    Ok(false) => return Poll::Ready(()),
                    Err(_) => match self.next_pause() {
                        Some(pause) => {
                            self.pause = Some(pause);
                            continue;
                        }
                        None => return Poll::Ready(()),
                    },
                }
            }
            let is_faulty = self.fault.as_mut().is_some_and(|at| at.as_mut().poll(task).is_ready());
            if is_faulty {
                self.fault = None;
            }
            let context = &mut self.context;
            let work = || {
                let poll = Pin::new(context).poll(task);
                // After its work, so that what it has done and not yet told anybody is lost.
                assert!(!is_faulty, "injected: PARHELION_FAULT asked for it");
                poll
            };
            match catch_unwind(AssertUnwindSafe(work)) {
                Ok(poll) => return poll,
                Err(_) => match self.next_pause() {
                    Some(pause) => self.pause = Some(pause),
                    None => return Poll::Ready(()),
                },
            }
        }
    }
}

impl<A: Supervised + Actor<Context = Context<A>>> Shell<A> {
    /// The pause before the next restart; none once the restarts are used up.
    fn next_pause(&mut self) -> Option<Pin<Box<Sleep>>> {
        let now = Instant::now();
        self.panics.push_back(now);
        while self.panics.front().is_some_and(|&at| now - at > self.policy.window) {
            self.panics.pop_front();
        }
        if self.panics.len() > self.policy.restarts_max {
            tracing::error!(
                actor = self.name,
                panics = self.panics.len(),
                "actor panicked too often, giving up"
            );
            (self.escalate)(self.name);
            return None;
        }
        let doublings = u32::try_from(self.panics.len() - 1).unwrap_or(u32::MAX).min(8);
        let pause = self.policy.backoff * (1 << doublings);
        tracing::error!(actor = self.name, ?pause, "actor panicked, rebuilding it");
        Some(Box::pin(tokio::time::sleep(pause)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use actix::{Handler, Message, System};

    use super::*;

    #[derive(Default)]
    struct Counter {
        count: usize,
        rebuilt: Arc<AtomicUsize>,
    }

    impl Actor for Counter {
        type Context = Context<Self>;
    }

    impl Supervised for Counter {
        fn restarting(&mut self, _: &mut Context<Self>) {
            self.count = 0;
            self.rebuilt.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[derive(Message)]
    #[rtype(result = "usize")]
    struct Add(usize);

    impl Handler<Add> for Counter {
        type Result = usize;
        fn handle(&mut self, add: Add, _: &mut Context<Self>) -> usize {
            self.count += add.0;
            assert!(add.0 != 13, "injected");
            self.count
        }
    }

    /// An actor that gets no messages: a driver is all that it does.
    struct Driver {
        runs: Arc<AtomicUsize>,
    }

    impl Actor for Driver {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Context<Self>) {
            let runs = self.runs.fetch_add(1, Ordering::Relaxed);
            let drive = async move {
                tokio::task::yield_now().await;
                assert!(runs > 0, "injected");
            };
            ctx.spawn(actix::fut::wrap_future(drive));
        }
    }

    impl Supervised for Driver {}

    #[test]
    fn an_actor_that_nobody_sends_to_is_rebuilt_all_the_same() {
        System::new().block_on(async {
            let runs = Arc::new(AtomicUsize::new(0));
            let driver = Driver { runs: runs.clone() };
            drop(supervise("driver", QUICK, Arc::new(|_| panic!("it panics only once")), driver));
            for _ in 0..1000 {
                if runs.load(Ordering::Relaxed) == 2 {
                    assert!(restarts().contains(&("driver", 1)), "{:?}", restarts());
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            panic!("it ran {} times", runs.load(Ordering::Relaxed));
        });
    }

    const QUICK: Policy =
        Policy { restarts_max: 2, window: Duration::from_secs(10), backoff: Duration::from_millis(1) };

    #[test]
    fn a_panic_costs_one_message_and_the_state() {
        System::new().block_on(async {
            let rebuilt = Arc::new(AtomicUsize::new(0));
            let escalated = Arc::new(AtomicUsize::new(0));
            let counter = escalated.clone();
            let escalate: Escalation = Arc::new(move |_| {
                counter.fetch_add(1, Ordering::Relaxed);
            });
            let actor = Counter { count: 0, rebuilt: rebuilt.clone() };
            let address = supervise("counter", QUICK, escalate, actor);
            assert_eq!(address.send(Add(2)).await.unwrap(), 2);
            let lost = address.send(Add(13));
            let queued = address.send(Add(5));
            assert!(lost.await.is_err());
            assert_eq!(queued.await.unwrap(), 5, "state was rebuilt, the queued message survived");
            assert_eq!(rebuilt.load(Ordering::Relaxed), 1);
            assert!(address.send(Add(13)).await.is_err());
            assert_eq!(escalated.load(Ordering::Relaxed), 0);
            assert!(address.send(Add(13)).await.is_err());
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(escalated.load(Ordering::Relaxed), 1);
            assert!(!address.connected());
        });
    }
}
