"""A JSON schema made from the package's own values, by their types."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", NoneType: "null"}
NOTE = (
    "What ws_status --json and status.json print; ws_status --diagnose --json prints #/$defs/Diagnosis, and ws_status "
    "--history #/$defs/Histories. Fields may be added without a new format."
)


class Schema:
    """The definitions of all dataclasses that were met."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        """What values of this type look like in JSON."""
        if kind in PLAIN:
            return {"type": PLAIN[kind]}
        if kind is datetime:
            return {"type": "string", "format": "date-time"}
        if isinstance(kind, UnionType):
            return self._any_of(get_args(kind))
        if get_origin(kind) is Mapping:
            return {"type": "object", "additionalProperties": self.of(get_args(kind)[1])}
        if get_origin(kind) is tuple:
            return {"type": "array", "items": self.of(get_args(kind)[0])}
        if issubclass(kind, StrEnum):
            return {"enum": [each.value for each in kind]}
        return self.define(kind)

    def define(self, kind: type, **more: Any) -> dict[str, Any]:
        """A reference to a dataclass, which has all of its fields, and ``more``."""
        if not is_dataclass(kind):
            raise TypeError(f"no JSON is known of {kind}")
        if kind.__name__ not in self.definitions:
            hints = get_type_hints(kind)
            described = {**more, **{field.name: self.of(hints[field.name]) for field in fields(kind)}}
            self.definitions[kind.__name__] = {"type": "object", "properties": described, "required": [*described]}
        return {"$ref": f"#/$defs/{kind.__name__}"}

    def _any_of(self, kinds: tuple[Any, ...]) -> dict[str, Any]:
        found = [self.of(each) for each in kinds]
        if all([*each] == ["type"] for each in found):
            return {"type": [each["type"] for each in found]}
        return {"anyOf": found}


def status_schema() -> dict[str, Any]:
    """The schema of everything that ``ws_status`` prints as JSON."""
    from channels_admission.status.diagnostics import Diagnosis
    from channels_admission.status.history import History
    from channels_admission.status.values import FORMAT, Snapshot

    schema, version = Schema(), {"format": {"const": FORMAT}}
    snapshot = schema.define(Snapshot, **version)
    schema.define(Diagnosis, **version, exit_code={"enum": [0, 1, 2]})
    pools = {"type": "object", "additionalProperties": schema.define(History)}
    schema.definitions["Histories"] = {
        "type": "object", "properties": {**version, "pools": pools}, "required": ["format", "pools"],
    }  # fmt: skip
    # The minutes are not printed where only the seconds are asked for.
    schema.definitions["History"]["required"].remove("minutes")
    return {
        "$schema": DIALECT, "title": "ws_status of channels-admission", "$comment": NOTE, **snapshot,
        "$defs": dict(sorted(schema.definitions.items())),
    }  # fmt: skip
