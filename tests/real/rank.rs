//! One rank of the founding case as a process of its own: does what it is told on standard input, answers on standard output.

use std::io::{BufRead, Write, stdin, stdout};
use std::str::SplitWhitespace;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use xfer::migrate::{HandOver, Rescue};
use xfer::{Engine, EngineBuilder, Lane, Region};
use xfer_transport_core::ticket::Ticket;

use crate::Outcome;
use crate::items::{LARGE_BYTES, SMALL_BYTES, activation, blocks, is_whole, state};
use crate::rdma;

/// Who takes over what, once rank 1 has left.
const OWNERS_AFTER: [(&str, u32); 2] = [("layers 4-5", 0), ("layers 6-7", 2)];

/// What a program writes into memory that is its own again; no item looks like it.
const CANARY: u8 = 0xc5;

/// The program: started again by the test with these words.
pub fn main(rank: u32, arguments: &[String]) {
    let answer = |value: &Value| {
        let mut out = stdout().lock();
        // A parent that is gone is noticed at the end of the input.
        let _ = writeln!(out, "{value}").and_then(|()| out.flush());
    };
    let started = start(rank, arguments);
    let player = match started {
        Ok(player) => player,
        Err(error) => {
            answer(&json!({ "error": error.to_string() }));
            return;
        }
    };
    answer(&json!({ "ready": player.address().unwrap_or_default() }));
    for line in stdin().lock().lines() {
        let Ok(line) = line else { break };
        let said = player.obey(&line).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        answer(&said);
    }
    player.engine.close();
}

fn start(rank: u32, arguments: &[String]) -> Outcome<Player> {
    let mut builder = EngineBuilder::new(rank, 3)?.host_store(false);
    let mut in_arena = false;
    for argument in arguments {
        match argument.split_once('=') {
            Some(("memory", bytes)) => builder = builder.memory_limit_bytes(bytes.parse()?),
            Some(("files", count)) => limit_files(count.parse()?)?,
            Some(("arena", _)) => in_arena = true,
            Some(("pins", _)) => rdma::pin_within_limits()?,
            _ => return Err(format!("`{argument}` is unknown").into()),
        }
    }
    Ok(Player {
        engine: builder.start()?,
        in_arena,
        sources: Mutex::default(),
        given_back: Mutex::default(),
        open: Mutex::default(),
    })
}

struct Player {
    engine: Engine,
    /// Whether what is offered lies where other processes of the machine can read it.
    in_arena: bool,
    /// What was offered, for changing it while it is sent.
    sources: Mutex<Vec<Region>>,
    /// What a migration that has ended left here: the program's own again.
    given_back: Mutex<GivenBack>,
    /// Files that use up the process's descriptors.
    open: Mutex<Vec<std::fs::File>>,
}

/// Memory that the program has used for something else since.
#[derive(Default)]
struct GivenBack {
    /// Whether that of the migration that is looked at is among it.
    current: bool,
    /// Which, and the byte that is all over it.
    regions: Vec<(String, Region, u8)>,
}

impl GivenBack {
    fn put(&mut self, name: String, region: Region, byte: u8) -> Outcome<()> {
        for (at, block) in blocks(&region) {
            region.write_at(at, &vec![byte; block.len()])?;
        }
        self.regions.push((name, region, byte));
        Ok(())
    }
}

impl Player {
    /// Where this process really listens, whatever it tells the others.
    fn address(&self) -> Option<String> {
        let ticket = Ticket::decode(&self.engine.endpoint().ticket()).ok()?;
        Some(String::from_utf8_lossy(&ticket.addresses.first()?.1).into_owned())
    }

    fn obey(&self, line: &str) -> Outcome<Value> {
        let mut words = line.split_whitespace();
        match words.next().unwrap_or_default() {
            "connect" => self.engine.connect(millis(&mut words)?)?,
            "connect_to" => self.connect_to(&mut words)?,
            "hand_over" => self.hand_over(&[0, 2], millis(&mut words)?)?,
            "hand_over_alone" => self.hand_over(&[0], millis(&mut words)?)?,
            "offer" => self.offer(words.next().unwrap_or_default())?,
            "cut" => self.outgoing()?.cut("step 7".into())?,
            "withdraw" => self.outgoing()?.withdraw()?,
            "deadline" => self.engine.migrations().deadline_moved(millis(&mut words)?),
            "notice" => self.engine.raise_notice("test", millis(&mut words)?)?,
            "watch" => self.engine.watch_notices(self.engine.notice_source("signal", Some(millis(&mut words)?))?)?,
            "limit" => self.engine.endpoint().set_egress_limit(words.next().and_then(|word| word.parse().ok())),
            "dismiss" => {
                self.engine.dismiss();
                lock(&self.given_back).current = false;
            }
            "fill" => self.fill()?,
            "memory" => limit_memory(words.next().unwrap_or_default().parse()?)?,
            "clock" => return Ok(json!({ "seconds": SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() })),
            "await" => return self.wait(&mut words),
            "report" => return Ok(self.report()),
            "change" => self.change()?,
            "burn" => self.burn(millis(&mut words)?),
            "files" => self.use_up_files(),
            word => return Err(format!("`{word}` is no command").into()),
        }
        Ok(json!({}))
    }

    fn outgoing(&self) -> Outcome<xfer::migrate::Outgoing> {
        Ok(self.engine.outgoing().ok_or("nothing leaves from here")?)
    }

    /// Hands over to these; whoever isn't among them gets nothing, and the first one has it instead.
    fn hand_over(&self, targets: &[u32], time_left: Duration) -> Outcome<()> {
        let heir = |rank: u32| if targets.contains(&rank) { rank } else { targets[0] };
        let owners_after = OWNERS_AFTER.iter().map(|(shard, rank)| ((*shard).to_owned(), heir(*rank))).collect();
        self.engine.hand_over(HandOver { targets: targets.to_vec(), owners_after, time_left })?;
        Ok(())
    }

    /// Finds one rank, where another one is gone and will not come.
    fn connect_to(&self, words: &mut SplitWhitespace<'_>) -> Outcome<()> {
        let rank: u32 = words.next().unwrap_or_default().parse()?;
        let until = Instant::now() + millis(words)?;
        while !self.engine.alive(rank) {
            // The one that is gone is missed.
            let _ = self.engine.connect(Duration::from_millis(500));
            if Instant::now() > until {
                return Err(format!("rank {rank} is not found").into());
            }
        }
        Ok(())
    }

    fn offer(&self, what: &str) -> Outcome<()> {
        let state = |target, len_bytes| state(target, len_bytes, self.in_arena);
        let items: Vec<Rescue> = match what {
            "state" => [(0, SMALL_BYTES), (2, SMALL_BYTES), (0, LARGE_BYTES), (2, LARGE_BYTES)]
                .map(|(target, len_bytes)| state(target, len_bytes))
                .into_iter()
                .collect::<Outcome<_>>()?,
            "again" => self.all_for_one(false)?,
            "changed" => self.all_for_one(true)?,
            "delta" => [0, 2].into_iter().map(|target| activation(target, self.in_arena)).collect::<Outcome<_>>()?,
            // For somebody who takes nothing over.
            "elsewhere" => vec![state(3, SMALL_BYTES)?],
            _ => return Err(format!("`{what}` is nothing to offer").into()),
        };
        lock(&self.sources).extend(items.iter().map(|item| item.region.clone()));
        self.outgoing()?.offer(items)?;
        Ok(())
    }

    /// All that two targets were to have for the first one, under the names that it had; with other bytes if it has changed.
    fn all_for_one(&self, is_changed: bool) -> Outcome<Vec<Rescue>> {
        let mut items = Vec::new();
        for target in [0, 2] {
            for len_bytes in [SMALL_BYTES, LARGE_BYTES] {
                items.push(state(target, len_bytes, self.in_arena)?);
            }
            items.push(activation(target, self.in_arena)?);
        }
        for item in &mut items {
            item.target = 0;
            if is_changed {
                turn(&item.region)?;
            }
        }
        Ok(items)
    }

    /// Waits for something to be so, at most as long as the last word says.
    fn wait(&self, words: &mut SplitWhitespace<'_>) -> Outcome<Value> {
        let what = words.next().unwrap_or_default();
        let number: u64 = words.next().unwrap_or("0").parse()?;
        let time = millis(words)?;
        let incoming = || self.engine.incoming();
        let phase =
            |name: &str| incoming().is_some_and(|it| it.report().phases_s.iter().any(|(phase, _)| *phase == name));
        let is_so = || match what {
            "incoming" => incoming().is_some(),
            "items" => incoming().is_some_and(|it| it.items().len() as u64 >= number),
            "landed" => incoming().is_some_and(|it| it.report().moved_items() >= number),
            "cut" => phase("cut"),
            "notice" => self.engine.notice().is_some(),
            "down" => !self.engine.alive(number as u32),
            "generation" => self.engine.generation() >= number,
            "outcome" => self.outcome() != Value::Null,
            "settled" => self.is_settled(number),
            "quiet" => self.is_quiet(),
            "late" => self.engine.endpoint().stats().late_bytes >= number,
            "damaged" => self.engine.endpoint().stats().chunks_damaged >= number,
            "sent" => self.engine.endpoint().stats().lane(Lane::Rescue).sent_bytes >= number,
            "received" => self.engine.endpoint().stats().lane(Lane::Rescue).received_bytes >= number,
            "over_tcp" => self.engine.outgoing().is_some_and(|it| it.report().path.get("tcp") >= Some(&number)),
            "quarantined" => self.engine.endpoint().stats().quarantined_transfers >= number,
            _ => false,
        };
        // Not everything rings the bell (a peer that goes, for one), so it is looked at now and then.
        let until = Instant::now() + time;
        while !is_so() {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return Err(format!("`{what}` {number} is not so after {time:?}: {}", self.report()).into());
            };
            self.engine.bell().wait_for(Some(left.min(Duration::from_millis(20))), || is_so().then_some(()));
        }
        Ok(self.report())
    }

    /// Whether this process knows generation `number`, and what it means for a migration that it took part in.
    fn is_settled(&self, number: u64) -> bool {
        let outcome = self.outcome();
        let refused = outcome["reason"].as_str().is_some_and(|reason| reason.contains("refused the migration"));
        self.engine.generation() >= number && (outcome.is_null() || outcome["generation"].is_u64() || refused)
    }

    /// Whether every transfer that this process has begun has had its end, and all that was counted has been told.
    fn is_quiet(&self) -> bool {
        let stats = self.engine.endpoint().stats();
        let ended = stats.transfers_done + stats.transfers_cancelled + stats.transfers_expired + stats.transfers_failed;
        stats.transfers_started == ended
    }

    /// How this process's own migration ended, or the one to it.
    fn outcome(&self) -> Value {
        let outgoing = self.engine.outgoing().and_then(|outgoing| outgoing.outcome());
        let outcome = outgoing.or_else(|| self.engine.incoming().and_then(|incoming| incoming.outcome()));
        match outcome {
            None => Value::Null,
            Some(Ok(outcome)) => json!({
                "kind": outcome.kind.as_str(),
                "generation": outcome.generation,
                "reason": outcome.reason,
                "recompute": outcome.recompute,
                "missing": outcome.missing,
            }),
            Some(Err(error)) => json!({ "kind": "none", "reason": error.to_string() }),
        }
    }

    /// Everything that the promises are about, as this process sees it.
    fn report(&self) -> Value {
        let me = self.engine.id().rank;
        let record = self.engine.migrations().generation();
        let owns: Vec<String> = record
            .iter()
            .flat_map(|record| &record.owners)
            .filter(|(_, rank)| *rank == me)
            .map(|(shard, _)| shard.clone())
            .collect();
        let incoming = self.engine.incoming();
        let items = incoming.as_ref().map(|incoming| incoming.items()).unwrap_or_default();
        let landed = items.iter().filter_map(|item| Some((item, incoming.as_ref()?.landed(&item.name)?)));
        let landed: Vec<_> = landed.collect();
        let given_back = lock(&self.given_back);
        let damaged: Vec<&str> = landed
            .iter()
            .filter(|_| !given_back.current)
            .filter(|(item, region)| !is_whole(&item.name, region))
            .map(|(item, _)| &*item.name)
            .collect();
        let late: Vec<&str> = given_back
            .regions
            .iter()
            .filter(|(_, region, byte)| blocks(region).any(|(_, block)| block.iter().any(|found| found != byte)))
            .map(|(name, ..)| &**name)
            .collect();
        let stats = self.engine.endpoint().stats();
        let rescue = stats.lane(Lane::Rescue);
        let outgoing = self.engine.outgoing().map(|outgoing| outgoing.report());
        let told = outgoing.or_else(|| incoming.as_ref().map(|incoming| incoming.report())).unwrap_or_default();
        let items: Vec<_> = items.iter().map(|item| json!([item.id.0, &*item.name, item.bytes])).collect();
        json!({
            "rank": me,
            "life": self.engine.id().incarnation,
            "generation": self.engine.generation(),
            "owns": owns,
            // Whether the training loop may go on as the owner of what it had.
            "may_update": self.engine.updating().is_ok(),
            "outcome": self.outcome(),
            "landed": landed.iter().map(|(item, _)| &*item.name).collect::<Vec<_>>(),
            "damaged": damaged,
            "late": late,
            "items": items,
            "order": told.order,
            "moved_bytes": told.moved_bytes(),
            "kept_bytes": told.kept_bytes,
            "path": told.path,
            "sent_bytes": rescue.sent_bytes,
            "done_bytes": rescue.done_bytes,
            "received_bytes": rescue.received_bytes,
            "transfers_started": stats.transfers_started,
            "transfers_done": stats.transfers_done,
            "transfers_unfinished": stats.transfers_cancelled + stats.transfers_expired + stats.transfers_failed,
            "chunks_retried": stats.chunks_retried,
            "events_dropped": stats.events_dropped,
            "quarantined_transfers": stats.quarantined_transfers,
            "links_lost": stats.links_lost,
            "alive": (0..3).filter(|rank| self.engine.alive(*rank)).collect::<Vec<_>>(),
            "late_bytes": stats.late_bytes,
            "quarantined_bytes": stats.quarantined_bytes,
            "chunks_damaged": stats.chunks_damaged,
            "handshakes_refused": stats.handshakes_refused,
        })
    }

    /// Uses the memory of a migration that has ended for something else, as a program would: nobody may write it any more.
    fn fill(&self) -> Outcome<()> {
        // Whoever can't know the end has nothing back.
        if !self.outcome()["generation"].is_u64() {
            return Ok(());
        }
        let incoming = self.engine.incoming();
        let landed = incoming.iter().flat_map(|incoming| {
            let items = incoming.items();
            items
                .into_iter()
                .filter_map(|item| Some((item.name.to_string(), incoming.landed(&item.name)?)))
                .collect::<Vec<_>>()
        });
        let mut given_back = lock(&self.given_back);
        given_back.current = true;
        for (name, region) in landed {
            given_back.put(name, region, CANARY)?;
        }
        // Memory that is held back because somebody may still read it is not the program's yet.
        if self.engine.endpoint().stats().quarantined_bytes == 0 {
            for (at, region) in lock(&self.sources).drain(..).enumerate() {
                // Another byte than at a target, so that a late write of this one there is seen, too.
                given_back.put(format!("source {at}"), region, !CANARY)?;
            }
        }
        Ok(())
    }

    /// Turns every byte of every source around, as an optimizer's step would: what has left by half is torn.
    fn change(&self) -> Outcome<()> {
        lock(&self.sources).iter().try_for_each(turn)
    }

    /// Keeps twice as many threads busy as there are processors.
    fn burn(&self, time: Duration) {
        let until = Instant::now() + time;
        let count = 2 * thread::available_parallelism().map_or(2, usize::from);
        (0..count).for_each(|_| drop(thread::spawn(move || while Instant::now() < until {})));
    }

    /// Opens files until the process may open no more.
    fn use_up_files(&self) {
        let mut open = lock(&self.open);
        while let Ok(file) = std::fs::File::open("/dev/null") {
            open.push(file);
        }
    }
}

fn turn(region: &Region) -> Outcome<()> {
    let turned: Vec<u8> = region.copy_to_vec().iter().map(|byte| !byte).collect();
    Ok(region.write_at(0, &turned)?)
}

fn limit_files(count: u64) -> Outcome<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = Rlimit { current: Some(count), ..getrlimit(Resource::Nofile) };
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Lets the process have `more` bytes of memory than it has now, and none beyond.
fn limit_memory(more: u64) -> Outcome<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let status = std::fs::read_to_string("/proc/self/status")?;
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).ok_or("a process without a size")?;
    let limit = size.trim().trim_end_matches(" kB").parse::<u64>()? * 1024 + more;
    Ok(setrlimit(Resource::As, Rlimit { current: Some(limit), ..getrlimit(Resource::As) })?)
}

fn millis(words: &mut SplitWhitespace<'_>) -> Outcome<Duration> {
    Ok(Duration::from_millis(words.next().ok_or("a time is missing")?.parse()?))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
