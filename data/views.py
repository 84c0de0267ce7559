"""The views people ask: one per table of the contract, and seven that join them.

Reads manifests and names files; runs nothing. A table's view covers every slice, with the columns `slice` and `label` beside; a
slice whose files a newer slice of the same label names again is left out, so that appended pools count once. `reward_table` and
its kin take, for each pool label, the newest samples slice, and for each component label the newest rewards slice made from it.
Refuses a joined view that has no data yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from data import leaderboard
from data.contract import TABLES, Column, Table
from data.human import views as human
from data.lake import Lake
from data.manifest import Slice
from data.refusal import Refusal
from data.relations import (
    Definition,
    Pool,
    View,
    asked_sql,
    component_labels,
    current,
    files_sql,
    hex_sql,
    journal_files,
    literal,
    pools,
    quoted,
)

DEMO = "python -m factory recipe=demo"
SLICE_COLUMNS = (
    Column("slice", pa.string(), "name of the slice (its folder); 'journal' for journal tables"),
    Column("label", pa.string(), "the slice's label: a pool, a component, a recipe; null for journal tables"),
)


_POOL = Column("pool", pa.string(), "label of the samples slice")
_GROUP = Column("group_id", pa.string(), "the group, as 16 hex digits")
_INDEX = Column("sample_index", pa.uint8(), "0 to G−1 within the group")
_PROMPT = Column("prompt", pa.string(), "text of the prompt's last user message")
_TEXT = Column("text", pa.string(), "the sample, without special tokens")

VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        View(
            "reward_table",
            "sample, of the newest slice of each pool",
            (
                _POOL,
                _GROUP,
                _INDEX,
                Column("prompt_id", pa.string(), "the prompt, as 16 hex digits"),
                Column("split", pa.string(), "the prompt's split"),
                Column("topic", pa.string(), "the prompt's topic"),
                _PROMPT,
                _TEXT,
                Column("finish_reason", pa.string(), "stop, length, or null where unknown"),
                Column("n_tokens", pa.int32(), "length of the sample", unit="tokens"),
                Column("origin", pa.string(), "student, mixed, teacher or imported"),
                Column("round", pa.int16(), "0 for the initial student's pool"),
                Column(
                    "slice",
                    pa.string(),
                    "name of the samples slice: joins the pool's own rows of `samples` and no others",
                ),
            ),
            "one column a component label: its value, null where the sample is not scored or not valid",
        ),
        View(
            "group_table",
            "group",
            (_POOL, _GROUP, _PROMPT, Column("n", pa.int64(), "samples in the group")),
            "for each component label X: X_mean, X_std (population), X_min, X_max, X_zero_variance",
        ),
        View(
            "best_of_n",
            "group × component: the sample of highest value (the lowest sample_index among equals)",
            (
                _POOL,
                Column("component", pa.string(), "component label"),
                _GROUP,
                _INDEX,
                Column("value", pa.float64(), "the component's value"),
                _PROMPT,
                _TEXT,
            ),
        ),
        leaderboard.LEADERBOARD,
        leaderboard.DIFFERENCES,
        View(
            "run_curves",
            "run × step × name",
            (
                *(c for c in TABLES["metrics"].columns),
                Column("recipe", pa.string(), "recipe of the run; null until its row in runs is written"),
                Column("status", pa.string(), "status of the run; null until its row in runs is written"),
            ),
        ),
        View(
            "cost_table",
            "stage × recipe",
            (
                Column("stage", pa.string(), "the factory's stage, or training"),
                Column("recipe", pa.string(), "recipe it ran for"),
                Column("calls", pa.int64(), "rows of costs"),
                Column("items", pa.int64(), "rows made"),
                Column("tokens_in", pa.int64(), "tokens read by models", unit="tokens"),
                Column("tokens_out", pa.int64(), "tokens written or scored", unit="tokens"),
                Column("seconds", pa.float64(), "wall time", unit="s"),
                Column("tokens_per_second", pa.float64(), "tokens in and out over seconds", unit="tokens/s"),
                Column("money", pa.float64(), "API price; null: nothing billed", unit="USD"),
            ),
        ),
        human.WIN_RATES,
        human.RATER_AGREEMENT,
    )
}


def define(lake: Lake, name: str) -> Definition:
    """The definition of one table's view or joined view over what the lake holds now."""
    return _JOINED[name](lake) if name in _JOINED else _table_view(lake, TABLES[name])


def _table_view(lake: Lake, table: Table) -> Definition:
    names = ", ".join(asked_sql(c, "p") for c in table.columns)
    if table.journal:
        files = journal_files(lake, table.name)
        return Definition(
            f"SELECT {names}, 'journal' AS slice, NULL::VARCHAR AS label FROM {files_sql(table, files)} p", files
        )
    slices = current(lake.slices(table.name))
    files = tuple(dict.fromkeys(file for slice_ in slices for file in slice_.paths))
    return Definition(f"SELECT {names}, m.slice, m.label FROM {files_sql(table, files)} p {_naming(slices)}", files)


def _naming(slices: Sequence[Slice]) -> str:
    """Joins file names with the slices that name them: far quicker to bind than a branch a slice."""
    rows = [(str(file), s.name, s.label) for s in slices for file in s.paths] or [("", "", "")]
    values = ", ".join("(" + ", ".join(map(literal, row)) + ")" for row in rows)
    return f"JOIN (VALUES {values}) m(filename, slice, label) USING (filename)"


def _reward_table(lake: Lake) -> Definition:
    found = pools(lake)
    if not found:
        raise Refusal(f"no pool yet in {lake.uri}: reward_table, group_table and best_of_n need samples", DEMO)
    labels = sorted({label for pool in found.values() for label in pool.rewards})
    fixed = {c.name for c in VIEWS["reward_table"].columns}
    if taken := sorted(fixed & set(labels)):
        raise Refusal(f"component label {taken[0]} is a column of reward_table already", "rename it in the recipe")
    files: list[Path] = []
    parts = [_pool_sql(label, pool, labels, files) for label, pool in found.items()]
    return Definition("\nUNION ALL\n".join(parts), tuple(dict.fromkeys(files)))


def _pool_sql(name: str, pool: Pool, labels: Sequence[str], files: list[Path]) -> str:
    """One pool's rows of reward_table. Ordinary joins by key: what filters a view may drop rows, and positions would slip."""

    def source(slice_: Slice | None, table: str) -> str:
        files.extend(slice_.paths if slice_ else [])
        return files_sql(TABLES[table], slice_.paths if slice_ else [])

    columns, joins = [], []
    for number, label in enumerate(labels):
        if label not in pool.rewards:
            columns.append(f"NULL::DOUBLE AS {quoted(label)}")
            continue
        columns.append(f"CASE WHEN c{number}.valid THEN c{number}.value END AS {quoted(label)}")
        joins.append(
            f"LEFT JOIN {source(pool.rewards[label], 'rewards')} c{number} "
            f"ON c{number}.group_id = s.group_id AND c{number}.sample_index = s.sample_index"
        )
    own = (
        f"SELECT {literal(name)} AS pool, {hex_sql('s.group_id')} AS group_id, s.sample_index, "
        f"{hex_sql('g.prompt_id')} AS prompt_id, p.split, p.topic, {LAST_USER} AS prompt, "
        f"s.text, s.finish_reason, s.n_tokens, s.origin, s.round, {literal(pool.samples.name)} AS slice"
    )
    return "\n".join(
        [
            ", ".join([own, *columns]),
            f"FROM {source(pool.samples, 'samples')} s",
            f"LEFT JOIN {source(pool.groups, 'groups')} g ON g.group_id = s.group_id",
            f"LEFT JOIN {source(pool.prompts, 'prompts')} p ON p.prompt_id = g.prompt_id",
            *joins,
        ]
    )


LAST_USER = "list_filter(p.messages, lambda m: m.role = 'user')[-1].content"


def _group_table(lake: Lake) -> Definition:
    columns = ["pool", "group_id", "any_value(prompt) AS prompt", "count(*) AS n"]
    for label in component_labels(lake):
        x = quoted(label)
        for suffix, sql in (
            ("mean", f"avg({x})"),
            ("std", f"stddev_pop({x})"),
            ("min", f"min({x})"),
            ("max", f"max({x})"),
            ("zero_variance", f"max({x}) = min({x})"),
        ):
            columns.append(f"{sql} AS {quoted(f'{label}_{suffix}')}")
    return Definition(f"SELECT {', '.join(columns)} FROM reward_table GROUP BY pool, group_id", needs=("reward_table",))


def _best_of_n(lake: Lake) -> Definition:
    labels = component_labels(lake)
    if pools(lake) and not labels:
        raise Refusal("best_of_n has no data yet: no pool has a component", f"{DEMO} 'stages=[rewards]'")
    tall = f"UNPIVOT reward_table ON {', '.join(map(quoted, labels))} INTO NAME component VALUE value" if labels else ""
    return Definition(
        f"SELECT pool, component, group_id, sample_index, value, prompt, text FROM ({tall}) QUALIFY row_number() OVER "
        "(PARTITION BY pool, component, group_id ORDER BY value DESC, sample_index) = 1",
        needs=("reward_table",),
    )


def _run_curves(lake: Lake) -> Definition:
    if not journal_files(lake, "metrics"):
        raise Refusal("run_curves has no data yet: no run has written metrics", "python -m trainer recipe=demo")
    return Definition(
        "SELECT m.run, m.step, m.name, m.value, r.recipe, r.status FROM metrics m LEFT JOIN "
        "(SELECT * FROM runs QUALIFY row_number() OVER (PARTITION BY run ORDER BY created_at DESC) = 1) r "
        "ON r.run = m.run",
        needs=("metrics", "runs"),
    )


def _cost_table(lake: Lake) -> Definition:
    if not journal_files(lake, "costs"):
        raise Refusal("cost_table has no data yet: no stage has booked a cost", DEMO)
    return Definition(
        "SELECT stage, recipe, count(*) AS calls, sum(items)::BIGINT AS items, sum(tokens_in)::BIGINT AS tokens_in, "
        "sum(tokens_out)::BIGINT AS tokens_out, sum(seconds) AS seconds, "
        "CASE WHEN sum(seconds) > 0 AND coalesce(sum(tokens_in), sum(tokens_out)) IS NOT NULL "
        "THEN (coalesce(sum(tokens_in), 0) + coalesce(sum(tokens_out), 0)) / sum(seconds) END AS tokens_per_second, "
        "sum(money) AS money FROM costs GROUP BY stage, recipe",
        needs=("costs",),
    )


_JOINED: dict[str, Callable[[Lake], Definition]] = {
    "reward_table": _reward_table,
    "group_table": _group_table,
    "best_of_n": _best_of_n,
    "leaderboard": leaderboard.leaderboard,
    "differences": leaderboard.differences,
    "run_curves": _run_curves,
    "cost_table": _cost_table,
    "win_rates": human.win_rates,
    "rater_agreement": human.rater_agreement,
}
