//! `xfer-explore`: searches all states of small jobs, and says what it found.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use xfer_explore::{Search, Setting};

/// Searches every order in which things can happen in a hand-over, over the production sessions and store.
#[derive(Debug, Parser)]
#[command(name = "xfer-explore")]
struct Options {
    /// Which settings; all of them when none is named.
    settings: Vec<String>,
    /// How many threads search.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Stop after so many states, instead of what the setting says; what is left is said.
    #[arg(long)]
    states_max: Option<usize>,
    /// At most so many processes die, instead of what the setting says.
    #[arg(long)]
    crashes: Option<u8>,
    /// At most so many connections are lost, instead of what the setting says.
    #[arg(long)]
    losses: Option<u8>,
    /// At most so many notices are withdrawn, instead of what the setting says.
    #[arg(long)]
    withdrawals: Option<u8>,
    /// At most so many generations are made by others, instead of what the setting says.
    #[arg(long)]
    overtakes: Option<u8>,
    /// Take no two states for one that differ in anything.
    #[arg(long)]
    plain: bool,
    /// Say which kinds of steps lead to new states.
    #[arg(long)]
    kinds: bool,
    /// Say how far each level is.
    #[arg(long)]
    progress: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    let known = || Setting::all().iter().map(|setting| setting.name).collect::<Vec<_>>().join(", ");
    let mut settings = Setting::all();
    if !options.settings.is_empty() {
        let find = |name: &String| {
            Setting::named(name).with_context(|| format!("there is no setting `{name}`; there are {}", known()))
        };
        settings = options.settings.iter().map(find).collect::<anyhow::Result<_>>()?;
    }
    let mut violations = 0;
    let mut verdicts = Vec::new();
    for mut setting in settings {
        setting.may.crashes = options.crashes.unwrap_or(setting.may.crashes);
        setting.may.losses = options.losses.unwrap_or(setting.may.losses);
        setting.may.withdrawals = options.withdrawals.unwrap_or(setting.may.withdrawals);
        setting.may.overtakes = options.overtakes.unwrap_or(setting.may.overtakes);
        setting.reduced = !options.plain;
        println!("{:12} {setting}", setting.name);
        let name = setting.name;
        let began = Instant::now();
        let states_max = options.states_max.unwrap_or(setting.states_max);
        let report = Search::new(setting, options.threads, states_max).run(|depth, states, new| {
            if options.progress {
                eprintln!("             depth {depth}: {states} states, {new} of them new");
            }
        })?;
        let seconds = began.elapsed().as_secs_f64();
        println!("  states       {}{}", report.states, if report.complete { "" } else { " (not all of them)" });
        println!("  transitions  {}", report.transitions);
        println!("  depth        {}", report.depth);
        for (end, count) in &report.ends {
            println!("  at rest      {count:>9}  {end}");
        }
        if options.kinds {
            for (kind, (steps, new)) in &report.kinds {
                println!("  steps        {steps:>9}  {kind}, {new} of them to a new state");
            }
        }
        if let Some(session) = &report.unlike {
            println!("  unlike       {session}");
        }
        println!("  violations   {}", u8::from(report.violation.is_some()));
        println!("  time         {seconds:.1} s, {:.0} states/s", report.states as f64 / seconds);
        let verdict = match (&report.violation, report.complete) {
            (Some(_), _) => "violated",
            (None, true) => "holds in all states",
            (None, false) => "holds as far as it was searched",
        };
        verdicts
            .push(format!("{name:12} {:>12} {:>12} {:>5}  {verdict}", report.states, report.transitions, report.depth));
        if let Some(trace) = report.violation {
            violations += 1;
            println!("{trace}");
        }
    }
    println!("{:12} {:>12} {:>12} {:>5}", "setting", "states", "transitions", "depth");
    verdicts.iter().for_each(|verdict| println!("{verdict}"));
    Ok(if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
