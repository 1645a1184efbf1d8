//! The Python face: one object per node, dropped on whatever thread collects it; a panic poisons it for good.

use std::panic::{catch_unwind, AssertUnwindSafe};

use bytes::Bytes;
use pyo3::create_exception;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyTuple};

use crate::cache::{Cache, SnapshotMark};
use crate::core::{Core, Settings};
use crate::recovery::recover;

mod rows;

use rows::{
    entry_row, from_conf_state, outlook_row, peer_row, refusal_name, to_conf_state, to_tuple, Conf,
    EntryRow, OutlookRow, PeerRow,
};

create_exception!(
    _raft,
    RaftPanicError,
    PyRuntimeError,
    "The engine broke an invariant; the process must stop."
);
create_exception!(
    _raft,
    RecoveryError,
    PyValueError,
    "The log cannot be rebuilt: (record number, message)."
);

/// The number of this module's interface; `blixard.consensus` asks for the same one.
const INTERFACE: u32 = 1;

#[pyclass(module = "blixard._raft")]
struct RawRaft {
    core: Option<Core>,
    poison: String,
}

impl RawRaft {
    fn start(settings: Settings, cache: Cache) -> PyResult<Self> {
        let started = catch_unwind(AssertUnwindSafe(|| Core::new(settings, cache)));
        match started {
            Ok(Ok(core)) => Ok(RawRaft {
                core: Some(core),
                poison: String::new(),
            }),
            Ok(Err(text)) => Err(PyValueError::new_err(text)),
            Err(_) => Err(RaftPanicError::new_err(
                "the engine refused the recovered state",
            )),
        }
    }

    /// Runs `act` on the core; a panic in it, now or earlier, is the error.
    fn guard<T>(&mut self, act: impl FnOnce(&mut Core) -> T) -> PyResult<T> {
        let Some(core) = self.core.as_mut() else {
            return Err(RaftPanicError::new_err(self.poison.clone()));
        };
        match catch_unwind(AssertUnwindSafe(|| act(core))) {
            Ok(value) => Ok(value),
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_string()))
                    .unwrap_or_else(|| "panic".to_string());
                // A poisoned core may hold broken invariants even in its destructor.
                std::mem::forget(self.core.take());
                self.poison = text.clone();
                Err(RaftPanicError::new_err(text))
            }
        }
    }
}

#[pymethods]
impl RawRaft {
    #[new]
    #[pyo3(signature = (*, id, seed, incarnation, election_tick, heartbeat_tick, max_size_per_msg, max_inflight,
                        max_uncommitted, max_committed, snapshot_index, snapshot_term, conf, records))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        id: u64,
        seed: u64,
        incarnation: u64,
        election_tick: usize,
        heartbeat_tick: usize,
        max_size_per_msg: u64,
        max_inflight: usize,
        max_uncommitted: u64,
        max_committed: u64,
        snapshot_index: u64,
        snapshot_term: u64,
        conf: Conf,
        records: Vec<PyBackedBytes>,
    ) -> PyResult<Self> {
        let settings = Settings {
            id,
            seed,
            incarnation,
            election_tick,
            heartbeat_tick,
            max_size_per_msg,
            max_inflight,
            max_uncommitted,
            max_committed,
        };
        let mark = SnapshotMark {
            index: snapshot_index,
            term: snapshot_term,
            conf: to_conf_state(conf),
        };
        let slices: Vec<&[u8]> = records.iter().map(|r| r.as_ref()).collect();
        let cache = recover(mark, &slices)
            .map_err(|(place, text)| RecoveryError::new_err((place, text)))?;
        Self::start(settings, cache)
    }

    fn campaign(&mut self) -> PyResult<()> {
        self.guard(Core::campaign)
    }

    /// Takes frames, then ticks; returns (what changed of the state or None, what is to be done or
    /// None). Changed: (role, term, leader id, commit, last index, wants snapshot). What is to be
    /// done, see `ready`, stays where it is unless `take`.
    fn turn<'py>(
        &mut self,
        py: Python<'py>,
        frames: Vec<PyBackedBytes>,
        ticks: u64,
        take: bool,
    ) -> PyResult<(Option<OutlookRow>, Option<Bound<'py, PyTuple>>)> {
        let (news, out) = self.guard(|core| {
            core.advance(&frames, ticks);
            let news = core.news();
            (news, if take { core.ready() } else { None })
        })?;
        let out = out.map(|out| to_tuple(py, &out)).transpose()?;
        Ok((news.map(outlook_row), out))
    }

    fn step_snapshot(&mut self, message: &[u8]) -> PyResult<()> {
        self.guard(|core| core.step_snapshot(message))?
            .map_err(PyValueError::new_err)
    }

    /// Takes (token, data) pairs as one batch; False: none was taken.
    fn propose_many(&mut self, proposals: Vec<(u64, PyBackedBytes)>) -> PyResult<bool> {
        let batch = proposals
            .iter()
            .map(|(token, data)| (*token, Bytes::copy_from_slice(data)))
            .collect();
        self.guard(|core| core.propose(batch))
    }

    /// Takes (kind, id) pairs (0 voter, 1 remove, 2 learner); returns "" or why not.
    fn propose_change(
        &mut self,
        token: u64,
        changes: Vec<(u8, u64)>,
        about: &[u8],
    ) -> PyResult<&'static str> {
        let about = Bytes::copy_from_slice(about);
        let outcome = self.guard(|core| core.propose_change(token, &changes, about))?;
        Ok(outcome.err().map_or("", refusal_name))
    }

    #[allow(clippy::type_complexity)]
    fn apply_change<'py>(
        &mut self,
        py: Python<'py>,
        data: &[u8],
    ) -> PyResult<(Conf, Bound<'py, PyBytes>, Vec<(u8, u64)>)> {
        let (state, about, asked) = self
            .guard(|core| core.apply_change(data))?
            .map_err(PyValueError::new_err)?;
        Ok((from_conf_state(&state), PyBytes::new(py, &about), asked))
    }

    fn applied(&mut self, index: u64) -> PyResult<()> {
        self.guard(|core| core.applied(index))
    }

    fn read_index(&mut self, token: u64) -> PyResult<bool> {
        self.guard(|core| core.read_index(token))
    }

    fn transfer(&mut self, to: u64) -> PyResult<bool> {
        self.guard(|core| core.transfer(to))
    }

    fn step_down(&mut self) -> PyResult<()> {
        self.guard(Core::step_down)
    }

    fn never_lead(&mut self) -> PyResult<()> {
        self.guard(Core::never_lead)
    }

    /// All entries of the log: (index, term, is a change, data).
    fn log_entries<'py>(&mut self, py: Python<'py>) -> PyResult<Vec<EntryRow<'py>>> {
        let entries = self.guard(|core| core.log_entries())?;
        Ok(entries.iter().map(|e| entry_row(py, e)).collect())
    }

    fn report_unreachable(&mut self, id: u64) -> PyResult<()> {
        self.guard(|core| core.report_unreachable(id))
    }

    fn report_snapshot(&mut self, id: u64, finished: bool) -> PyResult<()> {
        self.guard(|core| core.report_snapshot(id, finished))
    }

    /// Returns what is to be done, or None:
    /// (number, group, last index, snapshot, send now, send after, offers, committed, reads).
    fn ready<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let out = self.guard(Core::ready)?;
        out.map(|out| to_tuple(py, &out)).transpose()
    }

    fn persisted(&mut self, number: u64) -> PyResult<()> {
        self.guard(|core| core.persisted(number))
    }

    fn state_group<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let group = self.guard(|core| core.state_group())?;
        Ok(PyBytes::new(py, &group))
    }

    fn mending_group<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let group = self.guard(|core| core.mending_group())?;
        Ok(PyBytes::new(py, &group))
    }

    fn compact(&mut self, index: u64, term: u64, conf: Conf, compact_to: u64) -> PyResult<()> {
        let mark = SnapshotMark {
            index,
            term,
            conf: to_conf_state(conf),
        };
        self.guard(|core| core.compact(mark, compact_to))
    }

    fn conf(&mut self) -> PyResult<Conf> {
        self.guard(|core| from_conf_state(&core.conf_state()))
    }

    /// (role, term, leader id, commit, last index, base index, transferring to, refused messages, wants snapshot)
    #[allow(clippy::type_complexity)]
    fn state(&mut self) -> PyResult<(&'static str, u64, u64, u64, u64, u64, u64, u64, bool)> {
        self.guard(|core| {
            let raft = &core.raw.raft;
            (
                core.role(),
                raft.term,
                raft.leader_id,
                raft.raft_log.committed,
                raft.raft_log.last_index(),
                core.raw.store().base_index(),
                raft.lead_transferee.unwrap_or(0),
                core.refused_messages,
                core.wants_snapshot(),
            )
        })
    }

    /// The peers as the leader sees them: (id, matched, next, state, active, learner).
    fn peers(&mut self) -> PyResult<Vec<PeerRow>> {
        self.guard(|core| core.peers().into_iter().map(peer_row).collect())
    }

    fn uncommitted_bytes(&mut self) -> PyResult<usize> {
        self.guard(|core| core.uncommitted_bytes())
    }
}

#[pymodule]
fn _raft(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<RawRaft>()?;
    module.add("INTERFACE", INTERFACE)?;
    module.add("RaftPanicError", module.py().get_type::<RaftPanicError>())?;
    module.add("RecoveryError", module.py().get_type::<RecoveryError>())?;
    #[cfg(feature = "mutants")]
    module.add_function(wrap_pyfunction!(plant, module)?)?;
    Ok(())
}

/// Plants one bug by its name in every node of this process; an empty name plants none.
#[cfg(feature = "mutants")]
#[pyfunction]
fn plant(name: &str) {
    crate::mutants::plant(name);
}
