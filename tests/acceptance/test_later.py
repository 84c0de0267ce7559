"""What comes later costs only itself: a component, a context for the teacher, a pool that others drew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = "components.words={use: length, unit: words}"


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def questions(place: Any, count: int) -> list[dict[str, Any]]:
    """Train prompts of the demo with their references: question, references, and another prompt's answer as `wrong`."""
    rows = place.sql(
        """SELECT messages[1].content AS question, "references", answers.text AS answer
        FROM prompts JOIN answers USING (prompt_id)
        WHERE answers.label = 'demo' AND prompts.label = 'prompts' ORDER BY prompt_id"""
    )[:count]
    return [row | {"wrong": rows[i - 1]["answer"]} for i, row in enumerate(rows)]


def test_a_component_added_later_makes_its_own_slices_and_trains_at_once(mine: Any, rl_only: tuple[str, ...]) -> None:
    before = mine.hashes()
    lines = mine.factory("recipe=demo", WORDS, "stages=[rewards]").splitlines()
    made = [line for line in lines if not line.endswith(": found, nothing to do")]
    assert len(made) == 2, made
    after = mine.hashes()
    assert {path: after[path] for path in before} == before
    new = {"/".join(path.split("/")[:2]) for path in set(after) - set(before)} - {"costs/journal"}
    assert sorted(path.split("-")[0] for path in new) == ["answer_rewards/words", "rewards/words"]
    (row,) = mine.sql("SELECT count(words) AS n, count(*) AS samples FROM reward_table")
    assert row["n"] == row["samples"]
    # where a text is letters, digits and spaces alone, words need no rule for punctuation; nearly all samples are
    plain = r"FROM reward_table WHERE NOT regexp_matches(text, '[^\p{L}\p{N}\s]')"
    (found,) = mine.sql(
        f"SELECT count(*) AS n, count(*) FILTER (WHERE words <> len(regexp_extract_all(text, '\\S+'))) AS wrong {plain}"
    )
    assert found["wrong"] == 0 and found["n"] > 0.99 * row["samples"]
    derived = mine.derived()
    said = mine.trainer("recipe=demo", WORDS, "reward=words", "run=words", "steps=2", *rl_only)
    assert "run words: finished after 2 steps" in said and mine.derived() == derived


def test_teacher_messages_change_scores_and_not_samples(mine: Any, tmp_path: Path) -> None:
    rows = questions(mine, 12)
    plain = [{"messages": row["question"], "references": row["references"]} for row in rows]
    other = [{"teacher_messages": rows[i - 1]["question"] if i % 2 else None} for i in range(len(rows))]
    files = {
        "plain": jsonl(tmp_path / "plain.jsonl", plain),
        "shown": jsonl(tmp_path / "shown.jsonl", [a | b for a, b in zip(plain, other, strict=True)]),
    }
    for label, path in files.items():
        words = ("stages=[prompts,samples,scores]", f"prompts.path={path}", f"pool={label}", "sampling.n=2")
        mine.factory("recipe=demo", *words)
    drawn, scored = {}, {}
    for label in files:
        columns = "prompt_id, sample_index, token_ids, behaviour_logprobs"
        drawn[label] = mine.sql(
            f"SELECT {columns} FROM samples s JOIN groups g USING (group_id) "
            f"WHERE s.label = '{label}' AND g.label = '{label}' ORDER BY prompt_id, sample_index"
        )
        for scorer in ("teacher", "policy"):
            scored[label, scorer] = mine.sql(
                f"SELECT prompt_id, sample_index, logprobs FROM scores s JOIN groups g USING (group_id) "
                f"WHERE s.label = '{label}-{scorer}' AND g.label = '{label}' ORDER BY prompt_id, sample_index"
            )
    assert len(drawn["plain"]) == 24 and drawn["plain"] == drawn["shown"]
    assert scored["plain", "policy"] == scored["shown", "policy"]
    asked = mine.sql("SELECT prompt_id FROM prompts WHERE teacher_messages IS NOT NULL")
    ids = {row["prompt_id"] for row in asked}
    assert len(ids) == 6
    for before, after in zip(scored["plain", "teacher"], scored["shown", "teacher"], strict=True):
        largest = max(abs(a - b) for a, b in zip(before["logprobs"], after["logprobs"], strict=True))
        assert largest > 0.01 if before["prompt_id"] in ids else largest < 1e-4


def test_a_pool_without_mu_is_rescored_flagged_and_trained_from(
    mine: Any, tmp_path: Path, rl_only: tuple[str, ...]
) -> None:
    rows = [
        {"messages": row["question"], "references": row["references"], "completions": texts}
        for row in questions(mine, 16)
        for texts in [[row["references"][0], row["answer"], row["wrong"], row["references"][0].split()[0]]]
    ]
    path = jsonl(tmp_path / "pool.jsonl", rows)
    words = (
        f"prompts.path={path}",
        "pool=mine",
        "components={chrf: {use: similarity, metric: chrf, to: references}}",
        "reward=chrf",
        "where=null",
    )
    source = ("imports.mine.kind=samples", f"imports.mine.path={path}")
    said = mine.factory("recipe=demo", "stages=[prompts,import,answers,scores,rewards]", *source, *words)
    assert "logprobs_mode is rescored" in said
    groups = mine.sql("SELECT logprobs_mode, count(*) AS n FROM groups WHERE label = 'mine' GROUP BY ALL")
    assert groups == [{"logprobs_mode": "rescored", "n": 16}]
    pairs = mine.sql(
        """SELECT origin, text, behaviour_logprobs AS mu, logprobs AS pi FROM samples
        JOIN scores USING (group_id, sample_index) WHERE samples.label = 'mine' AND scores.label = 'mine-policy'"""
    )
    assert sorted(row["text"] for row in pairs) == sorted(text for row in rows for text in row["completions"])
    assert {row["origin"] for row in pairs} == {"imported"}
    assert all(abs(a - b) < 1e-4 for row in pairs for a, b in zip(row["mu"], row["pi"], strict=True))
    assert min(value for row in pairs for value in row["mu"]) < -1, "these are the policy's, not zeros"
    told = mine.trainer(
        "recipe=demo", "run=imported", "steps=3", "objective=seq_tis", *words, *rl_only, "losses.kl=0.02"
    )
    assert "warning: μ of samples/mine" in told and "rescored" in told
    first, *_, last = mine.metrics("imported")
    assert first["drift/sequence_ess"] > 0.999 and last["drift/sequence_ess"] < first["drift/sequence_ess"]
    assert mine.final("imported").read_bytes() != mine.final("demo-student").read_bytes()
    assert mine.data("verify").endswith("no faults\n")
