"""Makes a failing story shorter: what can be left out without the failure going away is left out."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.simulation.story import Story

#: Stories tried at most; each takes about as long as the failing one.
_TRIES_MAX = 60


def shrink(story: Story, fails: Callable[[Story], bool]) -> Story:
    """Return the smallest story found that still fails.

    Args:
        story: One that fails.
        fails: Whether a story fails.
    """
    tries = 0
    smaller = True
    while smaller:
        smaller = False
        for shorter in _shorter(story):
            tries += 1
            if tries > _TRIES_MAX:
                return story
            if fails(shorter):
                story, smaller = shorter, True
                break
    return story


def _shorter(story: Story) -> Iterator[Story]:
    """Yield the story without one fault, without one ask, without one lone worker."""
    for at in range(len(story.faults)):
        yield replace(story, faults=story.faults[:at] + story.faults[at + 1 :])
    for at, (name, asks) in enumerate(story.clients):
        for number in range(len(asks)):
            rest = (name, asks[:number] + asks[number + 1 :])
            yield replace(story, clients=(*story.clients[:at], rest, *story.clients[at + 1 :]))
    for at in range(len(story.lone_workers)):
        yield replace(story, lone_workers=story.lone_workers[:at] + story.lone_workers[at + 1 :])
    if story.repeats:
        yield replace(story, repeats=0.0)
