"""What the rows say about a write whose answer was lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from specstar.backends.postgres.lost_answers import Applied, _judge
from specstar.errors import OutcomeUnknownError
from specstar.roles import Advance, MetaWrite, ResourceMeta, RevisionInfo

NOW = datetime(2024, 5, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
REVISION = RevisionInfo(resource_id="r", revision_id="v2", payload_id="p2", created_time=NOW, updated_time=NOW)


def write(version: int, revision: RevisionInfo | None, expected: int | None) -> MetaWrite:
    meta = ResourceMeta(resource_id="r", current_revision_id="v2", version=version, created_time=NOW, updated_time=NOW)
    return MetaWrite(meta, revision, expected)


ADVANCE = Advance(REVISION, {}, b"{}")
CREATE, UPDATE, TOUCH = write(1, REVISION, None), write(3, REVISION, 2), write(3, None, 2)
OURS = ("p2", NOW, "stable")
NONE = (None, None, None)


@pytest.mark.parametrize(
    ("change", "row", "outcome"),
    [
        pytest.param(CREATE, (None, None, None, *NONE), "absent", id="create: nothing there"),
        pytest.param(CREATE, (1, NOW, "v2", *OURS), "applied", id="create: ours"),
        pytest.param(CREATE, (4, LATER, "v9", *OURS), "applied", id="create: ours, changed since"),
        pytest.param(CREATE, (4, LATER, "v9", "p3", LATER, "draft"), "applied", id="create: ours, rewritten since"),
        pytest.param(CREATE, (1, LATER, "other", *NONE), "absent", id="create: another's"),
        pytest.param(UPDATE, (3, NOW, "v2", *OURS), "applied", id="update: ours"),
        pytest.param(UPDATE, (7, LATER, "v9", *OURS), "applied", id="update: ours, changed since"),
        pytest.param(UPDATE, (2, LATER, "v1", *NONE), "absent", id="update: still the old row"),
        pytest.param(UPDATE, (3, LATER, "v3", *NONE), "absent", id="update: another won"),
        pytest.param(UPDATE, (None, None, None, *NONE), "absent", id="update: erased"),
        pytest.param(UPDATE, (2, LATER, "v2", "p1", LATER, "draft"), "absent", id="rewrite: still the old draft"),
        pytest.param(UPDATE, (5, LATER, "v2", "p9", LATER, "draft"), "unknown", id="rewrite: rewritten since"),
        pytest.param(TOUCH, (3, NOW, "v2", *NONE), "applied", id="touch: ours"),
        pytest.param(TOUCH, (2, LATER, "v2", *NONE), "absent", id="touch: still the old row"),
        pytest.param(TOUCH, (3, LATER, "v2", *NONE), "unknown", id="touch: another's or overwritten"),
        pytest.param(ADVANCE, (None, None, None, *NONE), "absent", id="advance: erased"),
        pytest.param(ADVANCE, (2, NOW, "v1", *NONE), "absent", id="advance: still the old row"),
        pytest.param(ADVANCE, (3, LATER, "v3", *NONE), "absent", id="advance: another won"),
        pytest.param(ADVANCE, (3, NOW, "v2", *OURS), "applied", id="advance: ours"),
        pytest.param(ADVANCE, (7, LATER, "v9", *OURS), "applied", id="advance: ours, changed since"),
    ],
)
def test_judgement(change: MetaWrite | Advance, row: tuple[Any, ...], outcome: str) -> None:
    found = _judge(change, (1, *row))
    match outcome:
        case "applied":
            assert found == Applied(row[4])
        case "unknown":
            assert isinstance(found, OutcomeUnknownError)
        case _:
            assert found == outcome
