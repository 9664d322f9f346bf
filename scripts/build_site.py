"""Makes the documentation site out of docs/, into build/site/html; fails where a link leads nowhere.

The pages are written to be read on GitHub as well, and link to whatever explains them: a module, a proto, a test. A
site has only what is on it, so each file outside docs/ that is linked is put there, under `source/`. That is done on a
copy (build/site/docs), which Zensical turns into HTML; afterwards every link of every page is followed once more in
what was written, since Zensical looks only at links from page to page.

Usage: python scripts/build_site.py
"""

import posixpath
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

ROOT: Final = Path(__file__).resolve().parent.parent
CONFIG: Final = ROOT / "zensical.toml"
BUILD: Final = ROOT / "build/site"
PAGES: Final = "docs/"
SOURCE: Final = "source/"
RECORDS: Final = "adr/*.md"
LINK: Final = re.compile(r"(\]\()([^)\s]+)(\))")
FENCE: Final = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
#: Of what is written here, not of any HTML: quotes within a page are escaped.
ATTRIBUTE: Final = re.compile(r'\s(href|src|id)="([^"]*)"')
COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
#: Readers search for pages, not for names of files.
HIDDEN: Final = "---\nsearch:\n  exclude: true\n---\n\n"


Nav = str | list["Nav"] | dict[str, "Nav"]


def nav_pages(nav: Nav) -> Iterator[str]:
    """Yield every page that the navigation names, each record of a decision for the star."""
    if isinstance(nav, str):
        yield from [f"adr/{one.name}" for one in records()] if nav == RECORDS else [nav]
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from nav_pages(each)


def read_nav() -> list[str]:
    """Return the pages of the navigation, in its order."""
    return list(nav_pages(tomllib.loads(CONFIG.read_text(encoding="utf-8"))["project"]["nav"]))


def records() -> list[Path]:
    """Return the records of decisions, in their order."""
    return sorted((ROOT / PAGES / "adr").glob("[0-9]*.md"))


def place_of(name: str) -> str:
    """Return where a file or folder of the project lies on the site, from its path in the project."""
    if name.startswith(PAGES):
        place = name.removeprefix(PAGES)
        return f"{place}/README.md" if (ROOT / name).is_dir() else place
    if (ROOT / name).is_dir():
        return f"{SOURCE}{name}/index.md"
    # A browser shows a text, and would offer to save a module.
    return SOURCE + (name if name.endswith(".md") else f"{name}.txt")


class Stage:
    """The copy of the pages, and of what they link to, directly or from one of those."""

    def __init__(self, folder: Path) -> None:
        """Begin with every file of docs/ and what the navigation names besides."""
        self._folder = folder
        pages = [f"{one.relative_to(ROOT)}" for one in sorted((ROOT / PAGES).rglob("*"))]
        beside = [one.removeprefix(SOURCE) for one in read_nav() if one.startswith(SOURCE)]
        self._waiting = [one for one in pages if (ROOT / one).is_file()] + beside
        self._known = set(self._waiting)

    def fill(self) -> None:
        """Write all pages."""
        while self._waiting:
            name = self._waiting.pop()
            target = self._folder / place_of(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                target.write_text(self._listing(name), encoding="utf-8")
            elif name.endswith(".md"):
                target.write_text(self._page(name), encoding="utf-8")
            else:
                shutil.copyfile(ROOT / name, target)

    def _page(self, name: str) -> str:
        parts = FENCE.split((ROOT / name).read_text(encoding="utf-8"))
        # Every second part is code.
        parts[::2] = [LINK.sub(self._link_from(name), part) for part in parts[::2]]
        return "".join(parts)

    def _listing(self, name: str) -> str:
        entries = sorted(one.name for one in (ROOT / name).iterdir() if one.name != "__pycache__")
        lines = "".join(f"- [{one}]({self._relative(name, f'{name}/{one}')})\n" for one in entries)
        return f"{HIDDEN}# {posixpath.basename(name)}\n\n`{name}`\n\n{lines}"

    def _link_from(self, name: str) -> Callable[[re.Match[str]], str]:
        def rewrite(link: re.Match[str]) -> str:
            path, hash_sign, anchor = link[2].partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
            if not path or urlsplit(path).scheme or not (ROOT / target).exists():
                return link[0]
            return f"{link[1]}{self._relative(name, target)}{hash_sign}{anchor}{link[3]}"

        return rewrite

    def _relative(self, name: str, target: str) -> str:
        """Return the way from one page to another, and see to it that the other is there."""
        if target not in self._known and not (
            target.startswith(PAGES) and (ROOT / target).is_dir()
        ):
            self._known.add(target)
            self._waiting.append(target)
        return posixpath.relpath(place_of(target), posixpath.dirname(place_of(name)) or ".")


def broken_links(folder: Path) -> Iterator[str]:
    """Yield each link of a finished site that leads nowhere."""
    # The page that a server shows instead of one that is missing lies nowhere, so its links are from the root.
    pages = [path for path in sorted(folder.rglob("*.html")) if path.name != "404.html"]
    attributes = {path: ATTRIBUTE.findall(path.read_text(encoding="utf-8")) for path in pages}
    anchors = {
        path: {value for name, value in found if name == "id"} for path, found in attributes.items()
    }
    for path, found in attributes.items():
        # A page has most of its links more than once.
        for link in sorted({unescape(value) for name, value in found if name != "id"}):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                yield f"{path.relative_to(folder)}: {link} leads nowhere"
            elif parts.fragment and unquote(parts.fragment) not in anchors.get(target, set()):
                yield f"{path.relative_to(folder)}: {link}: no such heading"


def build() -> list[str]:
    """Build the site anew and return what is wrong with it."""
    shutil.rmtree(BUILD, ignore_errors=True)
    Stage(BUILD / "docs").fill()
    stars = ", ".join(f'"adr/{one.name}"' for one in records())
    config = CONFIG.read_text(encoding="utf-8").replace(f'"{RECORDS}"', stars)
    (BUILD / CONFIG.name).write_text(config, encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file"]
    done = subprocess.run(
        [*command, BUILD / CONFIG.name], capture_output=True, text=True, check=False
    )
    if done.returncode:
        # Its findings without colours, and the reason at the end of the traceback by which it stops.
        told = COLOUR.sub("", done.stdout + done.stderr).strip()
        return [told.partition("Traceback")[0], told.rpartition("\n")[2]]
    return list(broken_links(BUILD / "html"))


def main() -> int:
    """Build, say what is wrong, return the exit code."""
    faults = build()
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        print(f"{BUILD.relative_to(ROOT)}/html/index.html")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
