"""Decoding and resolving one full configuration: specstar against pydantic-settings doing the same job.

The job: read a JSON file with four connections and four bindings, take three values from the environment (by `${NAME}`
here, by nested variables there, which is its way), check every option against a typed model, fill in shared defaults,
merge each binding over its connection, and end with one typed object a role.
"""

from __future__ import annotations

import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from benchmarks.contestant import Contestant, Sample, distributions

__all__ = ["PydanticSettings", "Specstar"]

_BLOCK = 10

CONFIG: dict[str, Any] = {
    "version": 1,
    "defaults": {"table_prefix": "app_", "presigned_url_expiry": 900},
    "connections": {
        "local": {"type": "disk", "options": {"rootdir": "./data"}},
        "pg": {
            "type": "postgres",
            "options": {"dsn": "${CONFIG_SPEED__CONNECTIONS__pg__OPTIONS__dsn}", "pool_max_size": 10},
        },
        "files": {
            "type": "s3",
            "options": {
                "bucket": "files",
                "endpoint_url": "${CONFIG_SPEED__CONNECTIONS__files__OPTIONS__endpoint_url}",
                "access_key_id": "app",
                "secret_access_key": "${CONFIG_SPEED__CONNECTIONS__files__OPTIONS__secret_access_key}",
            },
        },
        "jobs": {"type": "simple", "options": {"max_retries": 3}},
    },
    "meta": {"use": "pg"},
    "resource": {"use": "local", "options": {"encoding": "msgpack"}},
    "blob": {"use": "files", "options": {"blob_prefix": "uploads/"}},
    "mq": {"use": "jobs"},
}
ENVIRON = {
    "CONFIG_SPEED__CONNECTIONS__pg__OPTIONS__dsn": "postgresql://app:secret@db:5432/app",
    "CONFIG_SPEED__CONNECTIONS__files__OPTIONS__endpoint_url": "http://127.0.0.1:9000",
    "CONFIG_SPEED__CONNECTIONS__files__OPTIONS__secret_access_key": "secret",
}


class _Resolving(Contestant):
    """Repeats one way of doing the job; microseconds each."""

    def start(self) -> None:
        os.environ.update(ENVIRON)
        path = Path(self.setting["folder"]) / "backend.json"
        path.write_text(json.dumps(CONFIG, indent=2))
        self._job = self.job(path)
        _check_same(_specstar(path)(), _pydantic_settings(path)())

    def job(self, path: Path) -> Callable[[], Any]:
        """What is repeated."""
        raise NotImplementedError

    async def measure_resolve(self, callers: int, seconds: float) -> Sample:
        """The median of many blocks."""
        taken: list[float] = []
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            started = time.perf_counter()
            for _ in range(_BLOCK):
                self._job()
            taken.append((time.perf_counter() - started) / _BLOCK)
        return {"value": statistics.median(taken) * 1e6, "calls": len(taken) * _BLOCK}


class Specstar(_Resolving):
    """`specstar.config.resolve_config` of the file."""

    def versions(self) -> dict[str, str]:
        return distributions("specstar", "msgspec")

    def job(self, path: Path) -> Callable[[], Any]:
        return _specstar(path)


class PydanticSettings(_Resolving):
    """A `BaseSettings` of the same models, built from the file."""

    def versions(self) -> dict[str, str]:
        return distributions("pydantic", "pydantic-settings")

    def job(self, path: Path) -> Callable[[], Any]:
        return _pydantic_settings(path)


def _specstar(path: Path) -> Callable[[], Any]:
    from specstar.config import resolve_config

    return lambda: resolve_config(path)


def _pydantic_settings(path: Path) -> Callable[[], Any]:
    """The same job as its users write it: a JSON file under environment variables, and a model for each type."""
    import msgspec
    from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
    from pydantic_settings import BaseSettings, JsonConfigSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

    from specstar.backends.registry import find_provider

    config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    models: dict[str, type[BaseModel]] = {}
    profiles: list[type[BaseModel]] = []
    for kind in ("disk", "postgres", "s3", "simple"):
        provider = find_provider(kind)
        assert provider is not None
        fields: dict[str, Any] = {}
        for field in msgspec.structs.fields(provider.options_type):
            base = field.type.__origin__ if hasattr(field.type, "__metadata__") else field.type
            fields[field.name] = (base, ... if field.required else _default_of(field))
        with warnings.catch_warnings(action="ignore"):
            models[kind] = create_model(f"{kind.title()}Options", __config__=config, **fields)
        profile: dict[str, Any] = {
            "type": (Literal[kind], ...),
            "options": (models[kind], ...),
            "enabled": (bool, True),
            "tags": (tuple[str, ...], ()),
        }
        profiles.append(create_model(f"{kind.title()}Profile", __config__=config, **profile))

    class Defaults(BaseModel):
        model_config = config
        encoding: Literal["json", "msgpack"] = "json"
        table_prefix: str = ""
        blob_prefix: str = "blobs/"
        upload_method: Literal["proxy", "single_put"] = "proxy"
        presigned_url_expiry: Annotated[int, Field(ge=1)] = 3600

    class Binding(BaseModel):
        model_config = config
        use: str | None = None
        type: str | None = None
        options: dict[str, Any] = {}
        required: bool = True

    class Settings(BaseSettings):
        model_config = SettingsConfigDict(
            json_file=path, env_prefix="CONFIG_SPEED__", env_nested_delimiter="__", extra="forbid"
        )
        version: Literal[1] = 1
        defaults: Defaults = Defaults()
        connections: dict[str, Annotated[Union[tuple(profiles)], Field(discriminator="type")]] = {}  # type: ignore[valid-type]  # noqa: UP007
        meta: Binding = Binding(type="memory")
        resource: Binding = Binding(type="memory")
        blob: Binding = Binding(type="memory")
        mq: Binding | None = None
        resolved: dict[str, Any] = {}

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            file = JsonConfigSettingsSource(settings_cls)
            return init_settings, env_settings, dotenv_settings, file_secret_settings, file

        @model_validator(mode="after")
        def resolve(self) -> Settings:
            for role in ("meta", "resource", "blob", "mq"):
                binding = getattr(self, role)
                connection: Any = self.connections[binding.use]
                model = models[connection.type]
                shared = self.defaults.model_dump(include=set(model.model_fields))
                given = connection.options.model_dump(exclude_unset=True)
                self.resolved[role] = model.model_validate({**shared, **given, **binding.options})
            return self

    return lambda: Settings().resolved


def _default_of(field: Any) -> Any:
    import msgspec

    return field.default_factory() if field.default is msgspec.NODEFAULT else field.default


def _check_same(ours: Any, theirs: Mapping[str, Any]) -> None:
    """Both have the same options in the end, or the comparison means nothing."""
    for bound in ours:
        other = theirs[bound.role].model_dump()
        for name in bound.options.__struct_fields__:
            assert getattr(bound.options, name) == other[name], (bound.role, name)
