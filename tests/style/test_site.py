"""The site leads to every page, and its build fails where a link leads nowhere."""

from pathlib import Path

import pytest

from scripts import build_site
from tests.style import repository


def test_every_page_is_in_the_navigation_once() -> None:
    pages = {
        name.removeprefix("docs/")
        for name in repository.files()
        if name.startswith("docs/") and name.endswith(".md")
    }
    named = build_site.read_nav()
    assert pages - set(named) == set(), "add them to nav in zensical.toml"
    assert sorted(named) == sorted(set(named))


def test_whatever_the_navigation_names_is_there() -> None:
    files = set(repository.files())
    gone = [
        page
        for page in build_site.read_nav()
        if f"docs/{page}" not in files and page.removeprefix(build_site.SOURCE) not in files
    ]
    assert gone == []


def test_what_is_linked_outside_of_the_pages_comes_along(tmp_path: Path) -> None:
    build_site.Stage(tmp_path).fill()
    # docs/job-states.md links the first, ARCHITECTURE.md the second, and docs/index.md the folder.
    for name in (
        "services/core/beeyard_core/job.py.txt",
        "services/queen/beeyard_queen/loop.py.txt",
        "protos/beeyard/queen/v1/job.proto.txt",
    ):
        assert (tmp_path / build_site.SOURCE / name).is_file()
    links = build_site.LINK.findall((tmp_path / "index.md").read_text(encoding="utf-8"))
    assert "source/ARCHITECTURE.md" in [target for _, target, _ in links]


@pytest.mark.parametrize("link", ["gone.html", "other.html#gone", "#gone", "picture.svg"])
def test_a_link_that_leads_nowhere_is_told(tmp_path: Path, link: str) -> None:
    (tmp_path / "other.html").write_text('<h1 id="here">Other</h1>', encoding="utf-8")
    (tmp_path / "page.html").write_text(
        f'<a href="other.html#here">good</a> <a href="{link}">bad</a>', encoding="utf-8"
    )
    assert [line.split(":")[0] for line in build_site.broken_links(tmp_path)] == ["page.html"]
