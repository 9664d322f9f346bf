"""Draws the pages docs/reference/protos-*.md from the protos: every service, method, message, field and enumeration,
with its comment.

Usage: python scripts/draw_protos.py
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / "docs/reference"
TITLES: Final = {
    "beeyard.queen.v1": "The queen's protos",
    "beeyard.pool.v1": "The pool manager's protos",
    "beeyard.worker.v1": "The worker's protos",
}
HEAD: Final = """# {title}

<!-- Drawn by scripts/draw_protos.py. Do not edit. -->

Package `{package}`, out of [protos/{folder}](../../protos/{folder}). Every process has reflection, so that `grpcurl`
needs no files. What a call is refused with is in [reasons](reasons.md), who may call it in
[security](../security.md#who-may-do-what).
"""
# Where descriptor.proto keeps what within what; comments are found by the path of such numbers.
MESSAGES, ENUMS, SERVICES = 4, 5, 6
FIELDS, NESTED, NESTED_ENUMS, ONEOFS = 2, 3, 4, 8
MEMBERS: Final = 2

type_names: Final = {
    value: name.removeprefix("TYPE_").lower() for name, value in FieldDescriptorProto.Type.items()
}
Path_ = tuple[int, ...]


class Source:
    """One proto with its comments."""

    def __init__(self, file: FileDescriptorProto) -> None:
        """Find the comments by their paths."""
        self.file = file
        self._comments = {
            tuple(one.path): one.leading_comments or one.trailing_comments
            for one in file.source_code_info.location
        }

    def about(self, path: Path_) -> str:
        """Return the comment of what lies there, paragraphs kept."""
        paragraphs = self._comments.get(path, "").split("\n\n")
        return "\n\n".join(safe(" ".join(one.split())) for one in paragraphs).strip()

    def line(self, path: Path_) -> str:
        """Return the same for the cell of a table."""
        return self.about(path).replace("\n\n", " ").replace("|", "\\|")


def safe(text: str) -> str:
    """Return a text in which no reader of Markdown sees HTML."""
    return text.replace("<", "&lt;")


def link(type_name: str) -> str:
    """Return the name of a message or an enumeration, with the way to where it is told."""
    name = type_name.removeprefix(".")
    for package in TITLES:
        if name.startswith(f"{package}."):
            short = name.removeprefix(f"{package}.")
            return f"[{short}]({page_name(package)}#{short.lower().replace('.', '')})"
    return f"`{name}`"


def page_name(package: str) -> str:
    """Return the file of a package's page."""
    return f"protos-{package.split('.')[1]}.md"


def type_of(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """Return a field's type in words."""
    named = link(field.type_name) if field.type_name else f"`{type_names[field.type]}`"
    if field.label != FieldDescriptorProto.LABEL_REPEATED:
        return f"optional {named}" if field.proto3_optional else named
    for entry in message.nested_type:
        if entry.options.map_entry and field.type_name.endswith(f".{entry.name}"):
            key, value = entry.field
            return f"map of {type_of(key, entry)} to {type_of(value, entry)}"
    return f"list of {named}"


def services(source: Source) -> Iterator[str]:
    """Yield the sections of a file's services."""
    for index, service in enumerate(source.file.service):
        path = (SERVICES, index)
        yield f"\n## {service.name}\n\n{source.about(path)}\n"
        yield from methods(source, service, path)


def methods(source: Source, service: ServiceDescriptorProto, path: Path_) -> Iterator[str]:
    """Yield the sections of a service's methods."""
    for index, method in enumerate(service.method):
        takes = "a stream of " * method.client_streaming + link(method.input_type)
        gives = "a stream of " * method.server_streaming + link(method.output_type)
        about = source.about((*path, MEMBERS, index))
        yield f"\n### {service.name}.{method.name}\n\nTakes {takes}, gives {gives}.\n\n{about}\n"


def messages(source: Source) -> Iterator[str]:
    """Yield the sections of a file's messages and enumerations."""
    for index, message in enumerate(source.file.message_type):
        yield from one_message(source, message, (MESSAGES, index), message.name)
    for index, enum in enumerate(source.file.enum_type):
        yield one_enum(source, enum, (ENUMS, index), enum.name)


def one_message(source: Source, message: DescriptorProto, path: Path_, name: str) -> Iterator[str]:
    """Yield the section of a message, and of those within it."""
    yield f"\n### {name}\n\n{source.about(path)}\n"
    oneofs = {
        index: oneof.name
        for index, oneof in enumerate(message.oneof_decl)
        if source.about((*path, ONEOFS, index)) or not oneof.name.startswith("_")
    }
    for index, oneof in oneofs.items():
        about = source.about((*path, ONEOFS, index))
        yield f"\nOnly one of those marked `{oneof}` is set. {about}\n"
    if message.field:
        yield "\n| field | type | what it is |\n|---|---|---|\n"
    for index, field in enumerate(message.field):
        is_choice = field.HasField("oneof_index") and not field.proto3_optional
        mark = f"<br>{oneofs[field.oneof_index]}" if is_choice else ""
        about = source.line((*path, FIELDS, index))
        yield f"| `{field.name}` = {field.number}{mark} | {type_of(field, message)} | {about} |\n"
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from one_message(source, nested, (*path, NESTED, index), f"{name}.{nested.name}")
    for index, enum in enumerate(message.enum_type):
        yield one_enum(source, enum, (*path, NESTED_ENUMS, index), f"{name}.{enum.name}")


def one_enum(source: Source, enum: EnumDescriptorProto, path: Path_, name: str) -> str:
    """Return the section of an enumeration."""
    rows = "".join(
        f"| `{value.name}` = {value.number} | {source.line((*path, MEMBERS, index))} |\n"
        for index, value in enumerate(enum.value)
    )
    return f"\n### {name}\n\n{source.about(path)}\n\n| value | what it says |\n|---|---|\n{rows}"


def read_protos() -> list[Source]:
    """Return every proto of ours, in the order of their names."""
    names = sorted(
        f"{one.relative_to(ROOT / 'protos')}" for one in ROOT.glob("protos/beeyard/**/*.proto")
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "all.binpb"
        command = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-I",
            "protos",
            "--include_source_info",
        ]
        subprocess.run([*command, f"--descriptor_set_out={out}", *names], cwd=ROOT, check=True)
        return [Source(file) for file in FileDescriptorSet.FromString(out.read_bytes()).file]


def pages() -> dict[Path, str]:
    """Return every page by its path."""
    sources = read_protos()
    drawn = {}
    for package, title in TITLES.items():
        head = HEAD.format(title=title, package=package, folder=package.replace(".", "/"))
        ours = [source for source in sources if source.file.package == package]
        told = [part for source in ours for part in services(source)]
        told.append("\n## Messages\n\nIn the order of the files in which they stand.\n")
        told += [part for source in ours for part in messages(source)]
        drawn[FOLDER / page_name(package)] = head + "".join(told)
    return drawn


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
