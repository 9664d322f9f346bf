"""How a prompt lies in the database, so that erasing it leaves no copy behind.

`secure_delete` overwrites what is deleted. But when SQLite splits or merges the pages of a table it moves the rows on
them, and does not overwrite what a moved row leaves in the gap of its old page: some prompts outlived their deletion
there (in four of forty random histories). Overflow pages are never moved, and are zeroed when they are freed. So a
prompt is padded such that all that SQLite keeps on the table's own page is zeros, and the prompt lies on overflow
pages.

The sizes follow from the file format (sqlite.org/fileformat2.html, "Cell Payload Overflow Pages").
"""

from typing import Final

PAGE_BYTES: Final = 4_096
# Of a payload that is too long for its page, the page keeps this much and a rest that would fill no overflow page ...
_KEPT_BYTES: Final = (PAGE_BYTES - 12) * 32 // 255 - 23
# ... unless there is no rest, which is what `wrap` sees to. (Four bytes of an overflow page name the next one.)
_OVERFLOW_BYTES: Final = PAGE_BYTES - 4
_LENGTH_BYTES: Final = 4
_START: Final = _KEPT_BYTES + _LENGTH_BYTES


def wrap(prompt: bytes) -> bytes:
    """Return the value to store for a prompt: zeros, its length, the prompt, and zeros to the end of a page."""
    least = _LENGTH_BYTES + len(prompt) + _header_bytes(_START + len(prompt))
    payload = _KEPT_BYTES + -(-least // _OVERFLOW_BYTES) * _OVERFLOW_BYTES
    value_bytes = payload - _header_bytes(payload)
    length = len(prompt).to_bytes(_LENGTH_BYTES, "little")
    return (bytes(_KEPT_BYTES) + length + prompt).ljust(value_bytes, b"\0")


def unwrap(value: bytes) -> bytes:
    """Return the prompt of a stored value."""
    length = int.from_bytes(value[_KEPT_BYTES:_START], "little")
    return value[_START : _START + length]


def _header_bytes(value_bytes: int) -> int:
    """Return the length of the header before the value: its own size, the key's type, the value's type and length."""
    return 2 + max(1, -(-(2 * value_bytes + 12).bit_length() // 7))
