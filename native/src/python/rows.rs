//! The engine's values as the tuples that Python gets, and back.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use raft::eraftpb::ConfState;

use crate::core::membership::Refusal;
use crate::core::ready::{Committed, Output};
use crate::core::status::{Outlook, Peer};

pub(super) type PeerRow = (u64, u64, u64, &'static str, bool, bool);
pub(super) type OutlookRow = (&'static str, u64, u64, u64, u64, bool);
pub(super) type Conf = (Vec<u64>, Vec<u64>, Vec<u64>, Vec<u64>, bool);
pub(super) type EntryRow<'py> = (u64, u64, bool, Bound<'py, PyBytes>);

pub(super) fn to_conf_state(conf: Conf) -> ConfState {
    let mut state = ConfState::default();
    state.set_voters(conf.0);
    state.set_learners(conf.1);
    state.set_voters_outgoing(conf.2);
    state.set_learners_next(conf.3);
    state.set_auto_leave(conf.4);
    state
}

pub(super) fn from_conf_state(state: &ConfState) -> Conf {
    let sorted = |list: &[u64]| {
        let mut list = list.to_vec();
        list.sort_unstable();
        list
    };
    (
        sorted(&state.voters),
        sorted(&state.learners),
        sorted(&state.voters_outgoing),
        sorted(&state.learners_next),
        state.auto_leave,
    )
}

pub(super) fn outlook_row(o: Outlook) -> OutlookRow {
    (
        o.role,
        o.term,
        o.leader,
        o.commit,
        o.last_index,
        o.wants_snapshot,
    )
}

pub(super) fn peer_row(p: Peer) -> PeerRow {
    (p.id, p.matched, p.next, p.state, p.active, p.learner)
}

pub(super) fn entry_row<'py>(py: Python<'py>, e: &Committed) -> EntryRow<'py> {
    (e.index, e.term, e.conf_change, PyBytes::new(py, &e.data))
}

pub(super) fn refusal_name(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotLeader => "not-leader",
        Refusal::NoEntryOfTerm => "no-entry-of-term",
        Refusal::Pending => "pending",
        Refusal::Dropped => "dropped",
        Refusal::Swallowed => "swallowed",
    }
}

fn frames<'py>(py: Python<'py>, list: &[(u64, Vec<u8>)]) -> PyResult<Bound<'py, PyList>> {
    let out = PyList::empty(py);
    for (to, frame) in list {
        out.append((*to, PyBytes::new(py, frame)))?;
    }
    Ok(out)
}

pub(super) fn to_tuple<'py>(py: Python<'py>, out: &Output) -> PyResult<Bound<'py, PyTuple>> {
    let committed = PyList::empty(py);
    for entry in &out.committed {
        committed.append((
            entry.index,
            entry.term,
            entry.conf_change,
            entry.token,
            PyBytes::new(py, &entry.data),
        ))?;
    }
    let offers = PyList::empty(py);
    for offer in &out.offers {
        offers.append((
            offer.to,
            offer.index,
            offer.term,
            PyBytes::new(py, &offer.message),
        ))?;
    }
    (
        out.number,
        PyBytes::new(py, &out.group),
        out.last_index,
        out.snapshot,
        frames(py, &out.send_now)?,
        frames(py, &out.send_after)?,
        offers,
        committed,
        out.reads.clone(),
    )
        .into_pyobject(py)
}
