//! Both sides of a migration against each other: one source, two targets, a modelled store, network and memory, and a
//! clock that only the test moves.

mod arbitrary;
mod chaos;
mod faults;
mod happy;
mod kept;
mod races;
mod refused;
mod replan;
mod states;
mod world;
