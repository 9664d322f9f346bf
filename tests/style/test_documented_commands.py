"""Every `beeyard ...` in the documents is a command that there is, with options that it takes.

What can be run is run by other tests; this one looks at all the rest, such as a command for a host with a GPU. Commands
and options are those of the drawn reference, which a test of its own holds against the code.
"""

import re
from collections.abc import Iterator

from scripts import draw_commands, draw_settings
from tests.style import repository

FENCE = re.compile(r"^```[\w-]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
SECTION = re.compile(r"^## beeyard ?(.*)\n((?:(?!## ).*\n)*)", re.MULTILINE)
OPTION = re.compile(r"`(--[a-z-]+)")
#: Up to where a shell takes words for one command. The user of that name is none.
CALL = re.compile(r"(?<![\w./\"=-])(?<!-u )beeyard((?:[ \t]+[^\s|;&<>()#`]+)*)")
EVERYWHERE = {"--help"}


def known() -> dict[str, set[str]]:
    """Return every command with its options; the empty one has what stands before all."""
    page = draw_commands.PAGE.read_text(encoding="utf-8")
    commands = {name: set(OPTION.findall(text)) for name, text in SECTION.findall(page)}
    for role, cls in draw_settings.ROLES.items():
        flags = {name.replace("_", "-") for name in cls.model_fields}
        commands[role.replace("_", "-")] = {f"--{one}" for one in flags}
        commands[role.replace("_", "-")] |= {f"--no-{one}" for one in flags}
    return commands


def calls(document: str) -> Iterator[list[str]]:
    """Yield the words behind each `beeyard` of a document's code."""
    text = repository.text_of(document)
    blocks = FENCE.findall(text)
    inline = [" ".join(one.split()) for one in INLINE.findall(FENCE.sub("", text))]
    for code in [*blocks, *inline]:
        for found in CALL.finditer(code.replace("\\\n", " ")):
            yield found[1].split()


def fault_of(words: list[str], commands: dict[str, set[str]]) -> str:
    """Return what is wrong with a command; empty if nothing is."""
    # What stands before the command takes a value each, but for those that end in themselves.
    at = 0
    while at < len(words) and words[at].startswith("--"):
        option = words[at].partition("=")[0]
        if option not in commands[""] | EVERYWHERE:
            return f"there is no {option}"
        at += 1 if "=" in words[at] or option.endswith(("-completion", "--help")) else 2
    names: list[str] = []
    while at < len(words) and " ".join([*names, words[at]]) in commands:
        names.append(words[at])
        at += 1
    path = " ".join(names)
    rest = words[at:]
    # `beeyard COMMAND --help`, or a group of which another word is no command.
    is_group = any(one.startswith(f"{path} ".lstrip()) for one in commands if one)
    if rest and is_group and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        return f"there is no command {' '.join([*names, rest[0]])!r}"
    if "--" in rest:
        rest = rest[: rest.index("--")]
    given = {one.partition("=")[0] for one in rest if re.match(r"--[a-z]", one)}
    # The beginning of a command, to be gone on with: its options are those of another.
    if is_group:
        return ""
    if names and (unknown := given - commands[path] - EVERYWHERE):
        return f"{path} has no {', '.join(sorted(unknown))}"
    return ""


def test_every_command_in_the_documents_is_there_and_takes_what_it_is_given() -> None:
    commands = known()
    documents = [name for name in repository.files() if name.endswith(".md")]
    found = [(name, words) for name in documents for words in calls(name)]
    assert len(found) > 200
    faults = [
        f"{name}: beeyard {' '.join(words)}: {fault}"
        for name, words in found
        if (fault := fault_of(words, commands))
    ]
    assert not faults, "\n".join(faults)


def test_what_is_not_there_is_told() -> None:
    commands = known()
    assert fault_of(["--queen", "h:1", "jobs", "list", "--state", "QUEUED"], commands) == ""
    assert "--stat" in fault_of(["jobs", "list", "--stat", "x"], commands)
    assert "'jobs show'" in fault_of(["jobs", "show", "x"], commands)
    assert "--quen" in fault_of(["--quen", "h:1", "fleet"], commands)
    assert "'flee'" in fault_of(["flee"], commands)
