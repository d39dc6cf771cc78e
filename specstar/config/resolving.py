"""From a configuration to one provider with typed options for each role. Pure: opens nothing, imports no driver."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from specstar.config.decoding import FieldProblem, StructTable
from specstar.config.expansion import Expanded
from specstar.config.loading import UNUSABLE, ConfigSource, load
from specstar.config.problems import Problems, join, nearest, quoted
from specstar.config.redaction import secret_names
from specstar.config.resolved import Origin, ResolvedBackend, ResolvedConfig
from specstar.config.structs import ROLES, BackendBinding, BackendConfig, ConnectionProfile, Role
from specstar.config.structure import read_config
from specstar.errors import ConfigError

if TYPE_CHECKING:
    from specstar.backends.provider import BackendProvider

__all__ = ["resolve_config"]


def resolve_config(source: ConfigSource, *, environ: Mapping[str, str] | None = None) -> ResolvedConfig:
    """Check a configuration and find the backend of each role. Opens nothing.

    `source` is a `BackendConfig` (taken as it is), or a mapping or the path of a JSON file, whose strings are expanded
    from `environ` (default: `os.environ`). Raises `ConfigError` with every mistake found.
    """
    problems = Problems()
    loaded = load(source, os.environ if environ is None else environ, problems)
    config, given_defaults = read_config(loaded.tree, problems)
    resolver = _Resolver(config, given_defaults, problems)
    bound = resolver.bind_all()
    if problems or not {"meta", "resource", "blob"} <= bound.keys():
        raise problems.error(loaded.source)
    return ResolvedConfig(
        meta=bound["meta"],
        resource=bound["resource"],
        blob=bound["blob"],
        mq=bound.get("mq"),
        defaults=config.defaults,
        source=loaded.source,
    )


class _Backend(NamedTuple):
    """A provider and the table that decodes its options."""

    provider: BackendProvider[Any, Any]
    table: StructTable


class _Level(NamedTuple):
    """The options of a connection or a binding under their proper names, and the paths where they stand."""

    path: str
    options: dict[str, Any]
    written: dict[str, str]

    def where(self, name: str) -> str:
        return join(self.path, self.written.get(name, name))


class _Connection(NamedTuple):
    """A named connection on its way: its level, and what decoding it alone has given."""

    profile: ConnectionProfile
    backend: _Backend | None
    level: _Level


_tables: dict[BackendProvider[Any, Any], StructTable] = {}


def _backend_of(provider: BackendProvider[Any, Any]) -> _Backend:
    table = _tables.get(provider)
    if table is None:
        kind = provider.options_type
        table = _tables[provider] = StructTable(kind, aliases=provider.aliases, secrets=secret_names(kind))
    return _Backend(provider, table)


class _Resolver:
    def __init__(self, config: BackendConfig, given_defaults: frozenset[str], problems: Problems) -> None:
        from specstar.backends import registry

        self._registry = registry
        self._config = config
        self._given_defaults = given_defaults
        self._problems = problems
        self._backends: dict[str, _Backend] = {}
        self._types: list[str] | None = None
        self._connections: dict[str, _Connection] = {}
        self._decoded: dict[str, Any] = {}
        self._completed: set[str] = set()

    def bind_all(self) -> dict[Role, ResolvedBackend]:
        """The bound roles. Every connection and every binding is checked, used or not."""
        for name, profile in self._config.connections.items():
            path = join("connections", name)
            backend = self._backend(profile.type, join(path, "type"))
            level = self._level(f"{path}.options", profile.options, backend)
            self._connections[name] = _Connection(profile, backend, level)
        bound: dict[Role, ResolvedBackend] = {}
        for role in ROLES:
            binding: BackendBinding | None = getattr(self._config, role)
            if binding is not None:
                resolved = self._bind(role, binding)
                if resolved is not None:
                    bound[role] = resolved
        for name, connection in self._connections.items():
            if name not in self._completed:
                self._check_unused(name, connection)
        return bound

    def _bind(self, role: Role, binding: BackendBinding) -> ResolvedBackend | None:
        problems = self._problems
        if binding.use is not None and binding.type is not None:
            problems.add(role, '"use" and "type" together; give the name of a connection, or an inline backend type')
            return None
        if binding.use is None:
            if binding.type is None:
                problems.add(role, 'needs "use" (the name of a connection) or "type" (an inline backend type)')
                return None
            backend = self._backend(binding.type, f"{role}.type")
            level = self._level(f"{role}.options", binding.options, backend)
            if backend is None or not self._has_role(role, backend, level, f"{role}.type"):
                return None
            return self._resolve(role, backend, level, None, None)
        if binding.use is UNUSABLE:
            return None
        connection = self._connections.get(binding.use)
        if connection is None:
            self._unknown_connection(role, binding.use)
            return None
        backend = connection.backend
        level = self._level(f"{role}.options", binding.options, backend)
        if backend is None or not self._has_role(role, backend, level, f"{role}.use"):
            return None
        if not connection.profile.enabled:
            if role != "mq" or binding.required:
                hint = ", or bind the role with required: false" if role == "mq" else ""
                problems.add(f"{role}.use", f"connection {quoted(binding.use)} is disabled; enable it{hint}")
            self._check_given(backend, level)
            return None
        return self._resolve(role, backend, level, connection, str(binding.use))

    def _resolve(
        self, role: Role, backend: _Backend, level: _Level, connection: _Connection | None, use: str | None
    ) -> ResolvedBackend | None:
        shared = use is not None and not level.options
        options = self._decoded.get(use) if shared and use is not None else None
        under = connection.level if connection is not None else None
        if options is None:
            options = self._decode(backend, level, under)
            if options is None:
                return None
            if use is not None and under is not None:
                if under.options.keys().isdisjoint(level.options):
                    self._completed.add(use)
                if shared:
                    self._decoded[use] = options
        found = self._refused(backend, options, role, level, under)
        for path, reason in found:
            self._problems.add(path, reason)
        if found:
            return None
        try:
            pinned = backend.provider.pinned(options)
        except Exception as error:
            self._problems.add((under or level).path, self._failed(backend, error))
            return None
        return ResolvedBackend(
            role=role,
            type=backend.provider.type,
            provider=backend.provider,
            options=options,
            pinned=pinned,
            connection=use,
            tags=connection.profile.tags if connection is not None else (),
            origins=self._origins(backend, level, under),
        )

    def _decode(self, backend: _Backend, level: _Level, under: _Level | None) -> Any:
        merged = {**under.options, **level.options} if under is not None else dict(level.options)
        try:
            filled = backend.provider.apply_defaults(dict(merged), self._config.defaults)
        except Exception as error:
            self._problems.add((under or level).path, self._failed(backend, error))
            return None
        decoded = backend.table.decode(filled)
        for name, reason, suggestion, below in decoded.problems:
            self._problems.add(self._where(name, level, under) + below, reason, suggestion)
        return decoded.value

    def _refused(
        self, backend: _Backend, options: Any, role: Role, level: _Level, under: _Level | None
    ) -> list[tuple[str, str]]:
        try:
            found = backend.provider.validate(options, role)
        except Exception as error:
            return [(level.path, self._failed(backend, error))]
        values = {**(under.options if under is not None else {}), **level.options}
        table = backend.table
        return [(self._where(name, level, under), table.without_secrets(reason, values)) for name, reason in found]

    def _failed(self, backend: _Backend, error: Exception) -> str:
        # The text of the error is foreign and may quote a secret; its type is enough to find the check.
        return f"the check of backend type {backend.provider.type!r} failed with {type(error).__name__}"

    def _where(self, name: str, level: _Level, under: _Level | None) -> str:
        """The path to blame for an option: where it stands, else the defaults that set it, else where it belongs."""
        if name in level.options:
            return level.where(name)
        if under is not None and name in under.options:
            return under.where(name)
        if name in self._given_defaults:
            return f"defaults.{name}"
        home = under if under is not None else level
        return home.where(name) if name else home.path

    def _origins(self, backend: _Backend, level: _Level, under: _Level | None) -> dict[str, Origin]:
        attributes = backend.table.attributes
        origins: dict[str, Origin] = {}
        for name in self._given_defaults:
            if name in attributes:
                origins[attributes[name]] = "defaults"
        if under is not None:
            for name in under.options:
                origins[attributes[name]] = "connection"
        for name in level.options:
            origins[attributes[name]] = "given"
        return origins

    def _check_unused(self, name: str, connection: _Connection) -> None:
        """A connection whose options no binding has decoded as they stand: not used, disabled, or overridden."""
        backend, level = connection.backend, connection.level
        if backend is None:
            return
        used = any(
            binding is not None and binding.use == name for binding in (getattr(self._config, role) for role in ROLES)
        )
        if used or not connection.profile.enabled:
            # What is missing may come from the bindings.
            self._check_given(backend, level)
            return
        options = self._decode(backend, level, None)
        if options is None:
            return
        refusals = [
            self._refused(backend, options, role, level, None) for role in ROLES if role in backend.provider.roles
        ]
        for path, reason in refusals[0] if refusals else ():
            if all((path, reason) in other for other in refusals):
                self._problems.add(path, reason)

    def _level(self, path: str, options: dict[str, Any], backend: _Backend | None) -> _Level:
        """The options under their proper names. An alias beside its name must have the same value."""
        aliases = backend.table.aliases if backend is not None else {}
        if backend is None or aliases.keys().isdisjoint(options):
            return _Level(path, options, {})
        named: dict[str, Any] = {}
        written: dict[str, str] = {}
        for key, value in options.items():
            name = aliases.get(key, key)
            if name in named and not _same(backend.table, name, named[name], value):
                self._problems.add(
                    join(path, key),
                    f"{quoted(written[name])} has another value, and both name one option; give one of them",
                )
                continue
            if name not in named:
                named[name] = value
                written[name] = key
        return _Level(path, named, written)

    def _backend(self, type_name: str, path: str) -> _Backend | None:
        if type_name is UNUSABLE:
            return None
        known_already = self._backends.get(type_name)
        if known_already is not None:
            return known_already
        provider = None
        if self._types is None or type_name in self._types:
            try:
                provider = self._registry.find_provider(str(type_name))
            except ConfigError as error:
                self._problems.extend(path, error.problems)
                return None
        if provider is None:
            types = self._known_types()
            near = nearest(type_name, types)
            known = "" if near else f"; known: {', '.join(types)}"
            self._problems.add(path, f"unknown backend type {quoted(type_name)}{known}", near)
            return None
        self._backends[type_name] = backend = _backend_of(provider)
        return backend

    def _known_types(self) -> list[str]:
        """Listing them reads the metadata of all installed packages: done once, and only for a mistake."""
        if self._types is None:
            self._types = self._registry.provider_types()
        return self._types

    def _check_given(self, backend: _Backend, level: _Level) -> None:
        """Names and types of the options that are given, for a level that is not decoded as a whole."""
        for name, reason, suggestion, below in backend.table.check_fields(level.options):
            self._problems.add(level.where(name) + below, reason, suggestion)

    def _has_role(self, role: Role, backend: _Backend, level: _Level, path: str) -> bool:
        provider = backend.provider
        if role in provider.roles:
            return True
        has = ", ".join(known for known in ROLES if known in provider.roles)
        self._problems.add(path, f"backend type {provider.type!r} has no role {role!r}; it has: {has}")
        self._check_given(backend, level)
        return False

    def _unknown_connection(self, role: Role, use: str) -> None:
        names = self._connections
        near = nearest(use, names)
        if near is not None:
            known = ""
        elif names:
            known = f"; known: {', '.join(quoted(name) for name in names)}"
        else:
            known = "; there are none"
        if not isinstance(use, Expanded) and use in self._known_types():
            known += f'; for an inline backend write "type": "{use}"'
        self._problems.add(f"{role}.use", f"unknown connection {quoted(use)}{known}", near)


def _same(table: StructTable, name: str, first: Any, second: Any) -> bool:
    """Whether an alias and its name agree, after coercion of what came from the environment."""
    if first is UNUSABLE or second is UNUSABLE:
        return True
    if type(first) is not type(second) and Expanded in (type(first), type(second)) and name in table.types:
        try:
            first, second = table.decode_field(name, first), table.decode_field(name, second)
        except FieldProblem:
            return False
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)
