"""What a stranger's YAML may not do, each told with its line and column."""

import pytest
from beeyard_core import limits
from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.yaml_source import plain, read_yaml

BOMB = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [
        f"{name}: &{name} [{', '.join(['*' + below] * 9)}]"
        for below, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
)


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        ("", 1, 1, "empty"),
        ("# only a comment\n", 1, 1, "empty"),
        (BOMB, 1, 4, "anchors"),
        ("a: 1\nb: *a\n", 2, 4, "aliases"),
        ("a: &a {b: *a}\n", 1, 4, "anchors"),
        ("a: 1\nb: 2\na: 3\n", 3, 1, 'the key "a" stands twice; first at line 1'),
        ("a:\n  b: {c: 1, c: 2}\n", 2, 13, 'the key "c" stands twice; first at line 2'),
        ("a: 1\n---\nb: 2\n", 3, 1, "one document"),
        ("a: [1, 2\n", 2, 1, "not YAML"),
        ("a: b: c\n", 1, 5, "not YAML"),
        ("\ta: 1\n", 1, 1, "not YAML"),
        ("a: !!python/object/apply:os.system [true]\n", 1, 4, "the tag"),
        ("a: !custom 1\n", 1, 4, "the tag"),
        ("a: !!binary aGk=\n", 1, 4, "the tag"),
        ("a: !!seq {b: 1}\n", 1, 4, "the tag"),
        ("a: !!int one\n", 1, 4, '"one" is no int'),
        ("a: !!bool 1\n", 1, 4, '"1" is no bool'),
        ("? [a, b]\n: 1\n", 1, 3, "a key must be a name"),
        ("a: 1\n? {b: 1}\n: 2\n", 2, 3, "a key must be a name"),
        ("a: .nan\n", 1, 4, "no number"),
        ("a: -.inf\n", 1, 4, "no number"),
        ("a: 1e999\n", 1, 4, "too large"),
        ("a: 9007199254740993\n", 1, 4, "beyond"),
        (f"a: {'9' * 5000}\n", 1, 4, "too long"),
        ("a: b\nc: \x07\n", 2, 4, "does not allow"),
        ('a: "\\ud800"\n', 1, 4, "surrogate"),
        ('a: "\\UFFFFFFFF"\n', 1, 7, "out of its range"),
        (f"%YAML {'1' * 5000}\n---\na: 1\n", 1, 7, "out of its range"),
        ("[" * 1000, 1, limits.POLICY_YAML_DEPTH_MAX + 1, "nested deeper"),
        ("- " * 1000, 1, 2 * limits.POLICY_YAML_DEPTH_MAX + 1, "nested deeper"),
        ("- a\n" * (limits.POLICY_YAML_NODES_MAX + 1), limits.POLICY_YAML_NODES_MAX, 3, "more than"),
        (b"a: b\nc: \xff\n", 2, 4, "not UTF-8"),
        ("a" * (limits.POLICY_SOURCE_BYTES_MAX + 1), 1, 1, "bytes"),
        ("ä" * (limits.POLICY_SOURCE_BYTES_MAX // 2 + 1), 1, 1, "bytes"),
    ],
)  # fmt: skip
def test_bad_yaml_is_refused_where_it_is_bad(
    text: str | bytes, line: int, column: int, said: str
) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        read_yaml(text)
    assert said in caught.value.message
    assert (caught.value.line, caught.value.column) == (line, column)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("True", True),
        ("null", None),
        ("~", None),
        ("12", 12),
        ("-12", -12),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("!!float 12", 12.0),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    read = plain(read_yaml(f"a: {text}\n"))
    assert read == {"a": value}
    assert isinstance(read, dict)
    assert type(read["a"]) is type(value)


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert plain(read_yaml("\ufeffa: 1")) == plain(read_yaml(b"\xef\xbb\xbfa: 1")) == {"a": 1}


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_a_text_of_full_size_is_refused_at_once(opening: str) -> None:
    text = opening * (limits.POLICY_SOURCE_BYTES_MAX // len(opening))
    with pytest.raises(PolicyInvalid):
        read_yaml(text)
