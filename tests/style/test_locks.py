"""Lock files that uv wrote are ones that pip takes, too: it installs where uv finds no way to the packages."""

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.style.repository import ROOT


def pinned() -> dict[str, frozenset[str]]:
    """Return what dev.lock pins, with the extras that it names."""
    lines = (ROOT / "requirements" / "dev.lock").read_text().splitlines()
    pins = [Requirement(line.rstrip(" \\")) for line in lines if "==" in line and line[0].isalnum()]
    return {canonicalize_name(pin.name): frozenset(pin.extras) for pin in pins}


def test_what_is_needed_with_extras_is_pinned_with_them() -> None:
    pins = pinned()
    needed = [
        (of.name, Requirement(text))
        for of in metadata.distributions()
        for text in of.requires or ()
    ]
    missing = [
        f"{name} needs {each}"
        for name, each in needed
        if each.extras and (each.marker is None or each.marker.evaluate({"extra": ""}))
        if canonicalize_name(name) in pins and not each.extras <= pins[canonicalize_name(each.name)]
    ]
    assert missing == []
    assert any(each.extras for _, each in needed)
