"""The documents promise only what is there: every link leads somewhere, every command and path exists."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from scripts import draw_rights, draw_states
from tests.style import repository

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# A path of ours in backticks, such as `services/core/beeyard_core/job.py`; what a command writes may not be there yet.
PATH = re.compile(
    r"`((?:services|clients|protos|tests|docs|scripts|deploy|benchmarks(?!/out)|requirements|\.ci)/[\w./-]*)`"
)
TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
COMMAND = re.compile(r"`make ([a-z-]+)|^make ([a-z-]+)", re.MULTILINE)
# Written so that no pattern matches its own line.
MACHINE = re.compile(
    r"/[w]ork/|/[r]oot/|/home/[a-z]+/|/tmp/[b]ash_|/opt/[w]heels"
    r"|pypi[.]org|pythonhosted[.]org|registry[.]npmjs|proxy[.]golang|repo1?[.]maven|deb[.]debian"
    r"|index[-]url"
)


def documents() -> list[str]:
    return [name for name in repository.files() if name.endswith(".md")]


def resolve(document: str, target: str) -> str:
    """Return a link's path from the root of the project, without `.` and `..`."""
    parts: list[str] = []
    for part in (PurePosixPath(document).parent / target).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def anchors(document: str) -> set[str]:
    headings = re.findall(r"^#+ +(.*)$", FENCE.sub("", repository.text_of(document)), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


def broken_links(document: str) -> Iterator[str]:
    for link in LINK.findall(FENCE.sub("", repository.text_of(document))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = resolve(document, path) if path else document
        if not (repository.ROOT / target).exists():
            yield f"{document}: {link} leads nowhere"
        elif anchor and target.endswith(".md") and anchor not in anchors(target):
            yield f"{document}: {link}: no such heading"


def test_every_link_leads_somewhere() -> None:
    broken = [line for document in documents() for line in broken_links(document)]
    assert not broken, "\n".join(broken)


def test_every_path_of_ours_in_the_documents_exists() -> None:
    gone = [
        f"{document}: `{path}` does not exist"
        for document in documents()
        for path in PATH.findall(repository.text_of(document))
        if not (repository.ROOT / path).exists()
    ]
    assert not gone, "\n".join(gone)


def test_every_make_command_in_the_documents_exists() -> None:
    targets = set(TARGET.findall(repository.text_of("Makefile")))
    unknown = [
        f"{document}: make {first or second}"
        for document in documents()
        for first, second in COMMAND.findall(repository.text_of(document))
        if (first or second) not in targets
    ]
    assert not unknown, "\n".join(unknown)


def test_each_document_has_one_title() -> None:
    titles = {
        document: len(re.findall(r"^# ", FENCE.sub("", repository.text_of(document)), re.MULTILINE))
        for document in documents()
    }
    assert {document: n for document, n in titles.items() if n != 1} == {}


def test_the_picture_of_the_states_is_what_the_tables_give() -> None:
    assert draw_states.PAGE.read_text(encoding="utf-8") == draw_states.page(), (
        "run scripts/draw_states.py"
    )


def test_the_table_of_rights_is_what_the_code_has() -> None:
    text = draw_rights.PAGE.read_text(encoding="utf-8")
    assert draw_rights.page(text) == text, "run scripts/draw_rights.py"


def test_every_decision_record_is_listed_and_has_its_parts() -> None:
    records = [name for name in documents() if re.match(r"docs/adr/\d{4}-", name)]
    listed = repository.text_of("docs/adr/README.md")
    faults = [
        f"{name} is not in docs/adr/README.md"
        for name in records
        if name.split("/")[-1] not in listed
    ]
    for name in records:
        headings = anchors(name)
        faults += [
            f"{name} has no heading {part!r}"
            for part in ("context", "decision", "alternatives", "consequences")
            if part not in headings
        ]
    assert not faults, "\n".join(faults)
    numbers = [name.split("/")[-1][:4] for name in records]
    # A number may be taken before its record is written, and is never given twice.
    assert numbers == sorted(set(numbers))


def test_nothing_names_one_machine_or_a_registry() -> None:
    named = [
        f"{name}:{number}: {line.strip()[:80]}"
        for name in repository.files()
        if not name.endswith((".binpb", ".png", ".gguf"))
        for number, line in enumerate(repository.text_of(name).splitlines(), start=1)
        if MACHINE.search(line)
    ]
    assert not named, "\n".join(named)
