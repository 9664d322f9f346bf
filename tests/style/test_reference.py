"""The pages that are drawn from code are what the code gives now, and leave nothing out."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import draw_commands, draw_protos, draw_reasons, draw_settings
from tests.style import repository


@pytest.mark.parametrize(
    ("path", "drawn"),
    [
        (draw_commands.PAGE, draw_commands.page),
        (draw_reasons.PAGE, draw_reasons.page),
        (draw_settings.PAGE, draw_settings.page),
    ],
    ids=["commands", "reasons", "settings"],
)
def test_what_is_drawn_is_what_the_code_gives(path: Path, drawn: Callable[[], str]) -> None:
    assert path.read_text(encoding="utf-8") == drawn(), "run `make reference`"


def test_the_protos_are_drawn_as_they_are_and_nothing_is_left_out() -> None:
    drawn = draw_protos.pages()
    for path, text in drawn.items():
        assert path.read_text(encoding="utf-8") == text, "run `make reference`"
    for name in repository.files():
        if not name.endswith(".proto"):
            continue
        proto = repository.text_of(name)
        (package,) = re.findall(r"^package ([\w.]+);", proto, re.MULTILINE)
        page = drawn[draw_protos.FOLDER / draw_protos.page_name(package)]
        for kind, thing in re.findall(r"^ *(rpc|message|enum|service) (\w+)", proto, re.MULTILINE):
            assert re.search(rf"^##+ (\w+\.)*{thing}$", page, re.MULTILINE), f"{kind} {thing}"


def test_every_element_of_the_reference_says_something() -> None:
    for path in sorted(draw_protos.FOLDER.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"^.*\| +\|$", text, re.MULTILINE) == [], path.name
        assert re.findall(r"^#+ [^\n]+\n\n+#", text, re.MULTILINE) == [], path.name
