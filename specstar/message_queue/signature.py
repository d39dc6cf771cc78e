"""What a handler says of itself: async or plain, the type of its payload and of its result."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

from specstar.errors import InvalidInputError
from specstar.message_queue.job import Job

__all__ = ["Signature", "signature_of"]


class Signature(NamedTuple):
    """The name of a handler, the type of its job's payload (None: not said) and of its result, and whether it is async."""

    name: str
    payload_type: Any
    result_type: Any
    is_async: bool


def signature_of(handler: Any) -> Signature:
    """Read a handler `(job: Job[Payload]) -> Result`. Raises `InvalidInputError` if it cannot take a job."""
    target = handler
    while isinstance(target, functools.partial):
        target = target.func
    if not callable(target) or isinstance(target, type):
        raise InvalidInputError(f"a job handler is a function, not {handler!r}", field="handler")
    function = target if inspect.isroutine(target) else type(target).__call__
    name = str(getattr(target, "__name__", type(target).__name__))
    try:
        inspect.signature(handler).bind(None)
    except TypeError as error:
        message = f"the handler {name} must take one argument, the job: {error}"
        raise InvalidInputError(message, field="handler") from error
    except ValueError:
        return Signature(name, None, Any, False)  # a builtin without a signature
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidInputError(f"the handler {name} is a generator; a handler returns once", field="handler")
    hints = _hints(function)
    payload: Any = None
    for parameter in inspect.signature(handler).parameters.values():
        payload = _payload_of(hints.get(parameter.name))
        break
    return Signature(name, payload, hints.get("return", Any), inspect.iscoroutinefunction(function))


def _payload_of(hint: Any) -> Any:
    if typing.get_origin(hint) is Job:
        (payload,) = typing.get_args(hint)
        if not isinstance(payload, typing.TypeVar):
            return payload
    return None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError:
        # Postponed annotations that name local types: look where the handler was declared.
        try:
            return typing.get_type_hints(function, localns=_local_names())
        except (NameError, TypeError):
            return {}
    except TypeError:
        return {}


def _local_names() -> dict[str, Any]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] != "specstar":
            return dict(frame.f_locals)
        frame = frame.f_back
    return {}
