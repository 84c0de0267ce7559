"""Reward and filter expressions: parsed, checked against a whitelist, and compiled to SQL.

Reads no table. An expression is one scalar over component labels and a few sample columns: arithmetic, comparisons, CASE,
coalesce, some functions, and four functions of the whole group or pool. What SQL reads silently as a number is refused or kept
null: `least`, `greatest` and `clip` of a null are null, and infinities count as null. Refuses unknown names (with the nearest),
aggregates, subqueries, `*`, several statements, texts, and expressions that name no column."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from data.refusal import Refusal, nearest
from data.relations import quoted

NUMBER, BOOLEAN, TEXT, NULL = "a number", "a truth value", "a text", "null"
SAMPLE_COLUMNS = {
    **{"n_tokens": NUMBER, "sample_index": NUMBER, "finish_reason": TEXT, "origin": TEXT},
    **{"source": TEXT, "method": TEXT, "check_score": NUMBER},
}
"""Columns that every expression may name beside component labels. `source` (sample or answer) exists in selections only, and so do
`method` (sample, direct, translate, rephrase, …) and `check_score`, which is null but for a rephrased answer."""

GROUP_FUNCTIONS = {
    "zscore_group": "CASE WHEN {x} IS NOT NULL THEN CASE WHEN max({x}) OVER g = min({x}) OVER g THEN 0 "
    "ELSE ({x} - avg({x}) OVER g) / stddev_pop({x}) OVER g END END",
    "zscore_all": "CASE WHEN {x} IS NOT NULL THEN CASE WHEN max({x}) OVER a = min({x}) OVER a THEN 0 "
    "ELSE ({x} - avg({x}) OVER a) / stddev_pop({x}) OVER a END END",
    "rank_group": "CASE WHEN {x} IS NOT NULL THEN CASE WHEN count({x}) OVER g = 1 THEN 0 ELSE (2 * (rank() OVER r - 1) "
    "+ count(*) OVER t - 1) / (count({x}) OVER g - 1) - 1 END END",
    "log_quantile_group": "CASE WHEN {x} IS NOT NULL THEN ln((rank() OVER r - 1 + count(*) OVER t) "
    "/ CAST(count({x}) OVER g AS DOUBLE)) END",
    "mean_group": "CASE WHEN max({x}) OVER g = min({x}) OVER g THEN max({x}) OVER g ELSE avg({x}) OVER g END",
}
"""Window forms, population standard deviation; a group (or pool) without spread gives 0, exactly, for its scored samples."""

HINT = 'python -m data inspect "EXPRESSION"'


@dataclass(frozen=True)
class Step:
    """One call of a group function: its argument as row-wise SQL, the column its result takes, and its nesting depth."""

    function: str
    argument: str
    column: str
    level: int


@dataclass(frozen=True)
class Expression:
    """A compiled expression. `names`: columns read; `row_sql`: its value over those columns and the steps' columns."""

    text: str
    names: frozenset[str]
    steps: tuple[Step, ...]
    row_sql: str
    is_boolean: bool

    @property
    def sql(self) -> str:
        """The readable form over `reward_table`: one query that gives every sample's value."""
        return self.sql_over("reward_table", ("pool", "group_id", "sample_index"))

    def sql_over(self, source: str, keys: Sequence[str]) -> str:
        """The window form over any relation. Groups are the keys but the last, pools the keys but the last two."""
        ctes, current = [], source
        group, pool = ", ".join(keys[:-1]), ", ".join(keys[:-2])
        for level in range(1 + max((s.level for s in self.steps), default=-1)):
            steps = [s for s in self.steps if s.level == level]
            arguments = ",\n       ".join(f"{_argument(s.argument)} AS {s.column}_of" for s in steps)
            results = ",\n       ".join(f"{_window(s, group)} AS {s.column}" for s in steps)
            windows = f"g AS (PARTITION BY {group}), a AS ({f'PARTITION BY {pool}' if pool else ''})"
            ctes.append(f"arguments{level} AS (\nSELECT *, {arguments}\nFROM {current})")
            ctes.append(f"level{level} AS (\nSELECT *, {results}\nFROM arguments{level} WINDOW {windows})")
            current = f"level{level}"
        head = "WITH " + ",\n".join(ctes) + "\n" if ctes else ""
        shown = ", ".join(keys)
        inner = f"SELECT {shown}, CAST({self.row_sql} AS DOUBLE) AS value FROM {current}"
        return f"{head}SELECT {shown}, CASE WHEN isfinite(value) THEN value END AS value\nFROM ({inner})"


def finite(sql: str) -> str:
    """A value as DOUBLE, infinities and NaN as null: one of them would spoil an average."""
    return f"CASE WHEN isfinite(CAST({sql} AS DOUBLE)) THEN CAST({sql} AS DOUBLE) END"


def _argument(sql: str) -> str:
    """A component's own value is finite by the contract; anything computed may not be."""
    return sql if sql.startswith('"') and sql.count('"') == 2 else finite(sql)


def _window(step: Step, group: str) -> str:
    x = f"{step.column}_of"
    sql = GROUP_FUNCTIONS[step.function].format(x=x)
    return sql.replace("OVER r", f"OVER (PARTITION BY {group} ORDER BY {x} NULLS LAST)").replace(
        "OVER t", f"OVER (PARTITION BY {group}, {x})"
    )


def compile_expression(text: str, names: Collection[str], *, unknown: str = "") -> Expression:
    """Parse and check an expression over component labels `names` and SAMPLE_COLUMNS. Raises Refusal.

    `unknown` follows an unknown column in what is refused: where it was looked for."""
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        parsed = sqlglot.parse(text, read="duckdb")
    except SqlglotError as error:
        raise Refusal(f"the expression {text!r} cannot be read: {_in_words(error)}", HINT) from error
    if not text.strip() or len(parsed) != 1 or parsed[0] is None:
        raise Refusal(f"the expression {text!r} is not one expression but {len(parsed) if text.strip() else 0}", HINT)
    emitter = _Emitter(text, names, unknown)
    sql, kind = emitter.emit(parsed[0])
    if kind not in (NUMBER, BOOLEAN):
        raise emitter.refusal(f"is {kind}, not a number")
    if not emitter.read:
        raise emitter.refusal("names no component and no column")
    return Expression(text, frozenset(emitter.read), tuple(emitter.steps), sql, kind == BOOLEAN)


def _in_words(error: Any) -> str:
    """What a parser's error says to somebody who does not know the parser."""
    if not getattr(error, "errors", None):  # of words, not of their order
        return "it does not divide into words; is a quotation mark left open?"
    told = error.errors[0]
    what, here, before = str(told["description"]), str(told["highlight"]), str(told["start_context"]).strip()
    if what.startswith("Required keyword"):
        return f"something is missing {'before' if here == ')' else 'behind'} {here!r}"
    if what.startswith("Expecting "):
        return f"{what.removeprefix('Expecting ')!r} is missing behind {here!r}"
    return f"{here!r} is out of place" + (f" behind {before[-20:]!r}" if before else "")


Typed = tuple[str, str]


class _Emitter:
    """Walks a syntax tree and writes SQL with its kind; a node without a rule is refused, so the rules are the whitelist."""

    def __init__(self, text: str, names: Collection[str], unknown: str = ""):
        self.unknown, self.text, self.known = unknown, text, dict.fromkeys(names, NUMBER) | SAMPLE_COLUMNS
        self.read: set[str] = set()
        self.steps: list[Step] = []

    def refusal(self, what: str) -> Refusal:
        return Refusal(f"the expression {self.text!r} {what}", HINT)

    def emit(self, node: Any) -> Typed:
        kind = type(node).__name__
        if kind in ARITHMETIC:
            return self._arithmetic(node, ARITHMETIC[kind])
        if kind in COMPARISON:
            return self._comparison(node, COMPARISON[kind])
        if kind in FUNCTIONS:
            return self._function(kind.lower(), *FUNCTIONS[kind], self._arguments(node))
        if kind in RULES:
            return RULES[kind](self, node)
        raise self.refusal(f"holds {node.sql('duckdb')[:40]!r}, which no expression may ({kind})")

    def number(self, node: Any) -> str:
        """A node's SQL as a number; a truth value counts 1 or 0."""
        sql, kind = self.emit(node)
        if kind == TEXT:
            raise self.refusal(f"uses the text {sql} as a number")
        return f"CAST({sql} AS DOUBLE)" if kind == BOOLEAN else sql

    def truth(self, node: Any) -> str:
        sql, kind = self.emit(node)
        if kind not in (BOOLEAN, NULL):
            raise self.refusal(f"uses {sql}, {kind}, as a condition; write a comparison")
        return sql

    def alike(self, nodes: Sequence[Any]) -> tuple[list[str], str]:
        """Several nodes as one kind: texts stay texts, everything else becomes a number, or stays a truth value."""
        kinds = {self.emit(node)[1] for node in nodes} - {NULL}
        if TEXT in kinds and len(kinds) > 1:
            raise self.refusal("mixes texts and numbers")
        if len(kinds) <= 1:
            return [self.emit(node)[0] for node in nodes], kinds.pop() if kinds else NULL
        return [self.number(node) for node in nodes], NUMBER

    def _arithmetic(self, node: Any, sign: str) -> Typed:
        return f"({self.number(node.this)} {sign} {self.number(node.expression)})", NUMBER

    def _comparison(self, node: Any, sign: str) -> Typed:
        (left, right), _ = self.alike([node.this, node.expression])
        return f"({left} {sign} {right})", BOOLEAN

    def _arguments(self, node: Any) -> list[Any]:
        parts = (node.args.get(k) for k in ("this", "expression", "decimals"))
        return [p for p in parts if p is not None] + list(node.args.get("expressions") or [])

    def _function(self, name: str, low: int, high: int, template: str, arguments: list[Any]) -> Typed:
        if not low <= len(arguments) <= high:
            raise self.refusal(
                f"gives {name} {len(arguments)} arguments; it takes {low}" + f" to {high}" * (high > low)
            )
        parts = [self.number(a) for a in arguments]
        given = " AND ".join(f"{p} IS NOT NULL" for p in parts)
        return template.format(*parts, all=", ".join(parts), given=given), NUMBER

    def column(self, node: Any) -> Typed:
        name = node.name
        if node.args.get("table") or name not in self.known:
            raise self.refusal(
                f"names the unknown column {node.sql('duckdb')}{self.unknown}: {nearest(name, self.known)}"
            )
        self.read.add(name)
        numeric = name in SAMPLE_COLUMNS and self.known[name] == NUMBER
        return (f"CAST({quoted(name)} AS DOUBLE)" if numeric else quoted(name)), self.known[name]

    def case(self, node: Any) -> Typed:
        branches = node.args["ifs"]
        default = node.args.get("default")
        results, kind = self.alike([b.args["true"] for b in branches] + ([default] if default is not None else []))
        first = node.args.get("this")  # CASE x WHEN 1 THEN …
        conditions = [self._comparison_of(first, b.this) if first is not None else self.truth(b.this) for b in branches]
        arms = " ".join(f"WHEN {c} THEN {r}" for c, r in zip(conditions, results, strict=False))
        return f"CASE {arms}" + (f" ELSE {results[-1]}" if default is not None else "") + " END", kind

    def _comparison_of(self, left: Any, right: Any) -> str:
        (a, b), _ = self.alike([left, right])
        return f"({a} = {b})"

    def coalesce(self, node: Any) -> Typed:
        parts, kind = self.alike([node.this, *node.expressions])
        return f"coalesce({', '.join(parts)})", kind

    def member(self, node: Any) -> Typed:
        if not node.expressions:
            raise self.refusal("holds a subquery")
        (left, *members), _ = self.alike([node.this, *node.expressions])
        return f"({left} IN ({', '.join(members)}))", BOOLEAN

    def between(self, node: Any) -> Typed:
        parts, _ = self.alike([node.this, node.args["low"], node.args["high"]])
        return f"({parts[0]} BETWEEN {parts[1]} AND {parts[2]})", BOOLEAN

    def is_(self, node: Any) -> Typed:
        if type(node.expression).__name__ not in ("Null", "Boolean"):
            raise self.refusal("uses IS with something else than NULL, TRUE or FALSE")
        return f"({self.emit(node.this)[0]} IS {node.expression.sql('duckdb')})", BOOLEAN

    def call(self, node: Any) -> Typed:
        """A function that sqlglot does not know: ours, or a refusal."""
        name = node.name.lower()
        if name == "clip":
            return self._function("clip", 3, 3, CLIP, node.expressions)
        if name not in GROUP_FUNCTIONS:
            known = [*GROUP_FUNCTIONS, "clip", "coalesce", *(f.lower() for f in FUNCTIONS)]
            raise self.refusal(f"calls the unknown function {name}: {nearest(name, known)}")
        if len(node.expressions) != 1:
            raise self.refusal(f"gives {name} {len(node.expressions)} arguments; it takes 1")
        argument = self.number(node.expressions[0])
        for step in self.steps:
            if (step.function, step.argument) == (name, argument):
                return step.column, NUMBER
        inner = [s.level for s in self.steps if s.column in argument]
        self.steps.append(Step(name, argument, f"_{name}_{len(self.steps)}", 1 + max(inner, default=-1)))
        return self.steps[-1].column, NUMBER


ARITHMETIC = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "Mod": "%"}
COMPARISON = {"EQ": "=", "NEQ": "<>", "GT": ">", "GTE": ">=", "LT": "<", "LTE": "<="}
CLIP = "CASE WHEN {given} THEN least(greatest({0}, {1}), {2}) END"
FUNCTIONS = {
    "Abs": (1, 1, "abs({all})"),
    "Least": (1, 99, "CASE WHEN {given} THEN least({all}) END"),
    "Greatest": (1, 99, "CASE WHEN {given} THEN greatest({all}) END"),
    "Exp": (1, 1, "exp({all})"),
    "Ln": (1, 1, "CASE WHEN {0} > 0 THEN ln({0}) END"),
    "Sqrt": (1, 1, "CASE WHEN {0} >= 0 THEN sqrt({0}) END"),
    "Pow": (2, 2, "power({all})"),
    "Floor": (1, 1, "floor({all})"),
    "Round": (1, 2, "round({all})"),
}
"""Function → fewest and most arguments, and its SQL. Logarithms and roots outside their domain are null, not an error."""

RULES: dict[str, Callable[[_Emitter, Any], Typed]] = {
    "Paren": lambda e, n: (lambda t: (f"({t[0]})", t[1]))(e.emit(n.this)),
    "Column": _Emitter.column,
    "Literal": lambda e, n: (n.sql("duckdb"), TEXT if n.is_string else NUMBER),
    "Boolean": lambda e, n: (n.sql("duckdb"), BOOLEAN),
    "Null": lambda e, n: ("NULL", NULL),
    "Neg": lambda e, n: (f"(-{e.number(n.this)})", NUMBER),
    "Not": lambda e, n: (f"(NOT {e.truth(n.this)})", BOOLEAN),
    "And": lambda e, n: (f"({e.truth(n.this)} AND {e.truth(n.expression)})", BOOLEAN),
    "Or": lambda e, n: (f"({e.truth(n.this)} OR {e.truth(n.expression)})", BOOLEAN),
    "Case": _Emitter.case,
    "Coalesce": _Emitter.coalesce,
    "In": _Emitter.member,
    "Between": _Emitter.between,
    "Is": _Emitter.is_,
    "Anonymous": _Emitter.call,
}
