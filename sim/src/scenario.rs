//! What a run begins with and what will happen in it, all of it decided by a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use xfer_migrate_core::PlanPolicy;
use xfer_transport_core::limits::CHUNK_BYTES_MIN;

use crate::happening::{Happening, When};
use crate::network::{Condition, Mistreatment};
use crate::node::Habits;
use crate::random::Random;
use crate::shard::parts;
use crate::step::Step;

/// Bytes of a chunk: the smallest there may be, so that many fit into a short run.
pub const CHUNK_BYTES: u32 = CHUNK_BYTES_MIN;

/// What a lane may have posted: three chunks and a bit, so that it is reached all the time.
pub const WINDOW_BYTES: u64 = 3 * CHUNK_BYTES as u64 + 100;

/// When the first notice comes at the earliest: the processes have found each other by then.
const SETTLED: Duration = Duration::from_millis(600);

/// What a run begins with and what will happen in it.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Decides everything that this doesn't.
    pub seed: u64,
    /// Processes of the job, by rank.
    pub ranks: u32,
    /// Who owns what in the beginning.
    pub owners: Vec<(String, u32)>,
    /// Who takes over from whom.
    pub targets: BTreeMap<u32, Vec<u32>>,
    /// How lines behave when nothing goes wrong.
    pub usual: Condition,
    /// What a connection takes before its sender waits.
    pub pipe_bytes: usize,
    /// Links for data to each peer.
    pub data_links: usize,
    /// How long a worker takes for one job.
    pub work_delay: Duration,
    /// What all processes have in common.
    pub habits: Habits,
    /// How long after a notice training reaches a safe point, and how long after that it cuts.
    pub pace: [Duration; 2],
    /// What happens.
    pub timeline: Vec<(When, Happening)>,
    /// When faults end.
    pub heal_at: Duration,
    /// Whether a second attempt follows a withdrawn one while there is time.
    pub retries: bool,
    /// Whether the store writes all down, and is started again as what it was.
    pub keeps_journal: bool,
}

impl Scenario {
    /// A quiet scenario: rank 0 leaves with plenty of time, ranks 1 and 2 take over, and nothing goes wrong.
    pub fn quiet(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let ms = Duration::from_millis;
        let ranks = 3;
        let mut owners: Vec<(String, u32)> = (0..ranks).map(|rank| (format!("s{rank}"), rank)).collect();
        owners.push(("t0".to_owned(), 0));
        let parts =
            owners.iter().map(|(name, _)| (name.clone(), parts(&mut random, u64::from(CHUNK_BYTES), 4))).collect();
        Self {
            seed,
            ranks,
            targets: (0..ranks).map(|rank| (rank, (0..ranks).filter(|other| *other != rank).collect())).collect(),
            owners,
            usual: Condition {
                cut: false,
                delay: Duration::from_micros(random.between(50, 800)),
                jitter: Duration::from_micros(random.below(200)),
                bytes_per_s: random.between(2_000_000, 20_000_000),
            },
            pipe_bytes: random.between(8, 48) as usize * 1024,
            data_links: 1,
            work_delay: Duration::from_micros(random.between(20, 500)),
            habits: Habits { parts, policy: PlanPolicy::ShipAll, memory_bytes: BTreeMap::new(), reserve: ms(50) },
            pace: [ms(40), ms(10)],
            timeline: vec![(When::At(SETTLED), Happening::Notice { rank: 0, left: Duration::from_secs(8) })],
            heal_at: Duration::from_secs(4),
            retries: false,
            keeps_journal: false,
        }
    }

    /// A scenario in which anything may go wrong.
    pub fn of_seed(seed: u64) -> Self {
        let mut scenario = Self::quiet(seed);
        let mut random = Random::new(seed ^ 0x5eed_5eed_5eed_5eed);
        let ms = Duration::from_millis;
        scenario.ranks = *random.pick(&[2, 3, 3, 3, 3, 4, 4]);
        let ranks = scenario.ranks;
        scenario.owners = (0..ranks).map(|rank| (format!("s{rank}"), rank)).collect();
        if random.per_mille(700) {
            scenario.owners.push(("t0".to_owned(), 0));
        }
        let longest = random.between(1, 6);
        scenario.habits.parts = scenario
            .owners
            .iter()
            .map(|(name, _)| (name.clone(), parts(&mut random, u64::from(CHUNK_BYTES), longest)))
            .collect();
        // A fourth rank has no part in what the others do, now and then.
        let bystander = ranks == 4 && random.per_mille(600);
        let takers = if bystander { 3 } else { ranks };
        scenario.targets =
            (0..ranks).map(|rank| (rank, (0..takers).filter(|other| *other != rank).collect())).collect();
        scenario.data_links = random.between(1, 2) as usize;
        scenario.usual.bytes_per_s = *random.pick(&[200_000, 1_000_000, 5_000_000, 20_000_000]);
        scenario.usual.delay = Duration::from_micros(random.between(20, 3000));
        scenario.usual.jitter = Duration::from_micros(*random.pick(&[0, 100, 2000, 10_000]));
        scenario.work_delay = Duration::from_micros(*random.pick(&[10, 200, 3000]));
        scenario.habits.policy = *random.pick(&[PlanPolicy::ShipAll, PlanPolicy::Threshold]);
        scenario.retries = random.per_mille(500);
        if random.per_mille(100) {
            scenario.habits.memory_bytes.insert(1, random.between(0, 20_000));
        }
        scenario.pace = [ms(*random.pick(&[0, 20, 150, 600])), ms(random.below(120))];

        let left = ms(*random.pick(&[60, 300, 900, 2500, 5500, 5500]));
        let noticed = SETTLED + ms(random.below(200));
        scenario.timeline = vec![(When::At(noticed), Happening::Notice { rank: 0, left })];
        if random.per_mille(150) {
            let rank = random.between(1, u64::from(ranks) - 1) as u32;
            let when = noticed + random.within(left);
            scenario.timeline.push((When::At(when), Happening::Notice { rank, left: ms(random.between(300, 4000)) }));
        }
        scenario.heal_at = noticed + random.within(left + ms(1500)) + ms(200);
        for _ in 0..random.below(5) {
            scenario.trouble(&mut random, noticed, left);
        }
        if random.per_mille(300) {
            let mut often = |below| if random.per_mille(400) { random.below(below) } else { 0 };
            let mistreatment = Mistreatment {
                flipped: often(3000),
                spoiled: often(5000),
                doubled: often(8000),
                torn: often(1200),
                reset: often(1200),
            };
            scenario.timeline.push((When::At(noticed), Happening::Mistreat(mistreatment)));
        }
        scenario.again(noticed);
        scenario.journal(noticed, left);
        scenario
    }

    /// One seed in ten is about a hand-over that begins again: a target dies or has to leave, too, in the middle of it, and there is
    /// time to hand over to who is left, which has kept what had landed. What is to be sent may change in between. Drawn from numbers
    /// of its own.
    fn again(&mut self, noticed: Duration) {
        let mut random = Random::new(self.seed ^ 0xa6a1_a6a1_a6a1_a6a1);
        if self.ranks < 3 || !random.per_mille(100) {
            return;
        }
        let ms = Duration::from_millis;
        let left = ms(random.between(8000, 15_000));
        self.retries = true;
        self.heal_at = self.heal_at.max(noticed + left / 3 + ms(random.below(3000)));
        // A link on which it takes a while.
        self.usual.bytes_per_s = *random.pick(&[20_000, 200_000, 1_000_000]);
        self.timeline.truncate(2);
        self.timeline[0] = (When::At(noticed), Happening::Notice { rank: 0, left });
        let target = random.between(1, 2) as u32;
        let what = match random.below(3) {
            0 => Happening::Kill { rank: target, silently: random.per_mille(300) },
            1 => Happening::FailAllocations(target, 1),
            _ => Happening::Notice { rank: target, left: ms(60_000) },
        };
        let step = *random.pick(&[Step::Bulk, Step::Verify, Step::Delta]);
        self.timeline.push((When::On(step, None, random.within(ms(1500))), what));
        if random.per_mille(400) {
            let before = random.within(ms(1000));
            self.timeline.push((When::At(noticed + left / 3 - before), Happening::ChangeSource(0)));
        }
    }

    /// Half of all stores keep a journal; now and then the disk of one is full. Drawn from numbers of its own.
    fn journal(&mut self, noticed: Duration, left: Duration) {
        let mut random = Random::new(self.seed ^ 0x0d15_c0d1_5c0d_15c0);
        let ms = Duration::from_millis;
        self.keeps_journal = random.per_mille(500);
        if !self.keeps_journal || random.per_mille(600) {
            return;
        }
        let full = match random.below(2) {
            0 => noticed + random.within(left.min(ms(1500)) + ms(100)),
            _ => random.within(noticed),
        };
        self.timeline.push((When::At(full), Happening::TearJournal));
        let after = ms(random.between(1, 1500));
        self.timeline.push((When::At(full + after), Happening::RestartStore));
        self.timeline.push((When::At(full + after + ms(random.between(50, 3000))), Happening::RestartStore));
    }

    /// One thing goes wrong, at some moment or some step, and perhaps right again.
    fn trouble(&mut self, random: &mut Random, noticed: Duration, left: Duration) {
        let ms = Duration::from_millis;
        let ranks = u64::from(self.ranks);
        let when = match random.below(2) {
            0 => When::At(noticed + random.within(left.min(ms(1500)) + ms(100))),
            _ => When::On(*random.pick(&Step::ALL[1..8]), None, Duration::from_micros(random.below(3000))),
        };
        let later = |after: Duration| match when {
            When::At(at) => When::At(at + after),
            When::On(step, rank, at) => When::On(step, rank, at + after),
        };
        // The source and its targets are where it hurts.
        let rank = random.below(ranks) as u32;
        let other = (rank + random.between(1, ranks - 1) as u32) % self.ranks;
        let pause = ms(*random.pick(&[50, 300, 700, 1300, 2600]));
        let machine = |random: &mut Random| if random.per_mille(350) { None } else { Some(other) };
        let mut add = |when, what| self.timeline.push((when, what));
        match random.below(21) {
            0 | 1 => {
                add(when, Happening::Kill { rank, silently: random.per_mille(300) });
                if random.per_mille(500) {
                    add(later(pause), Happening::Restart(rank));
                }
            }
            2 | 3 => {
                add(when, Happening::Pause(rank));
                if random.per_mille(200) {
                    add(later(pause / 2), Happening::Restart(rank));
                }
                add(later(pause), Happening::Resume(rank));
            }
            4 | 5 => {
                let to = machine(random);
                for (from, to) in [(Some(rank), to), (to, Some(rank))] {
                    add(when, Happening::CutLine { from, to });
                    add(later(pause), Happening::MendLine { from, to });
                }
            }
            6 | 7 => {
                let to = machine(random);
                let (from, to) = if random.per_mille(500) { (Some(rank), to) } else { (to, Some(rank)) };
                add(when, Happening::CutLine { from, to });
                add(later(pause), Happening::MendLine { from, to });
            }
            8 | 9 => add(when, Happening::BreakWires(rank, other)),
            10 => {
                add(when, Happening::KillStore);
                if random.per_mille(600) {
                    add(later(pause), Happening::RestartStore);
                }
            }
            11 => {
                add(when, Happening::PauseStore);
                add(later(pause), Happening::ResumeStore);
            }
            12 => add(when, Happening::Withdraw(0)),
            13 => add(when, Happening::Notice { rank: 0, left: random.within(left) }),
            14 => add(when, Happening::FailAllocations(rank, 1)),
            15 => add(when, Happening::Slow { bytes_per_s: 50_000, jitter: ms(20) }),
            16 => add(when, Happening::Busy(rank, pause)),
            17 => add(when, Happening::Replay(rank)),
            18 => {
                let step = *random.pick(&[Step::Verify, Step::Bulk]);
                add(When::On(step, Some(other), Duration::ZERO), Happening::Decay(other));
            }
            19 => add(when, Happening::ChangeSource(rank)),
            _ => add(when, Happening::Intrude(rank)),
        }
    }
}
