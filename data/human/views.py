"""`win_rates` and `rater_agreement`: what people's judgements say of policies, and how far people agree, in SQL over two journals.

Of several judgements of one pair of answers by one rater the first counts; later ones (the repeats of a page, or another page) only
say whether the rater agrees with himself. Reads manifests; runs nothing. Refuses a lake without judgements."""

from __future__ import annotations

import pyarrow as pa

from data.columns import Column
from data.lake import Lake
from data.refusal import Refusal
from data.relations import Definition, View, journal_files

Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution: intervals of 95 %."""

_BENCHMARK = Column("benchmark", pa.string(), "what was judged")
_MODELS = (
    Column("model_id", pa.string(), "models.model_id of the policy; null: judged elsewhere"),
    Column("against_model_id", pa.string(), "models.model_id of the other; null: judged elsewhere"),
)
WIN_RATES = View(
    "win_rates",
    "benchmark × policy × other policy, both ways round",
    (
        _BENCHMARK,
        Column("policy", pa.string(), "the policy whose wins are counted"),
        Column("against", pa.string(), "the policy it was compared with"),
        Column("wins", pa.int64(), "judgements that the policy's answer is better; a rater counts once for an item"),
        Column("ties", pa.int64(), "judgements that both are equally good"),
        Column("losses", pa.int64(), "judgements that the other's answer is better"),
        Column("win_rate", pa.float64(), "mean over items of the item's mean over raters: win 1, tie 1/2, loss 0"),
        Column(
            "low", pa.float64(), "lower end of its 95 % interval (Wilson's, n = items: too wide rather than too narrow)"
        ),
        Column("high", pa.float64(), "upper end"),
        Column("items", pa.int64(), "items judged; the answers to them differ"),
        Column("raters", pa.int64(), "raters"),
        *_MODELS,
    ),
)
RATER_AGREEMENT = View(
    "rater_agreement",
    "benchmark × two policies (the one earlier in the alphabet as `policy`)",
    (
        _BENCHMARK,
        Column("policy", pa.string(), "one of the two policies"),
        Column("against", pa.string(), "the other"),
        Column("raters", pa.int64(), "raters with a name"),
        Column("shared_items", pa.int64(), "items that two raters or more have judged"),
        Column("equal", pa.float64(), "share of equal verdicts among any two raters' on one item; null: none shared"),
        Column(
            "alpha", pa.float64(), "Krippendorff's α, nominal; 1 is perfect, 0 as by chance; null: one verdict only"
        ),
        Column("repeats", pa.int64(), "second and later judgements by the same rater"),
        Column("self_equal", pa.float64(), "share of these that repeat the first verdict; null: nothing was repeated"),
        Column(
            "first_preferred",
            pa.float64(),
            "share of verdicts, ties aside, for the answer shown first; .5 is no leaning",
        ),
        *_MODELS,
    ),
)

# A judgement from one side: `verdict` is a where `policy` won; `turn` 1 is the rater's first on these two answers.
_JUDGED = """
WITH sides AS (
    SELECT r.*, p."first" AS shown_first,
           CASE p."first" WHEN r.policy_a THEN p.first_model_id ELSE p.second_model_id END AS model_a,
           CASE p."first" WHEN r.policy_a THEN p.second_model_id ELSE p.first_model_id END AS model_b
    FROM ratings r LEFT JOIN pairs p ON p.page = r.page AND p.pair = r.pair),
both_ways AS (
    SELECT *, {'benchmark': benchmark, 'policy': policy_a, 'against': policy_b, 'model_id': model_a,
               'against_model_id': model_b} AS duel FROM sides
    UNION ALL
    SELECT * REPLACE (CASE verdict WHEN 'a' THEN 'b' WHEN 'b' THEN 'a' ELSE verdict END AS verdict),
           {'benchmark': benchmark, 'policy': policy_b, 'against': policy_a, 'model_id': model_b,
            'against_model_id': model_a} FROM sides),
judged AS (
    SELECT duel, item, rater, verdict, shown_first, first_value(verdict) OVER one AS settled,
           CASE WHEN rater IS NULL THEN 1 ELSE row_number() OVER one END AS turn
    FROM both_ways WINDOW one AS (PARTITION BY duel, item, rater ORDER BY created_at, page, pair))"""

# Wilson (1927), the score interval, with q = z² / n: (p + q/2 ± √(q p (1 − p) + q²/4)) / (1 + q). Made for wins and losses;
# scores in [0, 1] vary no more than those of the same mean, so with ties, and over several raters, it covers at least as often.
_WIN_RATES = f"""{_JUDGED},
scored AS (
    SELECT duel, item, count(*) FILTER (verdict = 'a') AS wins, count(*) FILTER (verdict = 'tie') AS ties,
           count(*) FILTER (verdict = 'b') AS losses,
           avg(CASE verdict WHEN 'a' THEN 1.0 WHEN 'tie' THEN 0.5 ELSE 0.0 END) AS score
    FROM judged WHERE turn = 1 GROUP BY ALL),
rated AS (
    SELECT duel, sum(wins)::BIGINT AS wins, sum(ties)::BIGINT AS ties, sum(losses)::BIGINT AS losses, avg(score) AS win_rate,
           count(*) AS items, {Z**2} / count(*) AS q, sqrt(q * win_rate * (1 - win_rate) + q * q / 4) AS half
    FROM scored GROUP BY duel),
people AS (SELECT duel, count(DISTINCT rater) AS raters FROM judged GROUP BY duel)
SELECT duel.benchmark, duel.policy, duel.against, wins, ties, losses, win_rate,
       greatest(0, (win_rate + q / 2 - half) / (1 + q)) AS low, least(1, (win_rate + q / 2 + half) / (1 + q)) AS high,
       items, raters, duel.model_id, duel.against_model_id
FROM rated JOIN people USING (duel)
"""

# Krippendorff's α (2011, "Computing Krippendorff's Alpha-Reliability", nominal): an item with m ≥ 2 verdicts, n_c of them c, brings
# n_c (n_c − 1) / (m − 1) to the coincidences o_cc; over such items D_o = 1 − Σ o_cc / n, D_e = 1 − Σ n_c (n_c − 1) / (n (n − 1)).
_RATER_AGREEMENT = f"""{_JUDGED},
one_side AS (SELECT * FROM judged WHERE duel.policy < duel.against),
whole AS (
    SELECT duel, count(DISTINCT rater) AS raters, count(*) FILTER (turn > 1) AS repeats,
           avg((verdict = settled)::INT) FILTER (turn > 1) AS self_equal,
           avg(((verdict = 'a') = (shown_first = duel.policy))::INT) FILTER (verdict IN ('a', 'b')) AS first_preferred
    FROM one_side GROUP BY duel),
counted AS (
    SELECT duel, item, verdict, count(*) AS k, sum(count(*)) OVER (PARTITION BY duel, item) AS m
    FROM one_side WHERE turn = 1 AND rater IS NOT NULL GROUP BY duel, item, verdict),
verdicts AS (
    SELECT duel, verdict, sum(k) AS n_c, sum(k * (k - 1) / (m - 1)) AS o_cc, sum(k * (k - 1)) AS equal_twos,
           sum(k * (m - 1)) AS twos
    FROM counted WHERE m > 1 GROUP BY duel, verdict),
shared AS (SELECT duel, count(DISTINCT item) AS shared_items FROM counted WHERE m > 1 GROUP BY duel),
agreed AS (
    SELECT duel, sum(equal_twos) / sum(twos) AS equal, 1 - sum(o_cc) / sum(n_c) AS d_o,
           1 - sum(n_c * (n_c - 1)) / (sum(n_c) * (sum(n_c) - 1)) AS d_e
    FROM verdicts GROUP BY duel)
SELECT duel.benchmark, duel.policy, duel.against, raters, coalesce(shared_items, 0) AS shared_items, equal,
       CASE WHEN d_e > 0 THEN 1 - d_o / d_e END AS alpha, repeats, self_equal, first_preferred,
       duel.model_id, duel.against_model_id
FROM whole LEFT JOIN shared USING (duel) LEFT JOIN agreed USING (duel)
"""


def win_rates(lake: Lake) -> Definition:
    """The view `win_rates`."""
    return _rated(lake, "win_rates", _WIN_RATES)


def rater_agreement(lake: Lake) -> Definition:
    """The view `rater_agreement`."""
    return _rated(lake, "rater_agreement", _RATER_AGREEMENT)


def _rated(lake: Lake, view: str, sql: str) -> Definition:
    if not journal_files(lake, "ratings"):
        raise Refusal(
            f"{view} has no data yet: nobody has judged", "python -m data pairs POLICY POLICY --benchmark NAME"
        )
    return Definition(sql, needs=("ratings", "pairs"))
