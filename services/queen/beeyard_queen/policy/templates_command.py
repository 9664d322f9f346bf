"""`policy templates [NAME]`: policies to start from, each with what it does and when to use it.

A template is a file of `templates/`; its first comment says what it does, up to `Use it when:`, and then when to use
it. The platform clone is the platform policy itself, so that a copy is never out of date.
"""

import json
import sys
from dataclasses import asdict, dataclass
from importlib.resources import files

from beeyard_queen.policy.lua_source import lua_text

_CLONE = """\
-- Platform clone: the platform policy as a text of your own.
-- Use it when: it is nearly what you want. Everything that it does is in here, to be changed.

"""


@dataclass(frozen=True)
class Template:
    """One policy to start from. `language` is `lua` or `yaml`."""

    name: str
    language: str
    does: str
    use_when: str
    source: str


def _template(name: str, language: str, source: str) -> Template:
    lines: list[str] = []
    for line in source.splitlines():
        text = line.lstrip("-# ").rstrip()
        if not text or not line.startswith(("-", "#")):
            break
        lines.append(text)
    does, _, use_when = " ".join(lines).partition("Use it when:")
    return Template(name, language, does.strip(), use_when.strip(), source)


def templates() -> list[Template]:
    """Return every template, by name."""
    found = [_template("platform-clone", "lua", _CLONE + lua_text("platform.lua"))]
    for file in (files("beeyard_queen.policy") / "templates").iterdir():
        name, _, language = file.name.rpartition(".")
        if language in {"lua", "yaml"}:
            found.append(_template(name, language, file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda each: each.name)


def main(argv: list[str]) -> int:
    """Run `policy templates`.

    Args:
        argv: What follows `templates`: nothing lists them, a name prints that template's text; `--json` as JSON.

    Returns:
        The exit code: 0, or 2 if there is no such template.
    """
    names = [argument for argument in argv if argument != "--json"]
    if len(names) > 1 or any(name.startswith("-") for name in names):
        sys.stderr.write("usage: beeyard policy templates [--json] [NAME]\n")
        return 2
    chosen = [each for each in templates() if not names or each.name == names[0]]
    if not chosen:
        known = ", ".join(each.name for each in templates())
        sys.stderr.write(f"beeyard policy: there is no template {names[0]!r}; there are {known}\n")
        return 2
    if "--json" in argv:
        sys.stdout.write(json.dumps([asdict(each) for each in chosen]) + "\n")
    elif names:
        sys.stdout.write(chosen[0].source)
    else:
        for each in chosen:
            about = f"{each.does}\n{'':26} Use it when: {each.use_when}"
            sys.stdout.write(f"{each.name:20} {each.language:5} {about}\n")
    return 0
