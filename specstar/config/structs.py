"""The public structs of a configuration. Their field names are those of the JSON files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args

from msgspec import Meta, Struct, field

from specstar.config.encoding import Encoding
from specstar.config.redaction import HIDDEN, Redacted

__all__ = ["ROLES", "BackendBinding", "BackendConfig", "BackendDefaults", "ConnectionProfile", "Role"]

Role: TypeAlias = Literal["meta", "resource", "blob", "mq"]
ROLES: tuple[Role, ...] = get_args(Role)
_OptionsText = "Options of the backend type."


class BackendDefaults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Defaults that the backends share; each uses those that concern it. An option given to a backend wins."""

    encoding: Annotated[Encoding, Meta(description="Format of stored payloads.")] = Encoding.json
    table_prefix: Annotated[str, Meta(description="Put before the names of PostgreSQL tables.")] = ""
    blob_prefix: Annotated[str, Meta(description="Put before the keys of S3 blobs.")] = "blobs/"
    upload_method: Annotated[
        Literal["proxy", "single_put"],
        Meta(description="How upload sessions take bytes: through the program, or by a presigned PUT of the client."),
    ] = "proxy"
    presigned_url_expiry: Annotated[
        int, Meta(ge=1, le=604_800, description="Seconds that presigned URLs are valid; S3 allows 7 days at most.")
    ] = 3600


class ConnectionProfile(Redacted, Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A backend with its options under a name, for several bindings to use.

    A disabled connection is still checked, but no binding may use it. `tags` are for people and tools; `show` prints
    them.
    """

    type: Annotated[str, Meta(min_length=1, description="Backend type.")]
    options: Annotated[dict[str, Any], Meta(description=_OptionsText)] = {}
    enabled: Annotated[bool, Meta(description="false: kept here, but no binding may use it.")] = True
    tags: Annotated[tuple[str, ...], Meta(description="Labels for people and tools; no effect.")] = ()

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return _shown(self)


class BackendBinding(Redacted, Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What fills one role: a named connection (`use`) or an inline backend (`type`), exactly one of them.

    Options given here win over those of the connection. `required=False` on `mq` leaves the role unbound if its
    connection is disabled; the other roles cannot be left out.
    """

    use: Annotated[str, Meta(min_length=1, description="Name of a connection.")] | None = None
    type: Annotated[str, Meta(min_length=1, description="Backend type, for a backend without a connection.")] | None = (
        None
    )
    options: Annotated[dict[str, Any], Meta(description=f"{_OptionsText} They win over those of the connection.")] = {}
    required: Annotated[
        bool, Meta(description="false, for mq only: leave the role unbound if its connection is disabled.")
    ] = True

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return _shown(self)


class BackendConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole configuration: defaults, named connections, and what fills the four roles.

    Nothing is checked here; `SpecStar.configure(backend=...)` and `resolve_config` check all of it. Strings are taken
    as they are: environment variables are expanded only in mappings and JSON files.
    """

    version: Annotated[Literal[1], Meta(description="Version of the format.")] = 1
    defaults: Annotated[BackendDefaults, Meta(description="Defaults that the backends share.")] = BackendDefaults()
    connections: Annotated[dict[str, ConnectionProfile], Meta(description="Backends with a name.")] = {}
    meta: Annotated[BackendBinding, Meta(description="Where metadata is kept.")] = field(
        default_factory=lambda: BackendBinding(type="memory")
    )
    resource: Annotated[BackendBinding, Meta(description="Where payloads of resources are kept.")] = field(
        default_factory=lambda: BackendBinding(type="memory")
    )
    blob: Annotated[BackendBinding, Meta(description="Where blobs are kept.")] = field(
        default_factory=lambda: BackendBinding(type="memory")
    )
    mq: Annotated[BackendBinding | None, Meta(description="Message queue; without it, there are no jobs.")] = None

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema (2020-12) of configuration files, with the options of every known backend type.

        Imports the options of all backend types, but no driver. Raises `ConfigError` if an installed package's
        backend type does not load.
        """
        from specstar.config.schema import config_schema

        return config_schema()


def _shown(struct: ConnectionProfile | BackendBinding) -> list[tuple[str, Any]]:
    """The fields for printing. Which options are secret is known only to the backend type: no value is shown."""
    options: Any = struct.options
    hidden: Any = dict.fromkeys(options, HIDDEN) if isinstance(options, Mapping) else HIDDEN
    return [(name, hidden if name == "options" else getattr(struct, name)) for name in struct.__struct_fields__]
