"""Finding the SpecStar object that `MODULE:NAME` means."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specstar.cli.output import described
from specstar.errors import UsageError

if TYPE_CHECKING:
    from specstar import SpecStar

__all__ = ["load_spec"]


def load_spec(target: str) -> SpecStar:
    """Import the object of `package.module:name`, with the working directory first on the path.

    Of a blocking one it is the asynchronous one inside. Raises `UsageError` if the module cannot be imported or the object is
    no SpecStar.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise UsageError(f"expected MODULE:NAME, such as app.jobs:spec, not {target!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found: Any = _imported(module_name)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UsageError(f"module {module_name!r} has no {name!r}") from None
    from specstar import SpecStar

    blocking = sys.modules.get("specstar.sync")
    if blocking is not None and isinstance(found, blocking.SpecStar):
        found = found._inner
    if not isinstance(found, SpecStar):
        raise UsageError(f"{target} is a {type(found).__module__}.{type(found).__name__}, not a SpecStar")
    return found


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(f"there is no module {name!r} in {Path.cwd()} or on the path") from error
        raise UsageError(f"importing {name!r} failed: {described(error)}") from error
    except Exception as error:
        raise UsageError(f"importing {name!r} failed: {described(error)}") from error
