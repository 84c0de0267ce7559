"""Fingerprints of models: from files alone, the same for any sharding, another for any change that changes log-probabilities."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from data.config import ModelSettings, Recipe
from data.fingerprint import identity, loading, model_folder, policy_model, tokenizer_fingerprint, weights_fingerprint
from data.refusal import Refusal


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder that has everything an identity is made of."""
    path = tmp_path / "model"
    path.mkdir()
    tensors = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b.weight": np.ones(4, np.float16)}
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return path


def test_sharding_does_not_change_the_weights_fingerprint(folder, tmp_path):
    other = tmp_path / "sharded"
    other.mkdir()
    save_file({"b.weight": np.ones(4, np.float16)}, other / "model-00001-of-00002.safetensors")
    save_file({"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}, other / "model-00002-of-00002.safetensors")
    assert weights_fingerprint(other) == weights_fingerprint(folder)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a.weight": np.arange(6, dtype=np.float32).reshape(3, 2), "b.weight": np.ones(4, np.float16)},
        {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "c.weight": np.ones(4, np.float16)},
        {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b.weight": np.ones(4, np.uint16) * 0x3C00},
        {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3) + 1e-6, "b.weight": np.ones(4, np.float16)},
    ],
    ids=["shape", "name", "dtype", "one value"],
)
def test_another_shape_name_dtype_or_value_is_another_fingerprint(folder, tmp_path, tensors):
    other = tmp_path / "other"
    other.mkdir()
    save_file(tensors, other / "model.safetensors")
    assert weights_fingerprint(other) != weights_fingerprint(folder)


def test_a_file_changed_in_place_is_read_again(folder):
    before = weights_fingerprint(folder)
    save_file({"a.weight": np.zeros((2, 3), np.float32)}, folder / "model.safetensors")
    assert weights_fingerprint(folder) != before


def test_weights_that_are_cut_short_are_refused(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-3])
    with pytest.raises(Refusal, match="cut short"):
        weights_fingerprint(folder)


def test_the_model_id_follows_what_changes_values_and_nothing_else(folder, tmp_path):
    model = ModelSettings(path=str(folder))
    base = identity(model, "runs")
    moved = tmp_path / "moved"
    folder.rename(moved)
    again = identity(replace(model, path=str(moved)), "runs")
    assert again["model_id"] == base["model_id"] and again["name"] != base["name"]
    assert identity(replace(model, path=str(moved), dtype="bfloat16"), "runs")["model_id"] != base["model_id"]
    template = replace(model, path=str(moved), chat_template="{{ bos }}")
    assert identity(template, "runs")["model_id"] != base["model_id"]
    (moved / "tokenizer.json").write_text('{"model": {"vocab": {"b": 0}}}')
    assert identity(replace(model, path=str(moved)), "runs")["model_id"] != base["model_id"]


def test_random_weights_are_named_by_their_architecture(folder):
    drawn = ModelSettings(path=str(folder), initial="random")
    before = identity(drawn, "runs")["weights"]
    (folder / "model.safetensors").unlink()
    assert identity(drawn, "runs")["weights"] == before
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 8}')
    assert identity(drawn, "runs")["weights"] != before


def test_random_weights_of_another_seed_are_another_model(folder):
    drawn = ModelSettings(path=str(folder), initial="random")
    assert identity(drawn, "runs", 1)["model_id"] != identity(drawn, "runs", 2)["model_id"]
    read = ModelSettings(path=str(folder))
    assert identity(read, "runs", 1) == identity(read, "runs", 2)


@pytest.mark.parametrize(
    ("file", "content", "same"),
    [
        ("config.json", {"model_type": "llama", "rope_theta": 5.0}, False),
        ("config.json", {"model_type": "llama", "time_step_limit": float("inf")}, False),
        ("config.json", {"model_type": "llama", "transformers_version": "9.9", "dtype": "float32"}, True),
        ("generation_config.json", {"eos_token_id": [1, 2]}, False),
        ("generation_config.json", {"top_k": 50}, True),
    ],
)
def test_the_same_weights_under_another_configuration_are_another_model(folder, file, content, same):
    before = identity(ModelSettings(path=str(folder)), "runs")
    (folder / file).write_text(json.dumps(content))
    after = identity(ModelSettings(path=str(folder)), "runs")
    assert (after["model_id"] == before["model_id"]) is same
    assert after["weights"] == before["weights"]


def test_the_end_token_belongs_to_the_tokenizer(folder):
    before = tokenizer_fingerprint(folder)
    settings = {"chat_template": "{{ messages }}", "model_max_length": 7}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert tokenizer_fingerprint(folder) == before
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<end>"}))
    assert tokenizer_fingerprint(folder) != before


def test_a_template_beside_the_weights_wins_over_the_tokenizers(folder):
    before = identity(ModelSettings(path=str(folder)), "runs")["chat_template"]
    (folder / "chat_template.jinja").write_text("{{ other }}")
    assert identity(ModelSettings(path=str(folder)), "runs")["chat_template"] != before


def test_missing_models_tokenizers_and_runs_are_refused(folder, tmp_path):
    with pytest.raises(Refusal, match="no model folder at"):
        model_folder(ModelSettings(path="/nowhere/model"), "runs")
    with pytest.raises(Refusal, match="no finished run named first"):
        model_folder(ModelSettings(path="run:first"), tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(Refusal, match="holds no tokenizer"):
        tokenizer_fingerprint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(Refusal, match=r"no \*\.safetensors weights"):
        weights_fingerprint(folder)


def test_the_policy_is_the_student_or_a_run():
    recipe = Recipe(name="x", student=ModelSettings(path="here", gguf_file="x.gguf", initial="random"))
    assert policy_model(recipe) is recipe.student
    later = policy_model(replace(recipe, policy="run:first"))
    assert (later.path, later.gguf_file, later.initial) == ("run:first", None, "pretrained")
    with pytest.raises(Refusal, match="neither student nor run:NAME"):
        policy_model(replace(recipe, policy="first"))


def test_a_folder_of_a_gguf_file_alone_is_answered_with_its_name(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(Refusal, match="is empty"):
        model_folder(ModelSettings(path=str(folder)), "runs")
    (folder / "tiny-Q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(Refusal, match=r"tiny-Q4\.gguf") as refused:
        model_folder(ModelSettings(path=str(folder)), "runs")
    assert refused.value.args[1].startswith("student.gguf_file=tiny-Q4.gguf,")
    assert model_folder(ModelSettings(path=str(folder), gguf_file="tiny-Q4.gguf"), "runs") == folder
    (folder / "tiny-Q8.gguf").write_bytes(b"GGUF")
    with pytest.raises(Refusal, match=r"tiny-Q4\.gguf, tiny-Q8\.gguf"):
        model_folder(ModelSettings(path=str(folder)), "runs")
    (folder / "model.safetensors").write_bytes(b"")
    assert model_folder(ModelSettings(path=str(folder)), "runs") == folder


def test_weights_that_take_long_to_load_are_announced_with_their_size(tmp_path):
    for name, size in (("a", 1_200_000_000), ("b", 1_300_000_000)):
        with (tmp_path / f"{name}.safetensors").open("wb") as file:
            file.truncate(size)  # no block of it is written
    model = ModelSettings(path="hub/name")
    assert loading(model, tmp_path) == "loading hub/name (2.5 GB) …"
    assert loading(ModelSettings(path="hub/name", initial="random"), tmp_path) is None
    (tmp_path / "b.safetensors").unlink()
    (tmp_path / "a.safetensors").write_bytes(b"small")
    assert loading(model, tmp_path) is None
