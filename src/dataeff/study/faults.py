"""What pydantic finds wrong with a mapping, said in the words of the file that a person wrote.

One message per fault: where, which key, what was found, what is allowed. Locations are walked along the type's
JSON schema, which knows the keys allowed at each place and which parts of a location are members of a union (a
`kind`) that nobody wrote as a key.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from dataeff.errors import DataeffError, unknown_name

AnyModel = TypeVar("AnyModel")

_PATTERNS = {
    r"^[a-z][a-z0-9_]*$": "a name of lower-case letters, digits and underscores that begins with a letter",
    r"^[0-9a-f]{64}$": "a sha256 of 64 digits 0-9 and a-f",
}
_NEEDED = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "string": "a text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}
_LIMITS = {
    "greater_than": ("gt", "a number above {} is needed"),
    "greater_than_equal": ("ge", "at least {} is needed"),
    "less_than": ("lt", "a number below {} is needed"),
    "less_than_equal": ("le", "at most {} is needed"),
    "too_short": ("min_length", "a list of at least {} is needed"),
    "too_long": ("max_length", "a list of at most {} is needed"),
}


def validate(model: type[AnyModel], raw: Any, where: str, *, inside: str = "") -> AnyModel:
    """`raw` as `model`; every fault of it in one DataeffError that names the key, the value and what is allowed.

    `where` names the file; `inside` is the key in it that `raw` is the value of.
    """
    adapter = TypeAdapter(model)
    try:
        return adapter.validate_python(raw)
    except ValidationError as error:
        schema = adapter.json_schema()
        faults = [_Fault(fault, schema) for fault in error.errors()]
    # A misspelt key is also a missing one; the suggestion says both.
    suggested = {(fault.parent, fault.suggestion) for fault in faults if fault.suggestion}
    told = [fault for fault in faults if not (fault.missing and (fault.parent, fault.path[-1]) in suggested)]
    raise DataeffError("\n".join(fault.message(where, inside) for fault in told))


class _Fault:
    """One entry of pydantic's list, with its location translated."""

    def __init__(self, fault: Any, schema: dict[str, Any]) -> None:
        self.type, self.value = str(fault["type"]), fault["input"]
        self._context, self._text = fault.get("ctx", {}), fault["msg"].removeprefix("Value error, ")
        location = fault["loc"]
        self._is_key = bool(location) and location[-1] == "[key]"
        extra = self.type == "extra_forbidden" or self._is_key
        self.path, self._node = _walk(schema, location[: len(location) - self._is_key], known_end=not extra)
        self.parent = tuple(self.path[:-1])
        self.missing = self.type == "missing"
        near = get_close_matches(str(self.path[-1]), self._known(), n=1) if extra else []
        self.suggestion = near[0] if near else None

    def _known(self) -> list[str]:
        names = self._node.get("propertyNames", {})
        return sorted(self._node.get("properties", {})) or _choices(names)

    def message(self, where: str, inside: str) -> str:
        unknown_key = self.type == "extra_forbidden" or (self._is_key and self.type == "literal_error")
        path = _dotted((inside, *(self.parent if unknown_key else self.path)))
        at = f"{where}: {path}" if path else where
        if unknown_key:
            return str(unknown_name("key", str(self.path[-1]), self._known(), at))
        if self.type == "literal_error" and isinstance(self.value, str):
            return str(unknown_name(str(self.path[-1]), self.value, _choices(self._node), at))
        if self.type == "union_tag_invalid":
            known = ast.literal_eval(f"[{self._context['expected_tags']}]")
            return str(unknown_name("kind", self._context["tag"], known, f"{at}.kind"))
        if self.type == "union_tag_not_found":
            return f"{at}.kind: this key is missing; known: {', '.join(self._node['discriminator']['mapping'])}"
        if self.missing:
            return f"{at}: this key is missing"
        found = "" if self.type == "value_error" else f"; found {_shown(self.value)}"
        return f"{at}: {self._needed()}{found}"

    def _needed(self) -> str:
        if self.type in _LIMITS:
            name, text = _LIMITS[self.type]
            return text.format(self._context[name])
        if self.type == "string_pattern_mismatch" and self._context["pattern"] in _PATTERNS:
            return f"{_PATTERNS[self._context['pattern']]} is needed"
        kind = re.sub(r"_(type|parsing|from_float|attributes_type)$", "", self.type)
        kind = kind.removesuffix("_attributes")
        return f"{_NEEDED[kind]} is needed" if kind in _NEEDED else self._text


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "a mapping" if isinstance(value, Mapping) else repr(value)


def _dotted(path: tuple[str | int, ...]) -> str:
    """('grids', 'core', 0, 'data') -> 'grids.core[0].data'."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path if part != "")
    return text.removeprefix(".")


def _choices(node: Mapping[str, Any]) -> list[str]:
    return [str(value) for value in node.get("enum", [node["const"]] if "const" in node else [])]


def _walk(
    schema: dict[str, Any], location: tuple[str | int, ...], *, known_end: bool
) -> tuple[list[str | int], dict[str, Any]]:
    """The location less its union members, and the schema node there (its parent's unless `known_end`)."""
    definitions = schema.get("$defs", {})

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in node:
            return resolved(definitions[node["$ref"].rsplit("/", 1)[1]])
        options = [option for option in node.get("anyOf", []) if option.get("type") != "null"]
        return resolved(options[0]) if options else node

    path: list[str | int] = []
    node = resolved(schema)
    for number, part in enumerate(location):
        if part in node.get("discriminator", {}).get("mapping", {}):
            node = resolved({"$ref": node["discriminator"]["mapping"][part]})
            continue
        path.append(part)
        if known_end or number + 1 < len(location):
            node = resolved(_child(node, part))
    return path, node


def _child(node: Mapping[str, Any], part: str | int) -> dict[str, Any]:
    if part in node.get("properties", {}):
        return dict(node["properties"][part])
    prefix = node.get("prefixItems", [])
    if isinstance(part, int) and part < len(prefix):
        return dict(prefix[part])
    of_any = [node.get("items"), node.get("additionalProperties"), *node.get("patternProperties", {}).values()]
    return next((dict(child) for child in of_any if isinstance(child, dict)), {})
