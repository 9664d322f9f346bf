"""What pydantic found wrong with a YAML document, told as its author must hear it: the field, its line, its column."""

import difflib

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.yaml_source import Mark, Node, locate, quoted


def first_fault(root: Node, error: ValidationError) -> PolicyInvalid:
    """Return the first fault in the order of the text, and how many more there are.

    Args:
        root: The document that was judged.
        error: What a model said of its plain values.
    """
    faults = [_placed(root, fault) for fault in error.errors(include_url=False)]
    mark, message = min(faults, key=lambda fault: (fault[0].line, fault[0].column))
    more = len({place for place, _ in faults}) - 1
    rest = f" ({more} more after it)" if more else ""
    return PolicyInvalid(message + rest, mark.line, mark.column)


def _placed(root: Node, fault: ErrorDetails) -> tuple[Mark, str]:
    path: tuple[str | int, ...] = fault["loc"]
    named = fault.get("ctx", {}).get("name")
    # An unknown name is told by the mapping that it stands in; an author looks for the name itself.
    mark, said = locate(
        root, (*path, named) if isinstance(named, str) else path, of_key=named is not None
    )
    message = _message(fault)
    return mark, f"{said}: {message}" if said else message


_MUST_BE = {
    "string_type": "must be a text; write it in quotes",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "model_type": "must be a mapping",
    "string_too_short": "must not be empty; test for an absent value with exists: false",
    "too_short": "must have at least one entry",
    "string_pattern_mismatch": "must be one line of printable text",
}


def _message(fault: ErrorDetails) -> str:
    kind, got = fault["type"], fault["input"]
    if kind == "missing":
        return f"the field {quoted(str(fault['loc'][-1]))} is missing"
    if kind == "literal_error":
        expected = str(fault["ctx"]["expected"]).replace("'", '"')
        near = difflib.get_close_matches(str(got), expected.split('"')[1::2], n=1)
        hint = f"; did you mean {quoted(near[0])}?" if near else ""
        said = quoted(got) if isinstance(got, str) else "it"
        return f"must be {expected}, and {said} is not{hint}"
    return _MUST_BE.get(kind, fault["msg"].replace("Input should", "must"))
