//! A real server process on loopback, with nodes made of the core's own parts.

mod asking;
mod directory;
mod feeding;
mod joining;
mod lifecycle;
mod mistakes;
mod node;
mod process;
mod relaying;
mod relays;
mod secrecy;
