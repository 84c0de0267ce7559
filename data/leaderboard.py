"""The views `leaderboard` and `differences`: every policy's figures with intervals, and which differences are more than chance.

Figures are those of the newest evaluation of each policy and benchmark of a recipe, means by SQL and whole-set measures as
`intervals` holds them; an interval counts only while the evaluations that it was made from are the newest. Beside them stand each
run's last probe and, for benchmarks that the lake holds evaluations of, published figures (published.json): marked as such, without
intervals, and never compared. Refuses a lake without evaluations and runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pyarrow as pa

from data.columns import Column
from data.lake import Lake
from data.measures import LOWER_IS_BETTER, MEASURES, NEITHER
from data.refusal import Refusal
from data.relations import Definition, View, journal_files, literal

COMMAND = "python -m factory recipe=demo 'stages=[evaluate]'"
PUBLISHED = Path(__file__).parent / "published.json"

LEADERBOARD = View(
    "leaderboard",
    "policy × benchmark × metric of a recipe",
    (
        Column("policy", pa.string(), "student, teacher, a run's name, or the name of a published model"),
        Column("benchmark", pa.string(), "benchmark; 'probe' for a run's probe"),
        Column("metric", pa.string(), "exact, …; whole-set measures (bits_per_byte) in place of their parts"),
        Column("value", pa.float64(), "mean over items, or the whole-set measure; null: the set has none"),
        Column("low", pa.float64(), "lower end of the 95 % bootstrap interval; null: none is known, or nothing varies"),
        Column(
            "high", pa.float64(), "upper end of the 95 % bootstrap interval; null: none is known, or nothing varies"
        ),
        Column("n", pa.int64(), "items that have a value; null for a probe and for published figures"),
        Column(
            "rank",
            pa.int64(),
            "1: the best of its recipe, benchmark, metric and source (the lowest bits_per_byte, foreign_words, repetition, "
            "truncated; the highest of others); null: published, no value, neither good nor bad (kl, length, n_tokens, …_radius)",
        ),
        Column(
            "source",
            pa.string(),
            "evaluation, probe (the run's last), or published: not measured here, do not compare blindly",
        ),
        Column("step", pa.int32(), "the probe's step; else null"),
        Column(
            "recipe", pa.string(), "recipe that it was measured for; null: a probe of an unpublished run, or published"
        ),
        Column("origin", pa.string(), "of a published figure: what was run, and where it stands; else null"),
    ),
)
DIFFERENCES = View(
    "differences",
    "policy × other policy × benchmark × metric of a recipe, both ways round",
    (
        Column("policy", pa.string(), "student, teacher, or a run's name"),
        Column("against", pa.string(), "the policy it is compared with"),
        Column("benchmark", pa.string(), "benchmark"),
        Column("metric", pa.string(), "as in leaderboard"),
        Column(
            "difference", pa.float64(), "policy's figure minus against's, over the items that both have a value for"
        ),
        Column(
            "low",
            pa.float64(),
            "lower end of its 95 % paired bootstrap interval; null: under two items, or nothing varies",
        ),
        Column(
            "high",
            pa.float64(),
            "upper end of its 95 % paired bootstrap interval; null: under two items, or nothing varies",
        ),
        Column("n", pa.int64(), "items that both have a value for"),
        Column("p", pa.float64(), "two-sided: twice the share of draws on the other side of 0; of this pair alone"),
        Column("recipe", pa.string(), "recipe that both were measured for"),
    ),
)


def leaderboard(lake: Lake) -> Definition:
    """The leaderboard over what the lake holds."""
    if not lake.slices("evaluations") and not journal_files(lake, "metrics"):
        raise Refusal("leaderboard has no data yet: no evaluation and no run", COMMAND)
    sql = _newest(lake) + _LEADERBOARD.format(
        whole=_values([(name, list(m.needs)) for name, m in MEASURES.items()]),
        published=_values(list(published())),
        lower=", ".join(map(literal, sorted(LOWER_IS_BETTER))),
        neither=", ".join(map(literal, sorted(NEITHER))),
    )
    return Definition(sql, needs=("evaluations", "intervals", "metrics", "runs"))


def differences(lake: Lake) -> Definition:
    """Paired differences between the policies of each recipe."""
    if not lake.slices("intervals"):
        raise Refusal("differences has no data yet: no benchmark has intervals", COMMAND)
    return Definition(_newest(lake) + _DIFFERENCES, needs=("evaluations", "intervals"))


@cache
def published() -> tuple[tuple[str, str, str, float, str], ...]:
    """Published figures: policy, benchmark, metric, value, origin."""
    return tuple(
        (policy, entry["benchmark"], metric, value, entry["origin"])
        for entry in json.loads(PUBLISHED.read_text(encoding="utf-8"))
        for policy, figures in entry["figures"].items()
        for metric, value in figures.items()
    )


def _newest(lake: Lake) -> str:
    """The CTEs both views begin with: `latest`, rows of the newest evaluations, and `fresh`, whose intervals are of those."""
    order = [(s.name, number) for number, s in enumerate(lake.slices("evaluations"))] or [("", 0)]
    table = "evaluations/"
    made = [(s.name, p.removeprefix(table)) for s in lake.slices("intervals") for p in s.parents if p.startswith(table)]
    return _NEWEST.format(order=_values(order), made=_values(made or [("", "")]))


def _values(rows: Sequence[Sequence[object]]) -> str:
    """Rows as an SQL VALUES list."""
    return "VALUES " + ", ".join(f"({', '.join(_literals(row))})" for row in rows)


def _literals(row: Sequence[object]) -> Iterator[str]:
    for value in row:
        if isinstance(value, list):
            yield f"[{', '.join(_literals(value))}]"
        else:
            yield literal(value) if isinstance(value, str) else str(value)


_NEWEST = """
WITH latest AS (
    SELECT e.label, e.slice, e.policy, e.benchmark, e.item, e.metrics
    FROM evaluations e JOIN ({order}) o(slice, ordinal) USING (slice)
    QUALIFY o.ordinal = max(o.ordinal) OVER (PARTITION BY label, policy, benchmark)),
fresh AS (
    SELECT DISTINCT m.slice, l.label, l.policy, l.benchmark
    FROM ({made}) m(slice, evaluation) JOIN latest l ON l.slice = m.evaluation)"""

_LEADERBOARD = """,
entries AS (SELECT label, policy, benchmark, item, unnest(map_entries(metrics)) AS m FROM latest),
parts AS (
    SELECT label, policy, benchmark, unnest(needs) AS part
    FROM (SELECT label, policy, benchmark, list(DISTINCT m.key) AS names FROM entries GROUP BY ALL), ({whole}) w(metric, needs)
    WHERE list_has_all(names, needs)),
own AS (
    SELECT label, policy, benchmark, m.key AS metric, avg(m.value) AS value,
           count(DISTINCT item) FILTER (m.value IS NOT NULL) AS n
    FROM entries WHERE (label, policy, benchmark, m.key) NOT IN (FROM parts) GROUP BY ALL
    UNION ALL
    SELECT label, policy, benchmark, 'bits_per_byte', sum(metrics['bits']) / sum(metrics['bytes']), count(DISTINCT item)
    FROM latest WHERE metrics['bits'] IS NOT NULL AND metrics['bytes'] IS NOT NULL GROUP BY ALL),
sure AS (
    SELECT label, policy, benchmark, metric, i.value, i.low, i.high, i.n
    FROM intervals i JOIN fresh USING (slice, label, policy, benchmark) WHERE i.against IS NULL),
probes AS (
    SELECT run, step, value, string_split(name, '/') AS path FROM metrics
    WHERE starts_with(name, 'probe/') AND value IS NOT NULL
    QUALIFY step = max(step) OVER (PARTITION BY run)),
figures AS (
SELECT policy, benchmark, metric, coalesce(o.value, s.value) AS value, s.low, s.high, coalesce(o.n, s.n) AS n,
       'evaluation' AS source, NULL::INTEGER AS step, label AS recipe, NULL::VARCHAR AS origin
FROM own o FULL JOIN sure s USING (label, policy, benchmark, metric)
UNION ALL
SELECT run, array_to_string(path[:-2], '/'), path[-1], value, NULL, NULL, NULL, 'probe', step, recipe, NULL
FROM probes LEFT JOIN (SELECT run, any_value(recipe) AS recipe FROM runs GROUP BY run) USING (run)
UNION ALL
SELECT policy, benchmark, metric, value, NULL, NULL, NULL, 'published', NULL, NULL, origin
FROM ({published}) p(policy, benchmark, metric, value, origin) WHERE benchmark IN (SELECT benchmark FROM latest))
SELECT policy, benchmark, metric, value, low, high, n,
       CASE WHEN source <> 'published' AND value IS NOT NULL AND metric NOT IN ({neither}) AND NOT ends_with(metric, '_radius')
       THEN rank() OVER (PARTITION BY recipe, benchmark, metric, source
                         ORDER BY CASE WHEN metric IN ({lower}) THEN value ELSE 0 - value END NULLS LAST) END AS rank,
       source, step, recipe, origin
FROM figures
"""

_DIFFERENCES = """,
pairs AS (
    SELECT d.* FROM intervals d
    SEMI JOIN fresh f ON (d.slice, d.label, d.policy, d.benchmark) = (f.slice, f.label, f.policy, f.benchmark)
    SEMI JOIN fresh g ON (d.slice, d.label, d.against, d.benchmark) = (g.slice, g.label, g.policy, g.benchmark))
SELECT policy, against, benchmark, metric, value AS difference, low, high, n, p, label AS recipe FROM pairs
UNION ALL
SELECT against, policy, benchmark, metric, 0 - value, 0 - high, 0 - low, n, p, label FROM pairs
"""
