"""What can be wrong with a policy's text, told with the place where its author must look."""


class PolicyInvalid(Exception):
    """The policy's text cannot be used (POLICY_INVALID). Correct it at the line that the message names.

    Args:
        message: What is wrong, in one line, without the place.
        line: Line of the text, from 1; None where it cannot be known.
        column: Column of that line, from 1; None where it cannot be known.
    """

    def __init__(self, message: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column

    def __str__(self) -> str:
        if self.line is None:
            return self.message
        if self.column is None:
            return f"line {self.line}: {self.message}"
        return f"line {self.line}, column {self.column}: {self.message}"
