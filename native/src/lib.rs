//! Raft for Blixard: tikv/raft-rs behind guards and a coarse interface of bytes and tuples.
//!
//! No IO, no threads, no clock: the caller owns them all.

#![allow(clippy::field_reassign_with_default)]

pub mod cache;
pub mod codec;
pub mod core;
pub mod mutants;
pub mod reads;
pub mod recovery;

#[cfg(feature = "python")]
mod python;

#[cfg(test)]
mod tests;
