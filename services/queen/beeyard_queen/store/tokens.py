"""Between the frames of a job's output and the rows in which it is remembered."""

from beeyard_core.stream import Frame

from beeyard_queen.store.port import TokensRow
from beeyard_queen.store.rows import pack_u32, unpack_u32


def tokens_row_of(job_id: str, frame: Frame) -> TokensRow:
    """Return a run of tokens as it is remembered."""
    return TokensRow(
        job_id=job_id,
        first_index=frame.first_index,
        count=frame.count,
        ids=pack_u32(frame.ids),
        text=frame.text,
        text_lengths=pack_u32(frame.text_lengths),
    )


def frame_of(row: TokensRow) -> Frame:
    """Return a remembered run of tokens; the lease under which it came is not remembered."""
    return Frame(
        lease_id="",
        epoch=0,
        first_index=row.first_index,
        ids=unpack_u32(row.ids),
        text=row.text,
        text_lengths=unpack_u32(row.text_lengths),
    )
