"""`specstar show`: what a configuration comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from specstar.config import ResolvedBackend, ResolvedConfig

__all__ = ["show"]

_ORIGINS = {"given": "binding", "connection": "connection", "defaults": "defaults", "default": ""}


def show(
    file: str,
    /,
    *,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show what each role resolves to: backend, connection, and options with where they were set. Opens nothing.

    Secrets are shown as ***. An option without an origin has the default of its backend.

    Parameters
    ----------
    file
        Path of a JSON configuration.
    json
        Print JSON.
    """
    from specstar.cli.output import print_json, print_table, print_text
    from specstar.config import resolve_config

    resolved = resolve_config(file)
    if json:
        roles = {bound.role: _plain(bound) for bound in resolved}
        print_json({"file": file, "roles": {"mq": None, **roles}, "warnings": resolved.warnings(in_use=True)})
        return 0
    for number, bounds in enumerate(_alike(resolved)):
        bound = bounds[0]
        if number:
            print_text("")
        title = f"{', '.join(each.role for each in bounds)}: {bound.type}"
        if bound.connection is not None:
            title += f" (connection {bound.connection!r}{', tags ' + ', '.join(bound.tags) if bound.tags else ''})"
        rows = [(name, _text(value), _ORIGINS[bound.origin_of(name)]) for name, value in bound.shown_options().items()]
        print_table(("option", "value", "set in"), rows, title=title)
    if resolved.mq is None:
        print_text("\nmq: not bound, so there are no jobs")
    for warning in resolved.warnings(in_use=True):
        print_text(f"\nwarning: {warning}")
    return 0


def _alike(resolved: ResolvedConfig) -> list[list[ResolvedBackend]]:
    """Roles that share one connection with the same options, together."""
    groups: list[list[ResolvedBackend]] = []
    for bound in resolved:
        for group in groups:
            first = group[0]
            same_place = (first.type, first.connection, first.origins) == (bound.type, bound.connection, bound.origins)
            if same_place and first.options == bound.options:
                group.append(bound)
                break
        else:
            groups.append([bound])
    return groups


def _plain(bound: ResolvedBackend) -> dict[str, Any]:
    options = {name: {"value": value, "origin": bound.origin_of(name)} for name, value in bound.shown_options().items()}
    return {"type": bound.type, "connection": bound.connection, "tags": list(bound.tags), "options": options}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value if value.strip() == value != "" else repr(value)
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
