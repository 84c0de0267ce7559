"""What vLLM is opened with, and the weights it would read otherwise. No vLLM is needed to be refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from data.config import ModelSettings
from data.refusal import Refusal
from factory.config import VllmSettings
from factory.engines.vllm_arguments import arguments, refuse_other_weights


@pytest.fixture
def settings(tiny_model):
    return ModelSettings(path=tiny_model("llama"))


def test_a_batch_has_room_for_a_token_of_every_sample_and_a_text_for_one_more(settings):
    given = arguments(Path(settings.path), settings, VllmSettings(max_num_seqs=4096, enforce_eager=False), 512)
    assert given["max_num_batched_tokens"] == 4096 and given["max_model_len"] == 513
    assert given["logprobs_mode"] == "processed_logprobs" and given["generation_config"] == "vllm"
    assert given["enforce_eager"] is False and given["dtype"] == "float32"
    with pytest.raises(Refusal, match=r"engine\.vllm\.max_model_len=0 is outside"):
        VllmSettings(max_model_len=0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gguf_file": "x.gguf"}, "GGUF weights are read by hf alone"),
        ({"initial": "random"}, "drawn from a seed are read by hf alone"),
    ],
)
def test_weights_that_vllm_reads_otherwise_are_refused(settings, changes, says):
    refuse_other_weights(Path(settings.path), settings)
    with pytest.raises(Refusal, match=says):
        refuse_other_weights(Path(settings.path), dataclasses.replace(settings, **changes))


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "lm_head"], "all-linear"])
def test_a_model_beside_an_adapter_is_refused_and_the_head_is_named(settings, tmp_path, targets):
    folder = shutil.copytree(settings.path, tmp_path / "adapted")
    (folder / "adapter_config.json").write_text(json.dumps({"target_modules": targets}), encoding="utf-8")
    with pytest.raises(Refusal, match="vLLM would read the model alone") as refused:
        refuse_other_weights(folder, settings)
    assert ("output layer" in str(refused.value)) == ("lm_head" in targets)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_the_refusal_names_its_environment(settings):
    from factory.engines.tokens import Tokens
    from factory.engines.vllm import VllmEngine

    folder = Path(settings.path)
    with pytest.raises(Refusal, match="vLLM cannot be imported here") as refused:
        VllmEngine(folder, settings, {}, Tokens.open(settings, folder), VllmSettings())
    assert "make vllm-env" in refused.value.args[1]
