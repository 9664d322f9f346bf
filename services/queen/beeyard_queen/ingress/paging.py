"""Pages of a listing that goes from the newest down: a token is the number to stay below, and nobody reads it."""

import base64
import binascii

from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.rpc_errors import refuse


def page_size_of(asked: int) -> int:
    """Return how many to list.

    Raises:
        RpcRefusal: INVALID_REQUEST, beyond the bounds.
    """
    if not 0 <= asked <= limits.LIST_PAGE_MAX:
        message = f"page_size must be 0 to {limits.LIST_PAGE_MAX}"
        raise refuse(Refusal.INVALID_REQUEST, message, field="page_size")
    return asked or limits.LIST_PAGE_DEFAULT


def token_of(number: int) -> str:
    """Return the token of the page that follows after this number."""
    return base64.urlsafe_b64encode(number.to_bytes(8, "big")).decode()


def number_of(token: str) -> int:
    """Return the number that a page token stands for; 0 for the first page.

    Raises:
        RpcRefusal: INVALID_REQUEST, for what is no token of ours.
    """
    if not token:
        return 0
    try:
        raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 8 or not any(raw) or raw[0] & 0x80:
        message = "page_token must be the next_page_token of an earlier answer"
        raise refuse(Refusal.INVALID_REQUEST, message, field="page_token")
    return int.from_bytes(raw, "big")
