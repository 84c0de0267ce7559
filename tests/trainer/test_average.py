from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.lake import Lake
from data.refusal import Refusal
from trainer.average import KEYED, average
from trainer.average_config import AverageSettings
from trainer.combine import anchor, combined, linear, slerp, soup, towards_start
from trainer.config import Losses
from trainer.ema import Average
from trainer.loop import train

START = torch.tensor([5.0, -3.0])
ALONG, ACROSS = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])


def test_slerp_ends_at_its_models_and_goes_along_the_circle_between():
    a, b = START + ALONG, START + ACROSS
    assert torch.equal(slerp(a, b, START, 0), a) and torch.equal(slerp(a, b, START, 1), b)
    half = slerp(a, b, START, 0.5) - START
    torch.testing.assert_close(half, torch.tensor([math.sqrt(2), math.sqrt(2)]))
    third = slerp(a, b, START, 1 / 3) - START
    torch.testing.assert_close(third, 2 * torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)]))


def test_slerp_keeps_the_norm_that_a_straight_line_loses():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 6, generator=generator)
    deltas = [torch.randn(4, 6, generator=generator) for _ in range(2)]
    a, b = (start + delta / delta.norm() for delta in deltas)
    for t in (0.2, 0.5, 0.9):
        assert (slerp(a, b, start, t) - start).norm().item() == pytest.approx(1, abs=1e-5)
        assert (linear(a, b, t) - start).norm().item() < 0.95


def test_slerp_is_linear_where_no_arc_is_told_apart():
    a = START + ALONG
    assert torch.equal(slerp(a, START + 1.5 * ALONG, START, 0.5), linear(a, START + 1.5 * ALONG, 0.5))
    assert torch.equal(slerp(a, START, START, 0.25), linear(a, START, 0.25))
    torch.testing.assert_close(slerp(a, START - ALONG, START, 0.5), START)


def test_the_soup_of_two_is_the_line_at_one_half_and_weights_need_not_sum_to_one():
    a, b = START + ALONG, START + ACROSS
    torch.testing.assert_close(soup([a, b], [1, 1]), linear(a, b, 0.5))
    torch.testing.assert_close(soup([a, b], [1, 3]), linear(a, b, 0.75))


def test_a_model_goes_towards_its_start_by_its_share():
    torch.testing.assert_close(towards_start(START + ALONG, START, 0.25), START + 0.25 * ALONG)


def test_an_anchor_of_equal_models_has_the_closed_form():
    found = anchor([START + ALONG] * 3, START, 0.25)
    torch.testing.assert_close(found, START + (1 - 0.75**3) * ALONG)
    first = anchor([START + ALONG, START], START, 0.5)  # the last weighs most
    torch.testing.assert_close(first, START + 0.25 * ALONG)


def test_the_running_average_of_constant_steps_has_the_closed_form():
    """w_k = w_0 + k·s: w̄_k = w_0 + s·(k − d·(1 − d^k)/(1 − d))."""
    model = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    running, decay, step = Average(model, 0.9), 0.9, torch.tensor([[1.0, -2.0]])
    for k in range(1, 8):
        with torch.no_grad():
            model.weight += step
        running.update(model)
        want = step * (k - decay * (1 - decay**k) / (1 - decay))
        torch.testing.assert_close(running.weights["weight"], want)


def test_halves_are_averaged_in_single_precision():
    a, b = (torch.tensor([value], dtype=torch.bfloat16) for value in (1.0, 1.0078125))
    assert combined("linear", [a, b], None, 0.5, []).dtype == torch.float32
    assert combined("linear", [a, b], None, 0.5, []).item() == 1.00390625


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(ValueError, match="known: slerp"):
        combined("slurp", [START], START, 0.5, [])


@pytest.fixture
def two(made):
    """Two short runs from one start."""
    for seed in (1, 2):
        settings = {"losses": Losses(rl=1, bc=0, pt=0, kl=0), "optimiser__lr": 1e-2, "steps": 2, "seed": seed}
        train(made.with_(run=f"seed{seed}", **settings))
    return made


def settings(made, run="merged", **given):
    return AverageSettings(run=run, lake=made.recipe.lake, runs=made.recipe.runs, **given)


def weights(made, run):
    return load_file(Path(made.recipe.runs) / run / "final" / "model.safetensors")


def test_an_average_is_a_run_that_loads_generates_and_is_trained_on(two):
    from transformers import AutoModelForCausalLM

    average(settings(two, kind="slerp", a="run:seed1", b="run:seed2"))
    a, b, found = (weights(two, name) for name in ("seed1", "seed2", "merged"))
    start = load_file(Path(two.model) / "model.safetensors")
    assert set(found) == set(a)
    for name in found:
        torch.testing.assert_close(found[name], slerp(a[name], b[name], start[name], 0.5))
    folder = Path(two.recipe.runs) / "merged" / "final"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False).shape[1] > 3
    (row,) = Lake.open(two.recipe.lake).sql("SELECT * FROM runs WHERE run = 'merged'").to_pylist()
    assert row["status"] == "finished" and json.loads(row["configuration"])["average"]["kind"] == "slerp"
    assert row["model_id"] and row["policy"] and "run:seed2" in (folder / "README.md").read_text()
    once = {"losses": Losses(rl=0, bc=1, pt=0, kl=0), "steps": 1, "replay__bc": "teacher"}
    train(two.with_(policy="run:merged", run="after", **once))


def test_an_averages_tokenizer_is_its_models_own_byte_by_byte(two):
    from data.config import ModelSettings
    from data.fingerprint import identity

    average(settings(two, kind="linear", a="run:seed1", b="run:seed2", t=0.25))
    rows = [identity(ModelSettings(path=f"run:{name}"), two.recipe.runs) for name in ("seed1", "merged")]
    assert all(rows[0][name] == rows[1][name] for name in ("tokenizer", "chat_template"))
    assert rows[0]["model_id"] != rows[1]["model_id"]


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({"kind": "linear", "a": "run:seed1", "b": "run:seed2", "t": 0.0}, lambda a, b, s: a),
        ({"kind": "linear", "a": "run:seed1", "b": "run:seed2", "t": 1.0}, lambda a, b, s: b),
        ({"kind": "soup", "models": ["run:seed1", "run:seed2"]}, lambda a, b, s: (a + b) / 2),
        ({"kind": "soup", "models": ["run:seed1", "run:seed2"], "weights": [3, 1]}, lambda a, b, s: (3 * a + b) / 4),
        ({"kind": "liti", "a": "run:seed1", "t": 0.25}, lambda a, b, s: s + (a - s) / 4),
        ({"kind": "ema_anchor", "models": ["run:seed1", "run:seed2"]}, lambda a, b, s: s / 4 + a / 4 + b / 2),
    ],
)
def test_every_kind_gives_its_formula_of_the_files(two, given, want):
    average(settings(two, **given))
    a, b, found = (weights(two, name) for name in ("seed1", "seed2", "merged"))
    start = load_file(Path(two.model) / "model.safetensors")
    for name in found:
        torch.testing.assert_close(found[name], want(a[name], b[name], start[name]))


def test_the_same_average_is_found_and_another_under_its_name_refused(two, capsys):
    average(settings(two, kind="linear", a="run:seed1", b="run:seed2"))
    average(settings(two, kind="linear", a="run:seed1", b="run:seed2"))
    assert "found run merged" in capsys.readouterr().out
    with pytest.raises(Refusal, match="another model"):
        average(settings(two, kind="linear", a="run:seed1", b="run:seed2", t=0.75))


def test_models_that_cannot_be_averaged_are_refused(two, tmp_path, tiny_model):
    def refused(match, **given):
        with pytest.raises(Refusal, match=match):
            average(settings(two, kind="linear", a="run:seed1", **given))
        assert not (Path(two.recipe.runs) / "merged" / "run.json").exists()

    refused("different tokenizers", b=tiny_model("mistral"))
    refused("has the tensor", b=tiny_model("llama", num_hidden_layers=1))
    refused("has shape", b=tiny_model("llama", intermediate_size=48))
    folder = shutil.copytree(two.model, tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    refused("no \\*.safetensors", b=str(folder))
    refused("no finished run named seed3", b="run:seed3")


def test_a_start_that_is_not_known_is_asked_for(two):
    with pytest.raises(Refusal, match="no run that says"):
        average(settings(two, kind="slerp", a=two.model, b="run:seed2"))
    train(
        two.with_(policy="run:seed1", run="third", steps=1, losses=Losses(rl=0, bc=1, pt=0, kl=0), replay__bc="teacher")
    )
    with pytest.raises(Refusal, match="different models"):
        average(settings(two, kind="slerp", a="run:third", b="run:seed2"))
    average(settings(two, kind="slerp", a="run:third", b="run:seed2", start=two.model))


def test_settings_that_make_no_average_are_refused_in_a_line(capsys):
    for words, line in [
        (["kind=slurp", "run=x"], "did you mean 'slerp'"),
        (["kind=slerp", "a=m", "run=x"], "takes 2 models, 1 are given"),
        (["kind=soup", "run=x"], "one or more models, 0 are given"),
        (["kind=soup", "models=[m,n]", "weights=[1]", "run=x"], "one for each of the 2"),
        (["kind=linear", "a=m", "b=n", "t=2", "run=x"], "outside 0"),
        (["kind=linear", "a=m", "b=n"], "run=… is not given"),
    ]:
        assert KEYED.main(words) == 2
        assert line in capsys.readouterr().err


def test_an_adapter_is_merged_before_it_is_averaged(two, tmp_path):
    from trainer.adapter import adapter_weights, with_adapter
    from trainer.checkpoint import save_weights
    from trainer.config import Lora
    from trainer.forward import GroupTokens, group_logprobs, load

    policy = with_adapter(load(two.model), Lora(True, 2, 8.0))
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_weights(policy, folder, dict(adapter_weights(policy.model)), two.model)
    for name in ("tokenizer.json", "tokenizer_config.json"):  # as the end of a run puts them there
        shutil.copyfile(Path(two.model) / name, folder / name)
    average(settings(two, kind="linear", a=str(folder), b=two.model, t=0.0))
    items = [GroupTokens([5, 6, 7], [[8, 9], [10]])]
    merged = load(f"{two.recipe.runs}/merged/final")
    torch.testing.assert_close(group_logprobs(merged, items), group_logprobs(policy, items), atol=1e-4, rtol=0)
