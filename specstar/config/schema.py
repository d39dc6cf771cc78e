"""The JSON Schema of configuration files, from the very structs that decode them.

It says all that one place of a file can say. What takes two places is checked only by loading: that `use` names an
enabled connection whose type has the role, that connection and binding together have the required options, that an
alias and its name agree. Wherever a scalar is expected, a string with a variable is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from specstar.config.structs import ROLES, BackendBinding, BackendConfig, BackendDefaults, ConnectionProfile

if TYPE_CHECKING:
    from specstar.backends.provider import BackendProvider

__all__ = ["config_schema"]

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE: Schema = {"$ref": "#/$defs/variable"}
_SCALARS = frozenset({"boolean", "integer", "number", "null"})
_STRING_LIMITS = frozenset({"minLength", "maxLength", "pattern", "format", "contentEncoding"})
_ANNOTATIONS = ("title", "description", "default", "examples", "deprecated")


def config_schema() -> Schema:
    """The schema for the backend types that are known now."""
    from specstar.backends.registry import find_provider, provider_types

    providers = [provider for name in provider_types() if (provider := find_provider(name)) is not None]
    structs = [BackendConfig, *(provider.options_type for provider in providers)]
    refs, components = msgspec.json.schema_components(structs, ref_template="#/$defs/{name}")
    own = {kind.__name__: components.pop(kind.__name__) for kind in (BackendConfig, BackendBinding, ConnectionProfile)}
    definitions: dict[str, Schema] = {
        "variable": {
            "description": "A string with a variable, such as ${NAME} or ${NAME:-default}.",
            "type": "string",
            "pattern": r"(^|[^$])(\$\$)*\$[A-Za-z_{]",
        }
    }
    for provider, ref in zip(providers, refs[1:], strict=True):
        name = ref["$ref"].rpartition("/")[2]
        partial = _with_aliases(provider, components[name])
        definitions[f"{provider.type}.options"] = partial
        definitions[f"{provider.type}.options.complete"] = _complete(provider)
    option_names = {ref["$ref"].rpartition("/")[2] for ref in refs[1:]}
    definitions |= {name: _loose(schema) for name, schema in components.items() if name not in option_names}
    definitions["ConnectionProfile"] = _connection(own["ConnectionProfile"], providers)
    for role in ROLES:
        having = [provider for provider in providers if role in provider.roles]
        definitions[f"binding.{role}"] = _binding(own["BackendBinding"], having)

    properties = {name: _loose(schema) for name, schema in own["BackendConfig"]["properties"].items()}
    for role in ROLES:
        ref = _ref(f"binding.{role}")
        described = {"description": own["BackendConfig"]["properties"][role]["description"]}
        properties[role] = described | ({"anyOf": [ref, {"type": "null"}]} if role == "mq" else ref)
    return {
        "$schema": _DIALECT,
        "title": "specstar configuration",
        "description": "Which backend keeps what. Keys that begin with x- are left to other tools.",
        "type": "object",
        "properties": {"$schema": {"type": "string"}, **properties},
        "patternProperties": {"^x-": True},
        "additionalProperties": False,
        "$defs": definitions,
    }


def _connection(schema: Schema, providers: list[BackendProvider[Any, Any]]) -> Schema:
    types = [provider.type for provider in providers]
    properties = {name: _loose(member) for name, member in schema["properties"].items()}
    properties["type"] = {"description": "Backend type.", "anyOf": [{"enum": types}, _VARIABLE]}
    return {
        **_annotations(schema),
        "type": "object",
        "properties": properties,
        "required": ["type"],
        "additionalProperties": False,
        "allOf": [_if_type(name, {"properties": {"options": _ref(f"{name}.options")}}) for name in types],
    }


def _binding(schema: Schema, providers: list[BackendProvider[Any, Any]]) -> Schema:
    types = [provider.type for provider in providers]
    properties = {name: _loose(member) for name, member in schema["properties"].items()}
    properties["type"] = {
        "description": "Backend type, for a backend without a connection.",
        "anyOf": [{"enum": types}, _VARIABLE, {"type": "null"}],
    }
    rules = []
    for provider in providers:
        then: Schema = {"properties": {"options": _ref(f"{provider.type}.options.complete")}}
        if _required(provider):
            then["required"] = ["options"]
        rules.append(_if_type(provider.type, then))
    partial = [_ref(f"{name}.options") for name in types]
    return {
        **_annotations(schema),
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "oneOf": [_is_string("use"), _is_string("type")],
        "allOf": [*rules, {"if": _is_string("use"), "then": {"properties": {"options": {"anyOf": partial}}}}],
    }


def _with_aliases(provider: BackendProvider[Any, Any], schema: Schema) -> Schema:
    """The options of a type without a demand for any, as a connection may have them."""
    required = schema.get("required", ())
    properties = {
        name: _loose(_filled(member) if name in required else member) for name, member in schema["properties"].items()
    }
    for alias, name in provider.aliases.items():
        properties[alias] = {**properties[name], "description": f"Another name of {name}."}
    return {**_annotations(schema), "type": "object", "properties": properties, "additionalProperties": False}


def _complete(provider: BackendProvider[Any, Any]) -> Schema:
    demands = []
    for name in _required(provider):
        names = [name, *(alias for alias, target in provider.aliases.items() if target == name)]
        demands.append({"anyOf": [{"required": [option]} for option in names]})
    return {"allOf": [_ref(f"{provider.type}.options"), *demands]}


def _required(provider: BackendProvider[Any, Any]) -> list[str]:
    filled = provider.apply_defaults({}, BackendDefaults())
    fields = msgspec.structs.fields(provider.options_type)
    return [field.encode_name for field in fields if field.required and field.encode_name not in filled]


def _filled(schema: Schema) -> Schema:
    """A required string that is empty or blank is refused."""
    if schema.get("type") != "string":
        return schema
    blank: Schema = {"pattern": r"\S"}
    return {**schema, "allOf": [blank]} if "pattern" in schema else {**schema, **blank}


def _loose(schema: Schema) -> Schema:
    """The same schema, taking a string with a variable wherever it wants a scalar."""
    kind = schema.get("type")
    if "anyOf" in schema:
        # Text that was written on one branch, as in `Annotated[str, Meta(...)] | None`, belongs to the whole.
        branches = schema["anyOf"]
        said = _annotations(next((branch for branch in branches if "description" in branch), {}))
        bare = [{name: value for name, value in branch.items() if name not in said} for branch in branches]
        return {**said, **schema, "anyOf": list(_flattened(map(_loose, bare)))}
    if kind == "array":
        inner: Schema = {}
        if isinstance(schema.get("items"), dict):
            inner["items"] = _loose(schema["items"])
        if "prefixItems" in schema:
            inner["prefixItems"] = [_loose(item) for item in schema["prefixItems"]]
        return {**schema, **inner}
    if kind == "object":
        inner = {}
        if "properties" in schema:
            inner["properties"] = {name: _loose(member) for name, member in schema["properties"].items()}
        if isinstance(schema.get("additionalProperties"), dict):
            inner["additionalProperties"] = _loose(schema["additionalProperties"])
        return {**schema, **inner}
    if kind == "string" and not _STRING_LIMITS & schema.keys():
        return schema
    if kind in _SCALARS or kind == "string" or "enum" in schema or "const" in schema:
        if kind == "null":
            return schema
        strict = {name: value for name, value in schema.items() if name not in _ANNOTATIONS}
        return {**_annotations(schema), "anyOf": [strict, _VARIABLE]}
    return schema


def _flattened(branches: Iterable[Schema]) -> Iterable[Schema]:
    """Alternatives of alternatives as one list, with one mention of the variable."""
    seen = False
    for branch in branches:
        inner = branch["anyOf"] if "anyOf" in branch and _VARIABLE in branch["anyOf"] else [branch]
        for member in inner:
            if member == _VARIABLE:
                if seen:
                    continue
                seen = True
            yield member


def _ref(name: str) -> Schema:
    from urllib.parse import quote

    return {"$ref": f"#/$defs/{quote(name.replace('~', '~0').replace('/', '~1'))}"}


def _if_type(name: str, then: Schema) -> Schema:
    return {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": then}


def _is_string(name: str) -> Schema:
    return {"properties": {name: {"type": "string"}}, "required": [name]}


def _annotations(schema: Schema) -> Schema:
    return {name: schema[name] for name in _ANNOTATIONS if name in schema}
