//! Scenarios: two nodes, their NATs and a relay in virtual time.

mod hostile;
mod nat;
mod scenarios;
mod world;
