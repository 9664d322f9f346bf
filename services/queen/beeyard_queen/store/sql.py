"""Every statement that the SQLite store runs, and the schema's history.

`jobs.sequence` is the rowid: jobs are accepted in that order, so a new row, its prompt and its output go to the end of
their tables, and the newest jobs are listed by walking one table backwards. What hangs on a job is keyed by its
sequence, never by its name, so the long random names stand in one index only.

A schema is never edited, only added to: `MIGRATIONS[n]` leads from version n to n + 1, inside the transaction that also
moves `PRAGMA user_version`.
"""

from dataclasses import dataclass
from typing import Final

from beeyard_queen.store.port import JobRow

#: "BEEY": marks a database file as a store of ours.
APPLICATION_ID: Final = 0x42454559

_VERSION_1: Final = """
CREATE TABLE jobs (
    sequence INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL UNIQUE,
    tenant_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    model TEXT NOT NULL,
    priority INTEGER NOT NULL,
    state TEXT NOT NULL,
    spec TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    worker_id TEXT NOT NULL,
    next_index INTEGER NOT NULL,
    leased_ms INTEGER NOT NULL,
    first_token_ms INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL,
    result TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    is_ended INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX jobs_by_request ON jobs (tenant_id, request_id) WHERE request_id <> '';
CREATE INDEX jobs_by_state ON jobs (state);
CREATE INDEX jobs_unfinished ON jobs (sequence) WHERE is_ended = 0;
CREATE INDEX jobs_by_end ON jobs (ended_ms) WHERE is_ended = 1;

CREATE TABLE prompts (
    sequence INTEGER PRIMARY KEY,
    request BLOB NOT NULL
) STRICT;

CREATE TABLE tokens (
    sequence INTEGER NOT NULL,
    first_index INTEGER NOT NULL,
    count INTEGER NOT NULL,
    ids BLOB NOT NULL,
    text TEXT NOT NULL,
    text_lengths BLOB NOT NULL,
    PRIMARY KEY (sequence, first_index)
) STRICT, WITHOUT ROWID;

CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO counters VALUES ('epoch', 0), ('sequence', 0);

CREATE TABLE models (
    seen INTEGER PRIMARY KEY,
    model TEXT NOT NULL UNIQUE
) STRICT;
"""

# Number 0 is the platform policy: it decides until another version is activated, and its text is the program's own.
_VERSION_2: Final = """
CREATE TABLE policies (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    language TEXT NOT NULL,
    text TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    author TEXT NOT NULL,
    note TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    activated_ms INTEGER NOT NULL DEFAULT 0,
    activation INTEGER NOT NULL DEFAULT 0,
    suspension TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX policies_by_activation ON policies (activation);
INSERT INTO policies (version, name, language, text, digest, author, note, created_ms, activation)
VALUES (0, 'platform', 'lua', '', '', '', '', 0, 1);
"""

_VERSION_3: Final = """
CREATE TABLE work (
    sequence INTEGER PRIMARY KEY,
    work_id TEXT NOT NULL UNIQUE,
    tenant_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    is_ended INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    details TEXT NOT NULL,
    payload BLOB NOT NULL,
    result BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX work_by_request ON work (tenant_id, request_id) WHERE request_id <> '';
CREATE UNIQUE INDEX work_by_epoch ON work (epoch) WHERE epoch > 0;
CREATE INDEX work_unfinished ON work (sequence) WHERE is_ended = 0;
CREATE INDEX work_by_end ON work (ended_ms) WHERE is_ended = 1;
INSERT INTO counters VALUES ('work_sequence', 0);
"""

# What operators said at run time of the workers of single models.
_VERSION_4: Final = """
CREATE TABLE model_scales (
    model TEXT PRIMARY KEY,
    min_workers INTEGER NOT NULL,
    max_workers INTEGER,
    keep_warm_ms INTEGER
) WITHOUT ROWID;
"""

# What has ended stays here when the job's own row is forgotten. A tenant's or a model's jobs are found by an index of
# their own, live ones and remembered ones alike.
_VERSION_5: Final = """
CREATE TABLE job_history (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    sequence INTEGER NOT NULL UNIQUE,
    job_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    model TEXT NOT NULL,
    priority INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    policy_version TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    pool_id TEXT NOT NULL,
    device TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    preemptions INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    max_tokens INTEGER NOT NULL,
    answer_tokens INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL,
    wait_ms INTEGER NOT NULL,
    first_token_ms INTEGER NOT NULL,
    service_ms INTEGER NOT NULL,
    total_ms INTEGER NOT NULL,
    prefill_ms REAL NOT NULL,
    decode_ms REAL NOT NULL,
    estimate TEXT NOT NULL
) STRICT;
CREATE INDEX job_history_by_end ON job_history (ended_ms);
CREATE INDEX job_history_by_tenant ON job_history (tenant_id, ended_ms);
CREATE INDEX job_history_by_model ON job_history (model, ended_ms);

CREATE TABLE lease_history (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    epoch INTEGER NOT NULL UNIQUE,
    lease_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    model TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    pool_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    ending TEXT NOT NULL,
    was_revoked INTEGER NOT NULL,
    leased_ms INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX lease_history_by_end ON lease_history (ended_ms);
CREATE INDEX lease_history_by_job ON lease_history (job_id);

CREATE INDEX jobs_by_tenant ON jobs (tenant_id);
CREATE INDEX jobs_by_model ON jobs (model);
"""

# What ended jobs used of the budgets of their sessions; nothing of those that ended before there was this table.
_VERSION_6: Final = """
CREATE TABLE session_budgets (
    tenant_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    cost_units INTEGER NOT NULL,
    used_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, session_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX session_budgets_by_use ON session_budgets (used_ms);
"""

MIGRATIONS: Final = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5, _VERSION_6)

#: In the order of the row's fields, which is also the order in which rows are read back.
JOB_COLUMNS: Final = JobRow._fields
# Fixed at acceptance; leaving them out of the update leaves the indexes on them alone.
_FIXED: Final = frozenset(
    {
        "job_id",
        "sequence",
        "tenant_id",
        "request_id",
        "digest",
        "created_ms",
    }
)

_COLUMNS: Final = ", ".join(JOB_COLUMNS)
_PLACES: Final = ", ".join("?" * len(JOB_COLUMNS))
_UPDATES: Final = ", ".join(
    f"{name} = excluded.{name}" for name in JOB_COLUMNS if name not in _FIXED
)

_SELECT_JOBS: Final = f"SELECT {_COLUMNS} FROM jobs"  # noqa: S608 - made of constants


# --- Writing ---
@dataclass(frozen=True, slots=True)
class Many:
    """A statement for several rows at once: `head`, `row` once for each of them, `tail`.

    A thread gives the interpreter away for every statement that it runs and has to win it back from the event loop, so
    what counts is how many statements a batch takes.
    """

    head: str
    row: str
    tail: str = ""

    def of(self, count: int) -> str:
        """Return the statement for that many rows."""
        return f"{self.head}{', '.join([self.row] * count)}{self.tail}"


#: Rows that one statement takes at most. Only powers of two are used, so that few statements need to be prepared.
ROWS_MAX: Final = 32

SAVE_JOBS: Final = Many(
    f"INSERT INTO jobs ({_COLUMNS}) VALUES ",  # noqa: S608 - made of constants
    f"({_PLACES})",
    f" ON CONFLICT (job_id) DO UPDATE SET {_UPDATES}",
)
# The subselects give NULL for a job that is not there, which NOT NULL refuses.
SAVE_PROMPTS: Final = Many(
    "INSERT OR REPLACE INTO prompts VALUES ",
    "(ifnull((SELECT sequence FROM jobs WHERE job_id = ?), 'no such job'), ?)",
)
ERASE_PROMPTS: Final = Many("DELETE FROM prompts WHERE sequence IN (", "?", ")")
SAVE_TOKENS: Final = Many(
    "INSERT OR REPLACE INTO tokens VALUES ",
    "((SELECT sequence FROM jobs WHERE job_id = ?), ?, ?, ?, ?, ?)",
)
SAVE_MODELS: Final = Many("INSERT OR IGNORE INTO models (model) VALUES ", "(?)")
SAVE_SESSIONS: Final = Many("INSERT OR REPLACE INTO session_budgets VALUES ", "(?, ?, ?, ?, ?)")
SAVE_EPOCH: Final = "UPDATE counters SET value = max(value, ?) WHERE name = 'epoch'"

# --- Forgetting ---
PICK_FORGOTTEN: Final = (
    "SELECT sequence FROM jobs WHERE is_ended = 1 AND ended_ms < ? ORDER BY ended_ms LIMIT ?"
)
# The newest job may be among the forgotten; its number must never be given out again.
SAVE_SEQUENCE: Final = (
    "UPDATE counters SET value = max(value, (SELECT ifnull(max(sequence), 0) FROM jobs)) "
    "WHERE name = 'sequence'"
)
FORGET_TOKENS: Final = "DELETE FROM tokens WHERE sequence = ?"
FORGET_JOB: Final = "DELETE FROM jobs WHERE sequence = ?"

# --- Reading ---
UNFINISHED: Final = f"{_SELECT_JOBS} WHERE is_ended = 0 ORDER BY sequence"
LAST_EPOCH: Final = "SELECT value FROM counters WHERE name = 'epoch'"
LAST_SEQUENCE: Final = (
    "SELECT max(value, (SELECT ifnull(max(sequence), 0) FROM jobs)) "
    "FROM counters WHERE name = 'sequence'"
)
MODELS: Final = "SELECT model FROM models ORDER BY seen"
JOB: Final = f"{_SELECT_JOBS} WHERE job_id = ?"
JOB_BY_REQUEST: Final = (
    f"{_SELECT_JOBS} WHERE tenant_id = ? AND request_id = ? AND request_id <> ''"
)
# Begins with the row in which the token is, and walks none before it: a long answer is read a few rows at a time.
TOKENS: Final = (
    "SELECT job_id, first_index, count, ids, text, text_lengths "
    "FROM jobs JOIN tokens USING (sequence) WHERE job_id = ?1 AND first_index + count > ?2 "
    "AND first_index >= ifnull((SELECT max(first_index) FROM tokens AS before "
    "WHERE before.sequence = jobs.sequence AND before.first_index <= ?2), 0) "
    "ORDER BY first_index LIMIT ?3"
)
PROMPT: Final = "SELECT request FROM jobs JOIN prompts USING (sequence) WHERE job_id = ?"


def jobs_statement(*, states: int, by_tenant: bool, by_model: bool) -> str:
    """Return the statement that lists jobs, newest first.

    Its arguments are, once for each state (or once in all if none is given): the state if any, the tenant and the model
    if asked for, the sequence to stay below, the limit; and at the end the limit again.

    One select a state, each bounded, lets every one of them walk the index of states backwards; a single one with
    `IN` would sort all jobs of those states to find the newest fifty.
    """
    wanted = ["state = ?"] if states else []
    wanted += ["tenant_id = ?"] if by_tenant else []
    wanted += ["model = ?"] if by_model else []
    where = " AND ".join([*wanted, "sequence < ?"])
    one = f"SELECT * FROM ({_SELECT_JOBS} WHERE {where} ORDER BY sequence DESC LIMIT ?)"  # noqa: S608
    every = " UNION ALL ".join([one] * max(states, 1))
    return f"{every} ORDER BY sequence DESC LIMIT ?"
