"""The path from prompts to rewards: what is found again, what is made anew, and what stays byte for byte."""

from __future__ import annotations

import json
import shutil

import pytest

from data.config import ModelSettings, Sampling
from data.fingerprint import identity
from data.pool import find_answers, find_pool, find_rewards
from data.refusal import Refusal
from data.verify import verify
from factory.config import ImportSource

from .slices import PATH, newest


def test_a_second_run_finds_everything(recipe, make, hashes, capsys):
    lake = make(recipe, PATH)
    before = hashes(lake)
    costs = sorted((lake.root / "costs" / "journal").iterdir())
    capsys.readouterr()
    make(recipe, PATH)
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(line.endswith("found, nothing to do") for line in lines)
    assert hashes(lake) == before
    assert sorted((lake.root / "costs" / "journal").iterdir()) == costs  # nothing worked, so nothing is booked


@pytest.mark.parametrize("stages", ["answers", PATH])
def test_a_recipe_that_asks_the_same_hides_nothing_of_the_first(recipe, change, make, stages):
    """Both find the first one's pool with its components: equal answers under two names are the same answers."""
    lake = make(recipe, PATH)
    samples = newest(lake, "samples")
    make(change(recipe, name="other"), stages)
    assert len(lake.slices("answers")) == 2
    for asked in (recipe, change(recipe, name="other", pool=recipe.name)):
        pool = find_pool(lake, asked, samples.models["policy"])
        assert pool.samples.path == samples.path
        assert all(find_rewards(lake, asked, name, pool.samples).rows == samples.rows for name in recipe.components)
    answers = find_answers(lake, recipe, pool.prompts)
    assert answers is not None and answers.label == recipe.name
    assert all(find_rewards(lake, recipe, name, answers).rows == answers.rows for name in recipe.components)


def test_every_call_that_worked_books_its_tokens(recipe, make):
    lake = make(recipe, "prompts,samples")
    row = next(
        r
        for f in (lake.root / "costs" / "journal").iterdir()
        for r in rows_of(f)
        if r["produced"].startswith("samples/")
    )
    samples, groups = newest(lake, "samples"), newest(lake, "groups")
    n_tokens = sum(lake.read(samples, ["n_tokens"]).column(0).to_pylist())
    prompt_tokens = sum(len(ids) for ids in lake.read(groups, ["prompt_token_ids"]).column(0).to_pylist())
    assert (row["items"], row["tokens_out"], row["tokens_in"]) == (15, n_tokens, prompt_tokens)
    assert row["seconds"] > 0 and row["money"] is None and row["device"] == "cpu"


def test_a_scored_token_is_booked_once(recipe, make):
    lake = make(recipe, "prompts,samples,scores")
    rows = [r for f in (lake.root / "costs" / "journal").iterdir() for r in rows_of(f) if r["stage"] != "prompts"]
    drawn, *scored = sorted((r for r in rows if r["tokens_out"]), key=lambda r: r["stage"])
    assert len(scored) == 2 and drawn["stage"] == "samples"
    for row in scored:
        assert (row["tokens_in"], row["tokens_out"]) == (drawn["tokens_in"], drawn["tokens_out"])


def rows_of(file):
    import pyarrow.parquet as pq

    return pq.read_table(file).to_pylist()


def test_topping_up_copies_rows_and_draws_only_what_is_missing(recipe, change, make):
    fewer, more = (change(recipe, sampling=Sampling(n=n, max_tokens=6)) for n in (2, 4))
    lake = make(fewer, "prompts,samples")
    old = lake.read(newest(lake, "samples")).to_pylist()
    make(more, "samples")
    new = lake.read(newest(lake, "samples")).to_pylist()
    assert len(old) == 10 and len(new) == 20
    assert [row for row in new if row["sample_index"] < 2] == old
    drawn = [r for f in (lake.root / "costs" / "journal").iterdir() for r in rows_of(f) if r["stage"] == "samples"]
    assert sorted(r["items"] for r in drawn if r["produced"].startswith("samples/")) == [10, 10]


def test_topped_up_samples_are_those_of_a_pool_drawn_at_once(recipe, change, make, tmp_path):
    more = change(recipe, sampling=Sampling(n=4, max_tokens=6))
    make(change(recipe, sampling=Sampling(n=2, max_tokens=6)), "prompts,samples")
    topped = make(more, "samples")
    whole = make(change(more, lake=str(tmp_path / "other")), "prompts,samples")
    ours, theirs = (lake.read(newest(lake, "samples")).to_pylist() for lake in (topped, whole))
    assert [r["token_ids"] for r in ours] == [r["token_ids"] for r in theirs]


def test_a_smaller_pool_is_the_first_rows_of_a_larger_one_and_draws_nothing(recipe, change, make):
    lake = make(change(recipe, sampling=Sampling(n=4, max_tokens=6)), "prompts,samples")
    large = lake.read(newest(lake, "samples")).to_pylist()
    make(change(recipe, sampling=Sampling(n=2, max_tokens=6)), "samples")
    assert lake.read(newest(lake, "samples")).to_pylist() == [row for row in large if row["sample_index"] < 2]
    drawn = [
        r["items"]
        for f in (lake.root / "costs" / "journal").iterdir()
        for r in rows_of(f)
        if "samples/" in r["produced"]
    ]
    assert sorted(drawn) == [0, 20]


def test_answers_of_another_teacher_than_the_scores_are_said_and_refused_if_strict(
    recipe, change, make, write_rows, capsys
):
    rows = [{"messages": "what is the capital ?", "answer": "Tórshavn"}]
    imports = {"told": ImportSource(kind="answers", path=write_rows(rows, "told.jsonl"))}
    make(change(recipe, imports=imports), "prompts,import,samples,scores")
    assert "warning: answers/" in capsys.readouterr().out
    with pytest.raises(Refusal, match="two teachers leave a lasting bias"):
        make(change(recipe, imports=imports, strict=True), "scores")


def test_a_template_that_refuses_a_role_is_named(recipe, change, make):
    from dataclasses import replace

    grim = replace(recipe.student, chat_template="{{ raise_exception('no such role') }}")
    with pytest.raises(Refusal, match=r"refuses the roles \['user'\]"):
        make(change(recipe, student=grim), "prompts,samples")


def test_one_resident_model_makes_room_for_the_next(recipe, change, make, monkeypatch):
    from dataclasses import replace

    from factory.engines.hf import HfEngine

    open_now, most = set(), []
    load, close = HfEngine.__init__, HfEngine.close

    def counted(self, *args, **kwargs):
        load(self, *args, **kwargs)
        open_now.add(id(self))
        most.append(len(open_now))

    def freed(self):
        close(self)
        open_now.discard(id(self))

    monkeypatch.setattr(HfEngine, "__init__", counted)
    monkeypatch.setattr(HfEngine, "close", freed)
    make(change(recipe, engine=replace(recipe.factory.engine, resident=1)), "prompts,answers,samples,scores")
    assert max(most) == 1 and not open_now and len(most) == 4  # teacher, policy, teacher, policy


def test_a_component_added_later_makes_its_slice_and_changes_no_other_file(recipe, change, make, hashes):
    lake = make(recipe, PATH)
    before = hashes(lake)
    added = change(recipe, components={**recipe.components, "alphabet": {"use": "alphabet"}})
    make(added, "rewards")
    after = hashes(lake)
    assert {k: after[k] for k in before} == before
    new = [k for k in after if k not in before]
    assert all(k.startswith(("rewards/alphabet-", "answer_rewards/alphabet-")) for k in new) and new


def test_a_component_of_other_settings_is_another_slice(recipe, change, make):
    make(recipe, PATH)
    other = change(recipe, components={"chrf": {"use": "similarity", "metric": "bleu"}}, reward="chrf")
    lake = make(other, "rewards")
    assert len(lake.slices("rewards", label="chrf")) == 2


def test_another_recipe_over_the_same_pool_names_the_same_files(recipe, change, make, hashes):
    lake = make(recipe, PATH)
    before, costs = hashes(lake), len(list((lake.root / "costs" / "journal").iterdir()))
    make(change(recipe, name="twin"), PATH)
    assert hashes(lake) == before
    assert len(list((lake.root / "costs" / "journal").iterdir())) == costs  # naming a file again costs nothing
    twin = newest(lake, "samples", "twin")
    assert twin.files == newest(lake, "samples", "tiny").files
    rewards = [s for s in lake.slices("rewards", label="chrf") if s.parents[0] == twin.path]
    assert len(rewards) == 1


def test_the_pool_of_a_trained_run_is_the_next_round(recipe, change, make, tiny_model, tmp_path):
    import pyarrow as pa

    from data.contract import RUNS

    lake = make(recipe, "prompts,samples")
    shutil.copytree(tiny_model("llama", seed=3), tmp_path / "runs" / "one" / "final")
    pools = json.dumps([newest(lake, "samples").path])
    row = {"run": "one", "status": "finished", "configuration": "{}", "configuration_hash": "0", "slices": pools}
    from datetime import UTC, datetime

    row["created_at"] = datetime.now(UTC)
    lake.append("runs", pa.Table.from_pylist([row], schema=RUNS.schema), "one")
    make(change(recipe, policy="run:one"), "samples,scores")
    second = newest(lake, "samples", "tiny-one")
    assert set(lake.read(second, ["round"]).column(0).to_pylist()) == {1}
    assert second.models["policy"] != newest(lake, "samples", "tiny").models["policy"]


def test_models_are_known_by_their_settings(recipe, make):
    from data.pool import find_model

    lake = make(recipe, "prompts,answers,samples")
    assert find_model(lake, recipe.teacher) == identity(recipe.teacher, recipe.runs)["model_id"]
    assert find_model(lake, recipe.student) == identity(recipe.student, recipe.runs)["model_id"]


def test_rewards_need_no_teacher_folder(recipe, change, make, tiny_model, tmp_path):
    gone = tiny_model("llama", tmp_path / "gone", seed=7)
    recipe = change(recipe, teacher=ModelSettings(path=gone))
    make(recipe, "prompts,answers,samples,scores")
    shutil.rmtree(gone)
    lake = make(recipe, "rewards")
    assert lake.slices("rewards", label="loglik")


def test_an_engine_is_refused_before_it_is_opened(recipe, change, make):
    from dataclasses import replace

    wrong = change(recipe, engine=replace(recipe.factory.engine, name="hff"))
    with pytest.raises(Refusal, match="did you mean 'hf'"):
        make(wrong, "prompts,samples")


def test_a_shard_that_is_gone_is_made_again_byte_by_byte(recipe, make, change, hashes, capsys):
    lake = make(recipe, "prompts,samples")
    make(change(recipe, pool="twin"), "samples")  # its slices name the files of the first
    before, samples = hashes(lake), newest(lake, "samples")
    samples.files[0].unlink()
    assert verify(lake).faults
    for label in (None, "twin"):
        make(change(recipe, pool=label), "samples")
    assert not verify(lake).faults
    assert set(hashes(lake).values()) == set(before.values())


@pytest.mark.parametrize("reward", ["zscore_all(chrf)", "ZSCORE_ALL (chrf)"])
def test_a_selection_over_the_whole_pool_is_named_by_all_of_it(recipe, make, change, reward):
    lake = make(change(recipe, reward=reward), "prompts,answers,samples,scores,rewards,selections")
    assert "pool" in newest(lake, "selections").settings


@pytest.mark.parametrize("reward", ["chrf - 0.1*length", "zscore_group(chrf) + length"])
def test_a_selection_made_shard_by_shard_is_the_whole_pools(recipe, change, make, reward):
    from data.selection import best_of_n
    from factory.context import Context
    from factory.stages.selections import candidates

    recipe = change(recipe, reward=reward)
    lake = make(recipe, PATH)
    made = newest(lake, "selections")
    context = Context(recipe, lake)
    whole = best_of_n(lake, candidates(context), reward, None)
    assert len(made.shards) == 3 and lake.read(made).equals(whole.select(lake.read(made).column_names))
