"""Who a client says that it is: what belongs together, and what never travels in the clear."""

from pathlib import Path

import pytest
from beeyard_client import Access, BeeyardClient, BeeyardError

from tests.support.command import beeyard

TOKEN = "token-that-nobody-may-read"


def test_half_of_a_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        Access(ca=tmp_path, cert=tmp_path)
    with pytest.raises(ValueError, match="belong together"):
        Access(ca=tmp_path, key=tmp_path)
    with pytest.raises(ValueError, match="need ca"):
        Access(cert=tmp_path, key=tmp_path)


async def test_a_token_is_sent_over_tls_or_not_beyond_loopback() -> None:
    access = Access(token=TOKEN)
    assert access.is_safe_for("[::1]:7700")
    with pytest.raises(BeeyardError) as refused:
        async with BeeyardClient("10.0.0.1:7700", access=access):
            pass
    assert refused.value.reason == "INSECURE_LINK"
    assert TOKEN not in str(refused.value)
    assert TOKEN not in repr(access)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ca", "missing.pem"], "missing.pem"),
        (["--queen", "10.0.0.1:7700", "--token", TOKEN], "without TLS"),
        (["--token", "zwei wörter"], "letters and digits"),
    ],
)
async def test_the_command_line_says_what_is_missing(flags: list[str], words: str) -> None:
    ended = await beeyard(*flags, "models", environment={"COLUMNS": "200"})
    assert ended.code == 2
    assert words in ended.stderr
    assert TOKEN not in ended.stderr
