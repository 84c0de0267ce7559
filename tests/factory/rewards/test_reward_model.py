"""Reward models: tiny random ones against plain transformers, one chat at a time; averages against models averaged by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.refusal import Refusal
from factory.rewards import Batch, Reward, component

TEXTS = ["Tórshavn", "báturin siglir til oynna og sólin skínur", "", "á<end>", "the capital? ð" * 3]
PROMPTS = [[{"role": "user", "content": "hvat eitur høvuðsstaðurin ?"}]] * 4 + [[{"role": "user", "content": "ø"}]]
Make = Callable[..., str]


@pytest.fixture
def reward_model(tiny_model: Callable[..., str], tmp_path: Path) -> Make:
    """`reward_model(family, seed=0, labels=1, near=None)`: the folder of a random one; near: the same start, moved a little."""

    def make(family: str, seed: int = 0, labels: int = 1, near: str | None = None) -> str:
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig

        base, folder = (
            tiny_model("llama" if family == "bert" else family),
            tmp_path / f"{family}-{seed}-{labels}-{near is not None}",
        )
        torch.manual_seed(seed)
        config = AutoConfig.from_pretrained(base, num_labels=labels)
        if family == "bert":  # an encoder looks to both sides: what is padded must be masked
            sizes = {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 64,
                "initializer_range": 0.5,
            }
            config = BertConfig(vocab_size=config.vocab_size, num_labels=labels, **sizes)
        classes = AutoModelForSequenceClassification
        model = classes.from_config(config) if near is None else classes.from_pretrained(near)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        shutil.copytree(base, folder)
        model.save_pretrained(folder)
        return str(folder)

    return make


def test_where_and_in_what_portions_it_computes_is_in_no_identity(reward_model: Make) -> None:
    entry = {"use": "reward_model", "models": [reward_model("llama")]}
    own = component(entry).identity()
    assert component({**entry, "device": "cpu", "batch_tokens": 7}).identity() == own
    assert component({**entry, "dtype": "bfloat16"}).identity() != own


def rewards(models: list[str], texts: list[str] = TEXTS, prompts: Any = PROMPTS, **settings: Any) -> list[Reward]:
    batch = Batch.of_texts(texts, prompts=prompts)
    return component({"use": "reward_model", "models": models, "device": "cpu", **settings}).score(batch)


def values(models: list[str], **settings: Any) -> list[float | None]:
    return [reward.value for reward in rewards(models, **settings)]


def plain(folder: str, label: int = 0) -> list[float]:
    """The logits of transformers itself, one chat at a time: nothing is padded."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    model.config.pad_token_id = None
    found = []
    for prompt, text in zip(PROMPTS, TEXTS, strict=True):
        chat = [*prompt, {"role": "assistant", "content": text}]
        ids = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
        with torch.no_grad():
            found.append(model.eval()(torch.tensor([ids])).logits[0, label].item())
    return found


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma3", "bert"])
@pytest.mark.parametrize("batch_tokens", [1, 16384])
def test_padded_batches_say_what_single_chats_say(reward_model: Make, family: str, batch_tokens: int) -> None:
    folder = reward_model(family)
    expected = plain(folder)
    assert len({round(value, 3) for value in expected}) == len(TEXTS)
    assert values([folder], batch_tokens=batch_tokens) == pytest.approx(expected, abs=1e-5)


def test_the_end_token_as_padding_does_not_hide_a_chats_end(reward_model: Make) -> None:
    folder = Path(reward_model("llama"))  # its chats end with <end>, and now that is the padding too
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": "<end>"}))
    assert values([str(folder)]) == pytest.approx(plain(str(folder)), abs=1e-5)


def test_scores_are_averaged(reward_model: Make) -> None:
    start = reward_model("llama")
    models = [start, reward_model("gpt2"), reward_model("llama", seed=2, near=start)]
    told = [plain(model) for model in models]
    expected = [sum(column) / 3 for column in zip(*told, strict=True)]
    assert values(models, average="scores") == pytest.approx(expected, abs=1e-5)


def test_averaged_weights_are_the_model_averaged_by_hand(reward_model: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    start = reward_model("llama")
    models = [start, *(reward_model("llama", seed=seed, near=start) for seed in (1, 2))]
    weights = [load_file(f"{model}/model.safetensors") for model in models]
    mean = {name: sum(w[name] for w in weights) / 3 for name in weights[0]}
    byhand = shutil.copytree(start, tmp_path / "by-hand")
    save_file(mean, byhand / "model.safetensors", metadata={"format": "pt"})
    assert values(models) == pytest.approx(plain(str(byhand)), abs=1e-5)
    assert values(models) != pytest.approx(values(models, average="scores"), abs=1e-4)


def test_the_label_picks_a_logit(reward_model: Make) -> None:
    folder = reward_model("llama", labels=3)
    assert values([folder], label=2) == pytest.approx(plain(folder, 2), abs=1e-5)
    for label in (None, 3, -1):
        with pytest.raises(Refusal, match="has 3 logits"):
            rewards([folder], label=label)


def test_a_chat_longer_than_the_context_is_missing_and_not_cut(reward_model: Make) -> None:
    folder = reward_model("gpt2")  # 128 positions
    [short, long] = rewards([folder], ["ja", "nei " * 200], PROMPTS[:2])
    assert short.valid and long == Reward.missing("longer than the reward model's context")


def test_what_is_no_reward_model_is_refused(reward_model: Make, tiny_model: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"lacks score\.weight: its reward would be random"):
        rewards([tiny_model("llama")])
    with pytest.raises(Refusal, match="has other weights than"):
        rewards([reward_model("llama"), reward_model("gpt2")])
    untold = Path(reward_model("qwen3"))
    (untold / "chat_template.jinja").unlink()
    with pytest.raises(Refusal, match="cannot read a chat"):
        rewards([str(untold)])
    with pytest.raises(Refusal, match="another tokenizer or chat template"):
        rewards([reward_model("qwen3", seed=4), str(untold)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refusal, match="empty is empty"):
        rewards([str(tmp_path / "empty")])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "needs `models`"),
        ({"models": ["/nowhere/model"]}, "no model folder /nowhere/model"),
        ({"models": ["model"]}, "no model folder model"),
        ({"models": ["a/b"], "average": "votes"}, "average is 'votes'"),
        ({"models": "a/b"}, "expected a list of texts"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(Refusal, match=said) as refusal:
        component({"use": "reward_model", **given})
    assert len(str(refusal.value).splitlines()) == 2


def test_the_identity_holds_weights_and_no_path(reward_model: Make, tmp_path: Path) -> None:
    def identity(*models: str) -> str:
        return json.dumps(component({"use": "reward_model", "models": list(models)}).identity())

    one, other = reward_model("llama"), reward_model("llama", seed=1)
    moved = str(shutil.copytree(one, tmp_path / "moved"))
    assert identity(one) == identity(moved) != identity(other)
    assert identity(one, other) != identity(one)
    assert str(tmp_path) not in identity(one, other)


def test_another_device_or_batch_finds_the_slice_that_is_there(
    recipe: Any,
    change: Callable[..., Any],
    make: Callable[..., Any],
    reward_model: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = {"use": "reward_model", "models": [reward_model("llama")]}
    first = change(recipe, components={"liked": entry}, reward="liked")
    make(first, "prompts,samples,rewards")
    capsys.readouterr()
    lake = make(
        change(first, components={"liked": {**entry, "device": "cpu", "batch_tokens": 40}}),
        "rewards",
    )
    assert "rewards/liked-" in (said := capsys.readouterr().out) and said.count("found, nothing to do") == 1
    assert len(lake.slices("rewards", label="liked")) == 1
