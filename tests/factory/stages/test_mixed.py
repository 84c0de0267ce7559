"""A pool that the teacher is mixed into: what is recorded, what it is named by, and who is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from data.config import Sampling, sampling_settings
from data.pool import find_pool
from data.refusal import Refusal
from data.verify import verify

ALPHA = 0.4


def newest(lake, table, label=None):
    return lake.slices(table, label=label)[-1]


def rows_of(lake, table, label=None):
    return lake.read(newest(lake, table, label)).to_pylist()


@pytest.fixture
def mixed(recipe, change):
    """The recipe with the teacher mixed in; other fields of sampling as given."""

    def make(**values):
        return change(recipe, sampling=Sampling(**({"n": 3, "max_tokens": 6, "alpha": ALPHA} | values)))

    return make


def test_what_is_recorded_is_the_mixture_of_policy_and_teacher(mixed, make):
    """log μ = log(αp + (1 − α)π), π and p by the scorers that the trainer reads; w ≤ 1/(1 − α), a sequence's its power."""
    recipe = mixed()
    lake = make(recipe, "prompts,samples,scores")
    samples = rows_of(lake, "samples")
    policy, teacher = (rows_of(lake, "scores", f"tiny-{role}") for role in ("policy", "teacher"))
    assert {s["origin"] for s in samples} == {"mixed"}
    assert {round(g["alpha"], 6) for g in rows_of(lake, "groups")} == {ALPHA}
    largest = []
    for sample, ours, theirs in zip(samples, policy, teacher, strict=True):
        behaviour, pi, p = sample["behaviour_logprobs"], ours["logprobs"], theirs["logprobs"]
        by_hand = [math.log(ALPHA * math.exp(b) + (1 - ALPHA) * math.exp(a)) for a, b in zip(pi, p, strict=True)]
        assert behaviour == pytest.approx(by_hand, abs=1e-3)
        ratios = [a - m for a, m in zip(pi, behaviour, strict=True)]
        assert max(ratios) <= -math.log1p(-ALPHA) + 1e-3
        assert sum(ratios) <= len(ratios) * (-math.log1p(-ALPHA) + 1e-3)
        largest.append(max(ratios))
    assert max(largest) > 0.9 * -math.log1p(-ALPHA)
    assert verify(lake).faults == []


def test_at_another_temperature_both_are_drawn_at_it(mixed, make):
    recipe = mixed(temperature=0.7)
    lake = make(recipe, "prompts,samples,scores")
    for sample, ours in zip(rows_of(lake, "samples"), rows_of(lake, "scores", "tiny-policy"), strict=True):
        for m, pi in zip(sample["behaviour_logprobs"], ours["logprobs"], strict=True):
            assert pi - m <= -math.log1p(-ALPHA) + 1e-3


def test_the_teacher_reads_its_own_messages_in_its_own_template(mixed, change, make, write_rows, prompt_rows):
    shown = [{"role": "user", "content": "what is the sun doing ?"}]
    recipe = mixed()
    lake = make(recipe, "prompts,samples")
    plain = [s["token_ids"] for s in rows_of(lake, "samples")]
    told = change(
        recipe, prompts=replace(recipe.prompts, path=write_rows([r | {"teacher_messages": shown} for r in prompt_rows]))
    )
    make(told, "prompts,samples,scores")
    teacher, samples = rows_of(lake, "scores", "tiny-teacher"), rows_of(lake, "samples")
    assert [s["token_ids"] for s in samples] != plain
    policy = rows_of(lake, "scores", "tiny-policy")
    for sample, ours, theirs in zip(samples, policy, teacher, strict=True):
        for m, a, b in zip(sample["behaviour_logprobs"], ours["logprobs"], theirs["logprobs"], strict=True):
            assert m == pytest.approx(math.log(ALPHA * math.exp(b) + (1 - ALPHA) * math.exp(a)), abs=1e-3)


def test_a_mixed_pool_is_another_pool_for_every_share_and_teacher(mixed, recipe, change, make, tiny_model):
    lake = make(recipe, "prompts,samples")
    other = change(mixed(), teacher=replace(recipe.teacher, path=tiny_model("llama", seed=8)))
    for one in (mixed(), mixed(alpha=0.1), other):
        make(one, "samples")
    assert len({s.name for s in lake.slices("samples")}) == len({s.name for s in lake.slices("groups")}) == 4
    ids = [set(lake.read(s, ["group_id"]).column(0).to_pylist()) for s in lake.slices("groups")]
    assert len(set.union(*ids)) == 20
    policy = newest(lake, "samples").models["policy"]
    for index, one in enumerate((recipe, mixed(), mixed(alpha=0.1), other)):
        assert find_pool(lake, one, policy).samples == lake.slices("samples")[index]


def test_without_a_share_nothing_is_named_otherwise_than_before_mixing_existed(recipe):
    assert set(sampling_settings(recipe)) == {
        "n", "temperature", "top_p", "top_k", "max_tokens", "repetition_penalty", "stop"
    }  # fmt: skip


def test_a_mixed_pool_is_topped_up_and_found_again(mixed, change, make, tmp_path, capsys):
    lake = make(mixed(n=2), "prompts,samples")
    old = rows_of(lake, "samples")
    make(mixed(n=4), "samples")
    new = rows_of(lake, "samples")
    assert [s for s in new if s["sample_index"] < 2] == old
    whole = make(change(mixed(n=4), lake=str(tmp_path / "whole")), "prompts,samples")
    assert [s["token_ids"] for s in rows_of(whole, "samples")] == [s["token_ids"] for s in new]
    capsys.readouterr()
    make(mixed(n=4), "samples")
    assert all(line.endswith("found, nothing to do") for line in capsys.readouterr().out.splitlines())


def test_what_cannot_be_mixed_is_refused_before_any_work(mixed, change, make, tiny_model):
    recipe = mixed()
    cases = [
        (change(recipe, teacher=replace(recipe.teacher, path=tiny_model("mistral"))), "different tokenizers"),
        (change(recipe, teacher=None), "has no teacher"),
        (change(recipe, engine=replace(recipe.factory.engine, resident=1)), "policy and teacher in memory"),
    ]
    for one, words in cases:
        with pytest.raises(Refusal, match=words):
            make(one, "prompts,samples")
    assert not Path(recipe.lake).exists()
    with pytest.raises(Refusal, match=r"sampling.alpha=1.0 is outside"):
        Sampling(alpha=1.0)


def test_an_imported_pool_says_itself_how_it_was_drawn(mixed, change, make):
    from factory.config import ImportSource

    imports = {"pool": ImportSource(kind="samples", path="pool.jsonl")}
    with pytest.raises(Refusal, match="the pool is imported"):
        make(change(mixed(), imports=imports), "prompts,import,samples")


def test_a_prompt_too_long_for_the_teacher_is_refused(mixed, change, make, tiny_model):
    short = replace(mixed().teacher, path=tiny_model("llama", seed=7, max_position_embeddings=20))
    with pytest.raises(Refusal, match="more than the 20 positions"):
        make(change(mixed(), teacher=short), "prompts,samples")
