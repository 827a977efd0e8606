//! Users who count, and what they saw: the oracle of every test that breaks something under load.
//!
//! Each user reloads the counter page and remembers the last number. A number that does not grow is a lost write; a 1
//! where there was more is a lost session; anything but an answer is a failure. A GET that met a dying node may have
//! counted twice, because it was executed there and then repeated elsewhere; that is no loss, and is counted apart.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::task::{JoinHandle, spawn_local};

use super::browser::{Browser, NoAnswer};

/// What all users together saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub answered: u64,
    pub failed: u64,
    /// A number that was not larger than the one before.
    pub lost: u64,
    /// Those of the lost ones whose every lost number was answered with the word that no other node holds it
    /// (`Tasuki-Copies: 1`).
    pub unheld: u64,
    /// A session that began anew.
    pub reset: u64,
    /// Numbers passed over: requests that were executed twice.
    pub doubled: u64,
    /// The longest time any user waited from one answer to the next.
    pub longest_gap: Duration,
    /// The same since [`Load::take_gap`].
    pub recent_gap: Duration,
    /// How often each user was answered.
    pub rounds: Vec<u64>,
    /// Every answer's time, in microseconds.
    pub micros: Vec<u32>,
    /// The first thing that went wrong.
    pub first_trouble: Option<String>,
}

/// Users at work.
pub struct Load {
    stop: Rc<Cell<bool>>,
    seen: Rc<RefCell<Seen>>,
    users: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts users, each with a session of its own.
    pub fn start(address: SocketAddr, users: usize) -> Self {
        let (stop, seen) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(Seen::default())));
        seen.borrow_mut().rounds = vec![0; users];
        let user = |n| spawn_local(user(n, address, stop.clone(), seen.clone()));
        let users = (0..users).map(user).collect();
        Self { stop, seen, users }
    }

    /// What was seen until now.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// The longest time any user has waited for an answer that came since this was last asked.
    pub fn take_gap(&self) -> Duration {
        std::mem::take(&mut self.seen.borrow_mut().recent_gap)
    }

    /// Waits until every user has been answered who waits now.
    pub async fn everyone(&self) {
        let before = self.seen.borrow().rounds.clone();
        let is_on = |seen: &Seen| before.iter().zip(&seen.rounds).all(|(before, now)| before < now);
        super::wait_for("every user goes on", || async { is_on(&self.seen.borrow()).then_some(()) }).await;
    }

    /// Waits until so many more answers have come.
    pub async fn progress(&self, answers: u64) {
        let goal = self.seen.borrow().answered + answers;
        super::wait_for("the load goes on", || async { (self.seen.borrow().answered >= goal).then_some(()) }).await;
    }

    /// Lets the users finish what they do, and tells what they saw.
    pub async fn finish(self) -> Seen {
        self.stop.set(true);
        for user in self.users {
            user.await.unwrap();
        }
        self.seen.take()
    }
}

impl Seen {
    /// Nothing failed, nothing was lost, and something was done.
    pub fn assert_whole(&self) {
        let harm = (self.failed, self.lost, self.reset);
        assert_eq!(harm, (0, 0, 0), "failed, lost, reset; first: {:?}", self.first_trouble);
        assert!(self.answered > 0, "a load that does nothing proves nothing");
    }

    /// The time within which this share of the answers came, in milliseconds.
    pub fn percentile(&mut self, share: f64) -> f64 {
        self.micros.sort_unstable();
        let at = ((self.micros.len() as f64 * share) as usize).min(self.micros.len().saturating_sub(1));
        self.micros.get(at).map_or(0.0, |micros| f64::from(*micros) / 1_000.0)
    }

    /// No write was lost that another node was said to hold: what can be asked for while nodes do not see each other and
    /// both go on. Where they meet again, requests may be refused until it is settled who owns what.
    pub fn assert_held(&self) {
        let harm = (self.lost - self.unheld, self.reset);
        assert_eq!(harm, (0, 0), "lost, reset; first: {:?}", self.first_trouble);
        assert!(self.answered > 0, "a load that does nothing proves nothing");
    }

    fn note(&mut self, last: u64, held: u64, outcome: Result<u64, String>, trouble_at: impl Fn() -> String) {
        let trouble = match outcome {
            Ok(count) if count == last + 1 => None,
            Ok(count) if count > last => {
                self.doubled += count - last - 1;
                None
            }
            Ok(1) => {
                self.reset += 1;
                Some("reset".into())
            }
            Ok(count) => {
                self.lost += 1;
                // The request that saw this number has counted too, so all that was held is below it.
                self.unheld += u64::from(count > held);
                Some(format!("{count} after {last}"))
            }
            Err(error) => {
                self.failed += 1;
                Some(error)
            }
        };
        if let Some(trouble) = trouble {
            self.first_trouble.get_or_insert_with(|| format!("{trouble} ({})", trouble_at()));
        }
    }
}

async fn user(n: usize, address: SocketAddr, stop: Rc<Cell<bool>>, seen: Rc<RefCell<Seen>>) {
    let mut browser = Browser::new(address);
    // The last number, and the last one that another node was said to hold.
    let (mut last, mut held, mut answered) = (0, 0, Instant::now());
    while !stop.get() {
        let asked = Instant::now();
        let outcome = count(&mut browser).await;
        let mut seen = seen.borrow_mut();
        let jar = || format!("{:?}", browser.cookies);
        match outcome {
            Ok((count, copies)) => {
                seen.note(last, held, Ok(count), jar);
                held = if copies > 1 { count } else { held.min(count) };
                seen.answered += 1;
                seen.rounds[n] += 1;
                seen.longest_gap = seen.longest_gap.max(answered.elapsed());
                seen.recent_gap = seen.recent_gap.max(answered.elapsed());
                seen.micros.push(asked.elapsed().as_micros().try_into().unwrap_or(u32::MAX));
                (last, answered) = (count, Instant::now());
            }
            Err(error) => seen.note(last, held, Err(error.0), jar),
        }
    }
}

/// The number, and how many nodes hold it.
async fn count(browser: &mut Browser) -> Result<(u64, u64), NoAnswer> {
    let answer = browser.get("/?plain").await?;
    let copies = answer.header("tasuki-copies").and_then(|copies| copies.parse().ok()).unwrap_or(1);
    let (_, count) = answer.plain().ok_or_else(|| NoAnswer(format!("{} {:?}", answer.status, answer.body)))?;
    Ok((count, copies))
}
