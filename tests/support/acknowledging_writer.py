"""A process to be killed: commits jobs to the store named on its command line and prints each number once committed."""

import asyncio
import itertools
import sys
from pathlib import Path

from beeyard_queen.store.port import Batch
from beeyard_queen.store.sessions import SessionRow
from beeyard_queen.store.sqlite import SqliteStore

from tests.support.store_rows import job_row, tokens_row


async def write_for_ever(path: Path) -> None:
    """Commit one job a batch, with prompt, output and what its session used, until somebody ends the process."""
    store = SqliteStore(path)
    await store.open()
    for number in itertools.count(1):
        job_id = f"job-{number}"
        batch = Batch(
            jobs={job_id: job_row(number)},
            prompts={job_id: f"prompt of {job_id}".encode() * 20},
            tokens=[tokens_row(job_id, 0, ["a", "b"])],
            epoch=number,
            sessions=[SessionRow("ann", "talk", number, 2 * number, number)],
        )
        await store.commit(batch)
        print(number, flush=True)  # noqa: T201 - the acknowledgement


if __name__ == "__main__":
    asyncio.run(write_for_ever(Path(sys.argv[1])))
