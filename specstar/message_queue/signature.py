"""What a handler says of itself: async or plain, the type of its payload and of its result."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Awaitable, Callable, Coroutine
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
    hints = _hints(function, name)
    payload: Any = None
    for parameter in inspect.signature(handler).parameters.values():
        payload = _payload_of(hints.get(parameter.name))
        break
    is_async, result = inspect.iscoroutinefunction(function), hints.get("return", Any)
    if not is_async and typing.get_origin(result) in {Awaitable, Coroutine}:
        result = typing.get_args(result)[-1]  # it is awaited
    return Signature(name, payload, result, is_async)


def _payload_of(hint: Any) -> Any:
    if typing.get_origin(hint) is Job:
        payload = typing.get_args(hint)[0]
        if not isinstance(payload, typing.TypeVar):
            return payload
    return None


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    """The annotations, each by itself: one that names what is there for type checkers alone must not hide the others.

    Raises `InvalidInputError` if one of an argument cannot be resolved. A result's is Any then.
    """
    try:
        return typing.get_type_hints(function)
    except NameError:
        pass
    except TypeError:
        return {}
    # Postponed annotations that name local types: look where the handler was declared.
    local = _local_names()
    found: dict[str, Any] = {}
    for argument, annotation in inspect.get_annotations(inspect.unwrap(function)).items():
        alone = type("_Alone", (), {"__annotations__": {argument: annotation}})
        try:
            found |= typing.get_type_hints(
                alone, globalns=getattr(inspect.unwrap(function), "__globals__", {}), localns=local
            )
        except NameError as error:
            if argument != "return":
                raise InvalidInputError(
                    f"the annotation of {argument!r} of the handler {name} cannot be resolved: {error}; types of payloads are "
                    "needed when the program runs, not for type checkers alone",
                    field="payload_type",
                ) from error
        except TypeError:
            continue
    return found


def _local_names() -> dict[str, Any]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] != "specstar":
            return dict(frame.f_locals)
        frame = frame.f_back
    return {}
