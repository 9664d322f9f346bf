"""What keeps a stack from running, said in one line."""


class StackFailed(Exception):
    """The stack cannot start or go on; the message says why and what to do, `log` holds the culprit's last lines."""

    def __init__(self, message: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.log = log
