"""How one job looks while it runs: its text on stdout as it comes, what it waits for on stderr."""

import sys

from rich.console import Console
from rich.status import Status
from rich.text import Text

from beeyard_client.cli.printing import printable
from beeyard_client.events import Event, Progress, Queued, Started, Tokens

_LOADING = "loading_model"
_RETRYING = "retrying"


class JobDisplay:
    """Shows events. Progress is shown only to a person: when stderr is a terminal, and before the first token."""

    def __init__(self, *, show_text: bool = True) -> None:
        """Show nothing yet.

        Args:
            show_text: Whether the text goes to stdout as it comes.
        """
        self._show_text = show_text
        self._console = Console(stderr=True)
        self._status: Status | None = None
        self._last_character = "\n"

    def show(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Queued():
                self._tell(f"queued, {event.position} before it" if event.position else "queued")
            case Started():
                again = f", attempt {event.attempt}" if event.attempt > 1 else ""
                self._tell(f"reading the prompt on {event.worker_id}{again}")
            case Progress():
                self._tell(describe(event))
            case Tokens():
                self._write(event.text)
            case _:
                self.stop()

    def stop(self) -> None:
        """Take the progress away and end the line. May be called twice."""
        self._hide()
        if self._last_character != "\n":
            self._last_character = "\n"
            sys.stdout.write("\n")
            sys.stdout.flush()

    def _write(self, text: str) -> None:
        self._hide()
        if not self._show_text or not text:
            return
        # A file gets the model's exact words; a terminal would obey some of them.
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()
        self._last_character = text[-1]

    def _tell(self, sentence: str) -> None:
        # In the middle of a line of text a moving status would overwrite it.
        if not self._console.is_terminal or self._last_character != "\n":
            return
        words = Text(printable(sentence))
        if self._status is None:
            self._status = self._console.status(words)
            self._status.start()
        else:
            self._status.update(words)

    def _hide(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def describe(progress: Progress) -> str:
    """Return what is going on, as a sentence for a person."""
    if progress.stage == _LOADING:
        share = f", {progress.fraction:.0%}" if progress.fraction else ""
        return progress.message or f"loading the model{share}"
    if progress.stage == _RETRYING:
        return f"trying again: {progress.message}" if progress.message else "trying again"
    before = f"queued, {progress.position} before it" if progress.position else "queued"
    return f"{before}: {progress.message}" if progress.message else before
