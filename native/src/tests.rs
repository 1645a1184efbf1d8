//! One test for each guard; each fails without it.

mod election;
mod harness;
mod membership;
mod proposals;
mod reads;
mod ready;
mod recovery;
mod snapshot;
mod status;
mod step;
