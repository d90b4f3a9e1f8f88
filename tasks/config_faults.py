"""What is wrong with a configuration, in words: the key, what was found there, what is allowed, the key probably meant."""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line a fault: the key's dotted path, what was found, what is allowed, the key that was probably meant."""
    schema = model.model_json_schema()
    lines: dict[str, str] = {}  # a union reports one fault for each of its branches; one line is enough
    # Last what says most: YAML reads no, yes, on and off as true or false, and a defect type may well be called so.
    for fault in sorted(error.errors(), key=_is_unquoted):
        keys, at = _descend(schema, fault["loc"])
        path = ".".join(keys)
        if fault["type"] == "extra_forbidden":
            key = str(fault["loc"][-1])
            known = sorted(at.get("properties", {}))
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = (
                f"did you mean {'.'.join([*keys, near[0]])}?" if near else f"known keys: {', '.join(known)}"
            )
            lines[".".join([*keys, key])] = f"unknown key; {hint}"
        elif fault["type"] == "missing":
            lines[path] = f"missing; {at.get('description', 'a value is needed')}"
        elif not path:
            lines[path] = fault["msg"].removeprefix(
                "Value error, "
            )  # of several fields: it names them itself
        elif _is_unquoted(fault):
            lines[path] = (
                f"{fault['input']} is no text; YAML reads no, yes, on and off so: write it in quotes"
            )
        elif fault["type"] == "value_error" or not _allowed(at, schema):
            lines[path] = f"{_short(fault['input'])}: {fault['msg'].removeprefix('Value error, ')}"
        else:
            lines[path] = f"{_short(fault['input'])} is not allowed; allowed: {_allowed(at, schema)}"
    return [f"{path}: {text}" if path else text for path, text in lines.items()]


def _is_unquoted(fault: Mapping[str, Any]) -> bool:
    return fault["type"] == "string_type" and isinstance(fault["input"], bool)


def _descend(
    schema: Mapping[str, Any], location: tuple[str | int, ...]
) -> tuple[list[str], Mapping[str, Any]]:
    """Walk a JSON schema along a fault's location: the keys that exist there, and the schema at the last of them."""
    at: Mapping[str, Any] = schema
    keys: list[str] = []
    for part in location:
        inner = at.get("properties", {}).get(part)
        if inner is None:
            break  # an unknown key, an item's position or a union's branch
        keys.append(str(part))
        at = {**inner, **_follow(inner, schema)} if "$ref" in inner else inner
    return keys, at


def _follow(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a schema's $ref stands for."""
    name = schema["$ref"].rpartition("/")[2]
    return root["$defs"][name]


def _allowed(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """The values that a JSON schema takes, in words; empty if it says nothing."""
    if "anyOf" in schema:
        return " or ".join(text for branch in schema["anyOf"] if (text := _allowed(branch, root)))
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "$ref" in schema:
        return _allowed(_follow(schema, root), root)
    match schema.get("type"):
        case "integer" | "number" as kind:
            return _range("a whole number" if kind == "integer" else "a number", schema)
        case "array":
            items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
            return f"a list of {_length(schema)}{_allowed(items, root) or 'values'}"
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "string":
            return "a path" if schema.get("format") == "path" else f"{_length(schema)}text"
        case "object":
            return f"a mapping with keys {', '.join(sorted(schema.get('properties', {})))}"
    return ""


def _range(noun: str, schema: Mapping[str, Any]) -> str:
    """Bounds of a number in words."""
    bounds = []
    for key, text in (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
        ("multipleOf", "multiple of"),
    ):
        if key in schema:
            bounds.append(
                f"{text} {schema[key]:g}" if isinstance(schema[key], float) else f"{text} {schema[key]}"
            )
    return f"{noun}, {', '.join(bounds)}" if bounds else noun


def _length(schema: Mapping[str, Any]) -> str:
    """Bounds of a list's or text's length in words."""
    low, high = (
        schema.get("minItems", schema.get("minLength")),
        schema.get("maxItems", schema.get("maxLength")),
    )
    if low is not None and low == high:
        return f"{low} × "
    if low == 1 and high is None:
        return "at least one "
    return f"{low or 0} to {high} × " if high is not None else ""


def _short(value: object) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
