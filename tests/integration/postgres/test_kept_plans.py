"""A plan is kept while its table grows: even one made for ten rows looks up by the index what it is given keys of."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest

from specstar.backends.postgres.names import TableNames
from specstar.backends.postgres.statements import SearchSql, meta_sql, payload_sql
from specstar.query import POSTGRES, QB, IndexedField, PostgresBatch, build_query, compile_query
from specstar.roles import PayloadKey
from tests.integration.postgres.rig import Rig, admin, ids, new

FIELDS = (IndexedField("age", frozenset({"number"})), IndexedField("name", frozenset({"string"})))
NAMES = TableNames.of(prefix="", schema="", model="User")
# These begin with no key of their table: they write new rows, or collect garbage.
UNKEYED = {"create", "referenced", "references", "put", "sizes", "delete", "page"}


def searches() -> dict[str, str]:
    sql, found = SearchSql(NAMES), {}
    for name, condition in {
        "number": QB["age"] == 1,
        "text": QB["name"] == "x",
        "long": QB["name"] == "x" * 300,
    }.items():
        query, batch = build_query(condition, fields=FIELDS, limit=20), PostgresBatch()
        found[f"search {name}"] = sql.search_full_found(
            compile_query(query, FIELDS, POSTGRES, alias="m", first_param=2)
        )
        compiled = compile_query(query, FIELDS, batch, alias="m")
        found[f"search each {name}"] = sql.search_full_each(compiled, batch.types)
    return found


STATEMENTS = {
    **{name: sql for name, sql in asdict(meta_sql(NAMES)).items() if name not in UNKEYED},
    **{f"payload {name}": sql for name, sql in asdict(payload_sql(NAMES)).items() if name not in UNKEYED},
    **searches(),
}


@pytest.mark.parametrize("analyzed", [False, True], ids=["fresh", "analyzed"])
async def test_a_plan_made_for_few_rows_reads_no_whole_table(rig: Rig, postgres_database: str, analyzed: bool) -> None:
    storage = rig.storage(fields=FIELDS)
    for number, resource_id in enumerate(ids("r", 10)):
        await storage.write(new(resource_id, age=number, name=f"x{number}"))
        await rig.resource().put(PayloadKey(resource_id, "p"), b"{}")
    async with admin(postgres_database) as connection:
        if analyzed:
            for table in (NAMES.meta, NAMES.revision, NAMES.payload):
                await connection.execute(f"VACUUM ANALYZE {table}")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        for name, sql in STATEMENTS.items():
            await connection.execute(f"PREPARE kept AS {sql}")
            nothing = ", ".join(["NULL"] * len(set(re.findall(r"\$\d+", sql))))
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE kept({nothing})"))
            assert "Seq Scan" not in plan, f"{name}\n{plan}"
            assert "Index" in plan, f"{name}\n{plan}"
            await connection.execute("DEALLOCATE kept")
