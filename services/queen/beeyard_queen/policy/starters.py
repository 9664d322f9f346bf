"""The policies to start from: what each does, when to use it, and its text.

A template is a file of `templates/`; its first comment says what it does, up to `Use it when:`, and then when to use
it. The platform clone is the platform policy itself, so that a copy is never out of date.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from beeyard_queen.policy.lua_source import lua_text
from beeyard_queen.policy.program import language_of
from beeyard_queen.store.versions import Language

_CLONE = """\
-- Platform clone: the platform policy as a text of your own.
-- Use it when: it is nearly what you want. Everything that it does is in here, to be changed.

"""


@dataclass(frozen=True)
class Template:
    """One policy to start from. `language` is `lua` or `yaml`."""

    name: str
    language: Language
    does: str
    use_when: str
    source: str


def _template(name: str, language: Language, source: str) -> Template:
    lines: list[str] = []
    for line in source.splitlines():
        text = line.lstrip("-# ").rstrip()
        if not text or not line.startswith(("-", "#")):
            break
        lines.append(text)
    does, _, use_when = " ".join(lines).partition("Use it when:")
    return Template(name, language, does.strip(), use_when.strip(), source)


@cache
def templates() -> tuple[Template, ...]:
    """Return every template, by name."""
    found = [_template("platform-clone", "lua", _CLONE + lua_text("platform.lua"))]
    for file in (files("beeyard_queen.policy") / "templates").iterdir():
        path = Path(file.name)
        if path.suffix in {".lua", ".yaml"}:
            text = file.read_text(encoding="utf-8")
            found.append(_template(path.stem, language_of(path), text))
    return tuple(sorted(found, key=lambda each: each.name))
