"""Message after message to every method of one server, and what it answered: the half of a fuzzing that all share."""

import random
import re
from collections import Counter
from collections.abc import Mapping

import grpc
from beeyard_core import limits
from google.protobuf.message import DecodeError, Message

from tests.support.drawn_messages import Drawer, Words
from tests.support.raw_calls import Outcome, call, converse
from tests.support.reflection import ServedMethod

#: How long a stream may keep silent before it is given up. It need not say anything, so this decides nothing.
SILENCE_S = 0.02
NEVER = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED}
INSIDE = re.compile(
    r"[A-Z]\w*(Error|Exception)\b|Error\(|Traceback|\.py\b|/[\w.-]+/[\w.-]+|google\.protobuf"
    r"|object at|0x[0-9a-f]{6}|_pb2|<class|NoneType"
)


class Siege:
    """One server under fire.

    Attributes:
        codes: How calls ended.
        wrong: What must not have been answered so, with the bytes that were sent.
        sent: How many messages were.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        seed: int,
        words: Words,
        about: Mapping[str, tuple[Message, ...]],
        allowed_reasons: frozenset[str] = frozenset(),
    ) -> None:
        """Prepare.

        Args:
            channel: To the server.
            seed: The same draws the same.
            words: What a text field of a name may plausibly say.
            about: What messages of a type are drawn about, mostly; those of other types start from nothing.
            allowed_reasons: Reasons with which codes may come that are wrong otherwise.
        """
        self.chance = random.Random(seed)
        self.drawer = Drawer(self.chance, dict(words))
        self.codes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.sent = 0
        self._channel = channel
        self._about = about
        self._allowed = allowed_reasons

    async def send_to(self, method: ServedMethod, *, is_malformed: bool = False) -> None:
        """Send a method one request, or a stream of some, and judge the answer.

        Args:
            method: Which one.
            is_malformed: Send only what is no message: one that is, is obeyed by this method for good.
        """
        bodies = [self._no_message(method)] if is_malformed else self._bodies(method)
        self.sent += len(bodies)
        if method.takes_stream or method.gives_stream:
            ends = self.chance.random() < 0.5
            told = await converse(self._channel, method, bodies, closes=ends, silence_s=SILENCE_S)
        else:
            told = await call(self._channel, method, bodies[0])
        self.judge(method, bodies, told)

    def judge(self, method: ServedMethod, bodies: list[bytes], told: Outcome) -> None:
        """Remember how a call ended, and whether that was wrong."""
        self.codes[told.code.name] += 1
        is_bare = (
            told.code not in {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
            and method.path.startswith("/beeyard.")
            and not told.reason
        )
        is_never = told.code in NEVER and told.reason not in self._allowed
        if is_never or is_bare or INSIDE.search(told.message):
            sent = " ".join(body[:200].hex() for body in bodies)
            self.wrong.append(f"{method.path} {sent}: {told}")

    def _bodies(self, method: ServedMethod) -> list[bytes]:
        if self.chance.random() < 1 / 1_000:
            return [self.chance.randbytes(8) * (limits.MESSAGE_BYTES_MAX // 8 + 1)]
        # None at all, too: a stream that is opened and left, or closed.
        count = self.chance.randint(0, 4) if method.takes_stream else 1
        about = self._about.get(method.request.DESCRIPTOR.full_name, ())
        return [self._body(method, about) for _ in range(count)]

    def _body(self, method: ServedMethod, about: tuple[Message, ...]) -> bytes:
        is_about = bool(about) and self.chance.random() < 0.7
        return self.drawer.body(method.request, self.chance.choice(about) if is_about else None)

    def _no_message(self, method: ServedMethod) -> bytes:
        while True:
            body = self.drawer.body(method.request)
            try:
                method.request.FromString(body)
            except DecodeError:
                return body
