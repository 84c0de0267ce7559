"""What vLLM is opened with: its arguments and environment, and the weights that it would read as others than transformers does.

Reads an adapter's settings, where a folder has one. Imports no vllm. Refuses GGUF, weights drawn from a seed, and adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.config import ModelSettings
from data.refusal import Refusal
from factory.config import VllmSettings

INSTEAD = "engine=hf"
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: a kill leaves no orphan that holds the device
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # one more than the model's: see `arguments`
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; without it most of the machine's memory is claimed at once
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # in this process, binding would move the scorer's threads too
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
}


def arguments(folder: Path, model: ModelSettings, settings: VllmSettings, longest: int) -> dict[str, Any]:
    """vLLM's EngineArgs. It wants to draw a token behind every text that it scores, so that one of full length needs one more."""
    eager, cpu = settings.enforce_eager, _on_cpu()
    batch = max(settings.max_num_batched_tokens, settings.max_num_seqs)
    return {
        "model": str(folder),
        "dtype": model.dtype,
        "trust_remote_code": model.trust_remote_code,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": -1,
        "max_model_len": longest + 1,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": max(batch, longest + 1) if cpu else batch,
        # vLLM 0.32 rewinds a sample's generator after each part of a prompt, which a CPU's generator cannot do
        "enable_chunked_prefill": False if cpu else None,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enforce_eager": cpu if eager is None else eager,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }


def _on_cpu() -> bool:
    import torch

    return not torch.cuda.is_available()


def refuse_other_weights(folder: Path, model: ModelSettings) -> None:
    """What vLLM would load as other weights than transformers does."""
    if model.gguf_file or model.initial != "pretrained":
        what = "GGUF weights" if model.gguf_file else "weights drawn from a seed"
        raise Refusal(f"model {model.path}: {what} are read by hf alone", INSTEAD)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        settings = json.loads(adapter.read_text(encoding="utf-8"))
        named = [*(settings.get("target_modules") or []), *(settings.get("modules_to_save") or [])]
        on_head = ", on the output layer too, which vLLM scores without it" if "lm_head" in named else ""
        raise Refusal(
            f"{folder} is a model beside an adapter{on_head}: vLLM would read the model alone",
            "merge it first: trainer.adapter.merged(FOLDER), or train with optimiser.lora.merge=true",
        )
