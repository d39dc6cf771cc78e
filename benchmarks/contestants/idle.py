"""Memory of a spec that does nothing, and of many calls in flight."""

from __future__ import annotations

import gc
from importlib import import_module

from msgspec import Struct

from benchmarks.contestant import Contestant, Sample, distributions
from benchmarks.contestants.filling import filled_in
from benchmarks.process import resident

__all__ = ["IdleSpec"]


class Thing(Struct):
    """A small model."""

    name: str


class IdleSpec(Contestant):
    """`setting["imports"]` are the modules that the configured backends need."""

    def versions(self) -> dict[str, str]:
        return distributions("specstar", *self.setting.get("distributions", ()))

    async def measure_idle(self, callers: int, seconds: float) -> Sample:
        """MiB that three models and all roles, opened and used once, add to the imports."""
        from specstar import SpecStar

        for name in self.setting["imports"]:
            import_module(name)
        gc.collect()
        before = resident()
        spec = SpecStar()
        models = [spec.add_model(Thing, name=f"thing{number}", indexed_fields=["name"]) for number in range(3)]
        spec.configure(backend=filled_in(self.setting["backend"], self.setting))
        async with spec:
            await spec.check()
            for model in models:
                info = await model.create(Thing("x"))
                await model.get(info.resource_id)
            await spec.blobs.put(b"x")
            gc.collect()
            after = resident()
        return {"value": max(0.0, after - before), "calls": 1}
