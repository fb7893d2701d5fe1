//! The migrations of one process: the front of this crate.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;
use xfer_migrate_core::session::{SourceConfigError, Violation};
use xfer_migrate_core::{GenerationRecord, Item};
use xfer_plan::manifest::Prospect;
use xfer_plan::{Choice, Handling, Mode, Progress};
use xfer_transport::{Endpoint, Region};

use crate::bell::Bell;
use crate::driver::{self, Job};
use crate::outcome::{MigrationError, Outcome};
use crate::report::Report;
use crate::rescue::{HandOver, Rescue};
use crate::store::records::turn_key;
use crate::store::{Store, StoreError, Swap, Version};
use crate::takeover::TakeOvers;
use crate::trace::Ended;

/// The target of the summary line that every migration ends with.
const SUMMARY: &str = "xfer::summary";

/// How long a call waits for the driver's thread to answer: it never blocks, so silence means that it is gone.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a hand-over waits for the store to say whose turn it is, at most: many times what a store that lives takes, and little of a
/// notice.
const TURN: Duration = Duration::from_millis(250);

/// What [`Migrations`] needs to know beyond its endpoint and store.
#[derive(Debug, Clone)]
pub struct MigrationsConfig {
    /// How many bytes of memory others' migrations may take here, in all.
    pub memory_limit_bytes: u64,
    /// Is told of every migration that ends here, once each; none if nobody wants to know.
    pub ended: Option<mpsc::Sender<Ended>>,
}

/// The migrations of one process, as source and as target.
///
/// As a target it needs nobody: offers are checked, memory is granted, what lands is verified, and the commit is proposed
/// on its own threads. The caller learns of it by [`Migrations::incoming`].
#[derive(Clone)]
pub struct Migrations {
    shared: Arc<Shared>,
}

/// What the driver's thread and its callers share.
pub(crate) struct Shared {
    pub(crate) jobs: mpsc::Sender<Job>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) state: Mutex<State>,
    endpoint: Endpoint,
    store: Arc<dyn Store>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) generation: Option<GenerationRecord>,
    pub(crate) outgoing: Option<Outgoing>,
    pub(crate) incoming: Option<Incoming>,
}

/// One migration seen from its source.
#[derive(Clone)]
pub struct Outgoing {
    pub(crate) jobs: mpsc::Sender<Job>,
    pub(crate) view: Arc<Mutex<View>>,
    pub(crate) bell: Arc<Bell>,
}

/// One migration seen from a target.
#[derive(Clone)]
pub struct Incoming {
    pub(crate) source: u32,
    pub(crate) view: Arc<Mutex<View>>,
    pub(crate) bell: Arc<Bell>,
}

/// What a caller may see of one migration.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) items: Vec<Item>,
    pub(crate) landed: HashMap<String, Region>,
    pub(crate) outcome: Option<Result<Outcome, MigrationError>>,
    /// When that was learnt here.
    pub(crate) decided: Option<Instant>,
    pub(crate) report: Report,
    /// What targets have room for beside what was offered.
    pub(crate) room: HashMap<u32, u64>,
}

/// Why this process can't take part in migrations.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store holds something else than a generation.
    #[error("the store's generation can't be read ({0}); is another program using this store?")]
    Generation(String),
    /// No thread could be started.
    #[error("no thread for migrations: {0}")]
    Thread(#[from] io::Error),
}

/// Why a hand-over can't begin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HandOverError {
    /// Another one is under way.
    #[error("this rank is already handing over; withdraw that migration first")]
    UnderWay,
    /// Another rank leaves first.
    #[error("rank {rank} leaves first; try again when its hand-over has ended (generation {generation} is over then)")]
    NotItsTurn {
        /// Who.
        rank: u32,
        /// The generation that is true now.
        generation: u64,
    },
    /// Who owns what has changed since it was prepared.
    #[error(
        "generation {known} is true, and this hand-over was prepared in generation {prepared}; follow that one first"
    )]
    Outdated {
        /// What it was prepared in.
        prepared: u64,
        /// What is true.
        known: u64,
    },
    /// It makes no sense like this.
    #[error(transparent)]
    Config(#[from] SourceConfigError),
    /// Its first items make no sense.
    #[error(transparent)]
    Items(#[from] OfferError),
    /// The threads of this process's migrations have ended.
    #[error("migrations of this process are closed")]
    Closed,
}

/// Why items can't be offered, or a migration not be cut or withdrawn.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OfferError {
    /// Two items have one name.
    #[error("two items are called `{0}`; names are unique over a migration")]
    DuplicateName(String),
    /// An item is to be computed from one that nobody offers.
    #[error("item `{item}` is computed from `{input}`, which is not offered; offer inputs first or together")]
    UnknownInput {
        /// The item.
        item: String,
        /// Its missing input.
        input: String,
    },
    /// The session refuses: the items don't hold together, or it is past the point where this is possible.
    #[error(transparent)]
    Refused(Violation),
    /// What is offered and what may be don't hold together.
    #[error("this can't be planned: {0}")]
    Plan(String),
    /// The threads of this process's migrations have ended.
    #[error("migrations of this process are closed")]
    Closed,
}

impl Migrations {
    /// Serves migrations of `endpoint`, with ownership in `store`; waiters are woken through `bell`.
    ///
    /// Reads the generation that is true now, and writes the first one if there is none.
    pub fn start(
        endpoint: &Endpoint,
        store: Arc<dyn Store>,
        bell: Arc<Bell>,
        config: MigrationsConfig,
    ) -> Result<Self, StartError> {
        let (jobs, queue) = mpsc::channel();
        let state = Mutex::new(State::default());
        let shared = Arc::new(Shared { jobs, bell, state, endpoint: endpoint.clone(), store: Arc::clone(&store) });
        driver::start(endpoint, store, &shared, queue, config)?;
        Ok(Self { shared })
    }

    /// The ownership that is true now, as far as this process has heard.
    pub fn generation(&self) -> Option<GenerationRecord> {
        self.shared.state().generation.clone()
    }

    /// Begins to hand over what this process owns; `items` are offered before anybody can cut the migration.
    ///
    /// Ranks that have to leave at once do so one after the other. Whose turn it is, the store says; one that can't be reached holds up
    /// nobody, since nothing is committed without it.
    pub fn hand_over(&self, hand_over: HandOver, items: Vec<Rescue>) -> Result<Outgoing, HandOverError> {
        self.hand_over_in(None, hand_over, items)
    }

    /// [`Migrations::hand_over`] by somebody who follows ownership himself, and has followed it up to `generation`: what he says of who
    /// owns what afterwards would undo a newer one.
    pub fn hand_over_in(
        &self,
        generation: Option<u64>,
        hand_over: HandOver,
        items: Vec<Rescue>,
    ) -> Result<Outgoing, HandOverError> {
        self.shared.take_turn()?;
        let (answer, answered) = mpsc::sync_channel(1);
        let job = Job::HandOver { generation, hand_over, items, answer };
        self.shared.jobs.send(job).map_err(|_| HandOverError::Closed)?;
        let begun = answered.recv_timeout(ANSWER).map_err(|_| HandOverError::Closed)?;
        if begun.as_ref().is_err_and(|error| *error != HandOverError::UnderWay) {
            self.shared.give_turn_back();
        }
        begun
    }

    /// The latest migration from this process.
    pub fn outgoing(&self) -> Option<Outgoing> {
        self.shared.state().outgoing.clone()
    }

    /// The latest migration to this process that was not dismissed.
    pub fn incoming(&self) -> Option<Incoming> {
        self.shared.state().incoming.clone()
    }

    /// Puts the latest incoming migration away.
    pub fn dismiss(&self) {
        self.shared.state().incoming = None;
    }

    /// This process has to go, or sooner than it was said before: `time_left` from now. What leaves it hurries, and what would come to it
    /// is refused.
    pub fn deadline_moved(&self, time_left: Duration) {
        // A driver that has ended has nothing to hurry.
        let _ = self.shared.jobs.send(Job::DeadlineMoved { time_left });
    }

    /// The notice for this process was taken back: migrations to it may begin again.
    pub fn stay(&self) {
        let _ = self.shared.jobs.send(Job::Stay);
    }

    /// Ends the threads of this process's migrations.
    pub fn close(&self) {
        let _ = self.shared.jobs.send(Job::Stop);
    }
}

impl View {
    /// The migration ended. An end without a decision gives way to a decision that is heard of later.
    pub(crate) fn conclude(&mut self, outcome: Result<Outcome, MigrationError>) {
        self.decided = Some(Instant::now());
        match &outcome {
            Ok(outcome) => {
                self.report.generation = Some(outcome.generation);
                self.report.verdict = Some(outcome.kind.as_str());
                self.report.reason.clone_from(&outcome.reason);
                tracing::info!(target: SUMMARY, "migration from rank {}, {}", outcome.source, self.report);
            }
            Err(error) => {
                self.report.reason = error.to_string();
                tracing::warn!(%error, "a migration has no decision");
            }
        }
        if !matches!(self.outcome, Some(Ok(_))) {
            self.outcome = Some(outcome);
        }
    }
}

impl Shared {
    /// Makes it this process's turn to leave, unless a rank that lives has it in this generation. A store that doesn't answer soon is not
    /// waited for.
    fn take_turn(&self) -> Result<(), HandOverError> {
        let Some(generation) = self.state().generation.as_ref().map(|record| record.generation) else { return Ok(()) };
        let (taken, answer) = mpsc::sync_channel(1);
        let (endpoint, store) = (self.endpoint.clone(), Arc::clone(&self.store));
        // Whoever doesn't wait any more has begun: then it is his turn, too.
        let ask = move || drop(taken.send(Self::turn(&endpoint, &*store, generation)));
        match thread::Builder::new().name("xfer-turn".into()).spawn(ask) {
            Ok(_) => answer.recv_timeout(TURN).unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }

    fn turn(endpoint: &Endpoint, store: &dyn Store, generation: u64) -> Result<(), HandOverError> {
        let (key, me) = (turn_key(generation), endpoint.id().rank);
        let mut version = Version::ABSENT;
        loop {
            match store.compare_and_swap(&key, version, me.to_string().into()) {
                Ok(Swap::Won(_)) | Err(_) => return Ok(()),
                Ok(Swap::Lost(found)) => {
                    let rank = std::str::from_utf8(&found.value).ok().and_then(|rank| rank.parse().ok());
                    match rank {
                        Some(rank) if rank != me && endpoint.peer(rank).is_some() => {
                            return Err(HandOverError::NotItsTurn { rank, generation });
                        }
                        Some(rank) if rank == me => return Ok(()),
                        // Who had it is gone, or nobody that there is.
                        _ => version = found.version,
                    }
                }
            }
        }
    }

    /// Nothing has begun: others needn't wait.
    fn give_turn_back(&self) {
        let Some(generation) = self.state().generation.as_ref().map(|record| record.generation) else { return };
        let key = turn_key(generation);
        if let Ok(Some(found)) = self.store.get(&key) {
            // If it isn't this process's any more, it isn't there to be given.
            if found.value == self.endpoint.id().rank.to_string() {
                let _ = self.store.compare_and_swap(&key, found.version, Bytes::from_static(b"nobody"));
            }
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outgoing {
    /// Adds items; may be called several times before [`Outgoing::cut`].
    pub fn offer(&self, items: Vec<Rescue>) -> Result<(), OfferError> {
        self.ask(|answer| Job::Offer { items, answer })
    }

    /// Nothing more comes: `record` (cursor, step, whatever the new owners must know; at most 1 MiB) travels with the commit.
    pub fn cut(&self, record: Bytes) -> Result<(), OfferError> {
        self.cut_for(record, TakeOvers::default())
    }

    /// [`Outgoing::cut`] for new owners that need `take_over` to make what comes their own: for the report's forecast.
    pub fn cut_for(&self, record: Bytes, take_over: TakeOvers) -> Result<(), OfferError> {
        self.ask(|answer| Job::Cut { record, take_over, answer })
    }

    /// The notice was withdrawn: ends [`OutcomeKind::Withdrawn`](crate::OutcomeKind::Withdrawn) if that is decided before a commit.
    pub fn withdraw(&self) -> Result<(), OfferError> {
        self.ask(|answer| Job::Withdraw { answer })
    }

    /// All that is offered so far, as a file that `xfer plan --manifest` reads: JSON, with what the link is known to carry, what
    /// taking over costs, and `progress` of the training.
    pub fn manifest_json(&self, progress: Progress) -> Result<String, OfferError> {
        self.ask(|answer| Job::Manifest { progress, answer })
    }

    /// Which of the ways to leave that are `open` loses least, counting on the low end of what the links carry: with what is offered so
    /// far and, beside it, `prospects`. `handling` is what the caller knows of taking over; what this process has measured of digests
    /// and commits is put in. None if none is open.
    pub fn weigh(
        &self,
        progress: Progress,
        handling: Handling,
        open: Vec<Mode>,
        prospects: Vec<Prospect>,
    ) -> Result<Option<Choice>, OfferError> {
        self.ask(|answer| Job::Weigh { progress, handling, open, prospects, answer })
    }

    /// How many bytes more `rank` has room for, beside what was offered to it; none if it hasn't said. Who is offered more than it has room
    /// for takes no part, and nothing is handed over.
    pub fn room(&self, rank: u32) -> Option<u64> {
        lock(&self.view).room.get(&rank).copied()
    }

    /// This is how this rank leaves, and why: for the log and the report.
    pub fn leaves_by(&self, mode: Mode, why: &str) {
        tracing::info!(target: SUMMARY, "leaving by {mode}: {why}");
        let mut view = lock(&self.view);
        (view.report.mode, view.report.why) = (Some(mode.name()), why.to_owned());
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<Result<Outcome, MigrationError>> {
        lock(&self.view).outcome.clone()
    }

    /// Waits at most `timeout` (`None`: for ever) for the outcome.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Result<Outcome, MigrationError>> {
        self.bell.wait_for(timeout, || self.outcome())
    }

    /// What it did so far, in figures.
    pub fn report(&self) -> Report {
        lock(&self.view).report.clone()
    }

    fn ask<T>(&self, job: impl FnOnce(mpsc::SyncSender<Result<T, OfferError>>) -> Job) -> Result<T, OfferError> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.jobs.send(job(answer)).map_err(|_| OfferError::Closed)?;
        answered.recv_timeout(ANSWER).map_err(|_| OfferError::Closed)?
    }
}

impl Incoming {
    /// The rank that is to leave.
    pub fn source(&self) -> u32 {
        self.source
    }

    /// The items offered to this rank so far.
    pub fn items(&self) -> Vec<Item> {
        lock(&self.view).items.clone()
    }

    /// An item's memory, once all of it is there and verified. Before the commit it is nobody's to change.
    pub fn landed(&self, name: &str) -> Option<Region> {
        lock(&self.view).landed.get(name).cloned()
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<Result<Outcome, MigrationError>> {
        lock(&self.view).outcome.clone()
    }

    /// This rank goes on with what it took over: for the report, which then has how long it took since the decision, `computed` of it
    /// for what was computed again. Before there is a decision, this says nothing.
    pub fn goes_on(&self, computed: Duration) {
        let mut view = lock(&self.view);
        let Some(decided) = view.decided else { return };
        let took = decided.elapsed();
        view.report.measured_parts_s = vec![
            ("take over", took.saturating_sub(computed).as_secs_f64()),
            ("compute again", computed.min(took).as_secs_f64()),
        ];
    }

    /// Waits at most `timeout` (`None`: for ever) for the outcome.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Result<Outcome, MigrationError>> {
        self.bell.wait_for(timeout, || self.outcome())
    }

    /// What it did so far, in figures.
    pub fn report(&self) -> Report {
        lock(&self.view).report.clone()
    }
}

/// Nothing that a panic could leave half done is kept under these locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
