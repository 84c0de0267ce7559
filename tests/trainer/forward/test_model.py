"""Loading, saving and refusing models; heads and ends; the fallback to plain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainer.forward import context_length, end_token_ids, group_logprobs, head_of, load, save
from trainer.forward import logprobs as logprobs_module
from trainer.forward import pack as pack_module
from trainer.forward import split as split_module
from trainer.forward.model import check_head

PACKED = ["llama", "qwen3", "mistral", "gemma3", "gpt2"]
FAMILIES = [*PACKED, "bloom"]
SHAPES = [(9, [4, 1, 7]), (3, [5])]


def rewrite(path, name, **fields):
    file = Path(path) / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_loads_in_transformers_with_the_same_weights_and_tokens(family, policy, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny = policy(family)
    with torch.no_grad():
        next(tiny.model.parameters()).add_(0.125)
    save(tiny, str(tmp_path))
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors", ".json", ".jinja"}
    assert type(again) is type(tiny.model)
    for (name, ours), theirs in zip(tiny.model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    text = "Hvør býr á Íslandi? 42 €"
    messages = [{"role": "user", "content": text}]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(text)["input_ids"] == tiny.tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        == f"<|user|>{text}<end><|assistant|>"
    )


def test_random_weights_come_from_the_seed_and_the_configuration_alone(tiny_model, tmp_path):
    folder = tiny_model("llama", tmp_path)
    (Path(folder) / "model.safetensors").unlink()
    first, same, other = (load(folder, initial="random", seed=s).model.state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_loaded_models_have_no_dropout_and_the_type_that_was_asked_for(tiny_model):
    folder = tiny_model("gpt2")
    assert not load(folder).model.training
    assert load(folder).model.dtype == torch.float32
    assert load(folder, dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_keeps_the_shared_layout(family, tiny_model):
    assert load(tiny_model(family), dtype="bfloat16").layout == ("split" if family in PACKED else "kv")


@pytest.mark.parametrize("path", ["/nowhere/model", "./nowhere", "tests/nowhere", "a/b/c"])
def test_a_missing_folder_is_refused_at_once_with_its_path(path, tmp_path, monkeypatch):
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"no model folder at '{path}'"):
        load(path)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_without_a_tokenizer_is_refused(family, tiny_model, tmp_path):
    folder = tiny_model(family, tmp_path)
    for file in Path(folder).glob("*token*"):
        file.unlink()
    with pytest.raises(ValueError, match=f"no tokenizer can be loaded from '{folder}'"):
        load(folder)


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json"])
def test_a_folder_without_weights_or_configuration_is_refused(lost, tiny_model, tmp_path):
    folder = tiny_model("llama", tmp_path)
    (Path(folder) / lost).unlink()
    with pytest.raises(ValueError, match=f"from '{folder}'"):
        load(folder)


@pytest.mark.parametrize(
    "wrong", [{"dtype": "float31"}, {"dtype": "nn"}, {"dtype": "int8"}, {"initial": "zero"}, {"layout": "dense"}]
)
def test_an_unknown_name_is_refused_with_the_known_ones(wrong, tiny_model):
    with pytest.raises(ValueError, match=rf"{next(iter(wrong.values()))}.*known: "):
        load(tiny_model("llama"), **wrong)


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ("CohereConfig", {"logit_scale": 0.25}),
        ("GraniteConfig", {"logits_scaling": 4.0}),
        (
            "Gemma2Config",
            {"head_dim": 8, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0, "sliding_window": 6},
        ),
    ],
)
def test_scales_and_soft_caps_are_read_and_exact(config, fields, random_groups, logprobs_alone, tiny_model, tmp_path):
    import transformers

    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
    }
    ids = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    folder = tiny_model("llama", tmp_path)
    made = getattr(transformers, config)(**shape, **ids, **fields, initializer_range=0.15)
    transformers.AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    tiny, groups = load(folder), random_groups(SHAPES)
    assert tiny.layout == ("kv" if config == "Gemma2Config" else "split")
    head = head_of(tiny.model)
    assert (head.scale, head.soft_cap) == (
        {"CohereConfig": 0.25, "GraniteConfig": 0.25}.get(config, 1.0),
        fields.get("final_logit_softcapping"),
    )
    with torch.no_grad():
        torch.testing.assert_close(group_logprobs(tiny, groups), logprobs_alone(tiny.model, groups), atol=1e-5, rtol=0)


def test_a_head_bias_is_read_and_exact(random_groups, logprobs_alone, tiny_model, tmp_path):
    import transformers

    folder = tiny_model("gpt2", tmp_path)
    config = transformers.PhiConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        pad_token_id=None,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(folder)
    tiny, groups = load(folder), random_groups(SHAPES)
    assert tiny.layout == "split" and head_of(tiny.model).bias_v is not None
    with torch.no_grad():
        torch.testing.assert_close(group_logprobs(tiny, groups), logprobs_alone(tiny.model, groups), atol=1e-5, rtol=0)


def test_a_head_that_the_configuration_describes_wrongly_is_refused(policy):
    tiny = policy("llama")
    tiny.model.config.logit_scale = 0.5
    with pytest.raises(ValueError, match=r"LlamaForCausalLM's own logits differ .*scale 0\.5"):
        check_head(tiny.model)


def test_opt_loads_and_is_exact(random_groups, logprobs_alone, tiny_model, tmp_path):
    import transformers

    folder = tiny_model("gpt2", tmp_path)
    config = transformers.OPTConfig(
        vocab_size=300,
        hidden_size=32,
        word_embed_proj_dim=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
        init_std=0.15,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny, groups = load(folder), random_groups(SHAPES)
    assert tiny.layout == "split"
    with torch.no_grad():
        torch.testing.assert_close(group_logprobs(tiny, groups), logprobs_alone(tiny.model, groups), atol=1e-5, rtol=0)


def test_a_layout_that_is_wrong_falls_back_to_plain_and_says_why(tiny_model, monkeypatch):
    monkeypatch.setattr(logprobs_module, "check_layout", lambda policy, groups: 0.25)
    tiny = load(tiny_model("llama"))
    assert tiny.layout == "plain" and tiny.reason.count("differ by 0.25 nats") == 2
    monkeypatch.setattr(logprobs_module, "check_layout", lambda policy, groups: float("nan"))
    assert load(tiny_model("llama")).layout == "plain"
    assert load(tiny_model("llama"), layout="kv").layout == "kv"


def test_a_layout_that_fails_falls_back_to_plain_and_says_why(tiny_model, monkeypatch):
    def fails(*_):
        raise TypeError("no cache of that kind")

    monkeypatch.setattr(pack_module, "prefill", fails)
    tiny = load(tiny_model("bloom"))
    assert tiny.layout == "plain" and "no cache of that kind" in tiny.reason


def test_a_torch_without_the_operators_takes_kv_and_says_why(tiny_model, random_groups, logprobs_alone, monkeypatch):
    monkeypatch.setattr(split_module, "operators_present", lambda: False)
    tiny, groups = load(tiny_model("llama")), random_groups(SHAPES)
    assert tiny.layout == "kv" and "no flash attention of its own for layout split on cpu" in tiny.reason
    assert tiny.model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        torch.testing.assert_close(group_logprobs(tiny, groups), logprobs_alone(tiny.model, groups), atol=1e-5, rtol=0)


def test_a_layout_that_is_named_and_cannot_be_had_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"layout split cannot be had: BloomForCausalLM .*layout auto"):
        load(tiny_model("bloom"), layout="split")


def test_a_packed_layout_leaves_other_models_and_the_saved_folder_alone(tiny_model, tmp_path):
    first, second = load(tiny_model("llama")), load(tiny_model("llama"), layout="kv")
    assert first.layout == "split" and second.model.config._attn_implementation == "sdpa"
    save(first, str(tmp_path))
    assert "packed" not in (tmp_path / "config.json").read_text()


def test_a_packed_policy_still_generates_with_transformers_as_before(tiny_model):
    ids_1t = torch.tensor([[5, 9, 17, 30]])
    first, second = (load(tiny_model("llama"), layout=layout).model for layout in ("split", "plain"))
    drawn = [model.generate(ids_1t, max_new_tokens=6, do_sample=False, pad_token_id=0) for model in (first, second)]
    assert torch.equal(*drawn)


def test_a_window_that_does_not_reach_the_attention_call_is_refused(tiny_model, random_groups):
    tiny = load(tiny_model("gemma3"), layout="split")
    layer = next(layer for layer in tiny.model.model.layers if layer.self_attn.sliding_window is not None)
    layer.self_attn.sliding_window = None
    with pytest.raises(NotImplementedError, match="has the window 6, its attention is told None"):
        group_logprobs(tiny, random_groups(SHAPES))


def test_a_recurrent_model_is_plain_with_a_reason_and_exact(random_groups, logprobs_alone, tiny_model, tmp_path):
    import transformers

    folder = tiny_model("llama", tmp_path)
    config = transformers.MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny, groups = load(folder), random_groups(SHAPES)
    assert tiny.layout == "plain" and tiny.reason
    with torch.no_grad():
        torch.testing.assert_close(group_logprobs(tiny, groups), logprobs_alone(tiny.model, groups), atol=1e-5, rtol=0)


def test_end_tokens_are_joined_from_all_sources_without_repetition(policy):
    tiny = policy("llama")
    assert end_token_ids(tiny) == [1]
    tiny.model.generation_config.eos_token_id = [4, 1]
    tiny.model.config.eos_token_id = 999999
    assert end_token_ids(tiny) == [4, 1]


def test_context_length_is_the_configurations(policy):
    lengths = {family: context_length(policy(family)) for family in FAMILIES}
    assert lengths == {"llama": 512, "qwen3": 512, "mistral": 512, "gemma3": 512, "gpt2": 128, "bloom": None}


def test_two_models_of_one_folder_share_no_configuration(tiny_model):
    first, second = load(tiny_model("llama")), load(tiny_model("llama"))
    first.model.config.max_position_embeddings = 7
    assert context_length(second) == 512


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_gguf_files_load_as_dense_weights_that_train_and_save(kind, tiny_model, tmp_path):
    gguf = pytest.importorskip("gguf")
    quantisation = gguf.GGMLQuantizationType[kind]
    source = load(tiny_model("llama"))
    file = _write_gguf(gguf, source, tmp_path / "tiny.gguf", quantisation)
    tiny = load(str(tmp_path), gguf_file=file.name)
    assert tiny.model.config.num_hidden_layers == 2 and tiny.layout == "split"
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.up_proj.weight"):
        stored = gguf.quants.quantize(source.model.state_dict()[name].numpy(), quantisation)
        expected = torch.from_numpy(gguf.quants.dequantize(stored, quantisation))
        torch.testing.assert_close(tiny.model.state_dict()[name], expected, atol=1e-7, rtol=1e-6)
    assert tiny.tokenizer("báturin")["input_ids"] == source.tokenizer("báturin")["input_ids"]
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in tiny.model.parameters())
    save(tiny, str(tmp_path / "dense"))
    again = load(str(tmp_path / "dense"))
    assert torch.equal(again.model.lm_head.weight, tiny.model.lm_head.weight)


def _write_gguf(gguf, policy, path, quantisation):
    """The fewest fields that transformers' reader asks for, with the weights under llama.cpp's names."""
    writer, config = gguf.GGUFWriter(str(path), "llama"), policy.model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    core = json.loads(policy.tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(policy.tokenizer.get_vocab(), key=policy.tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([" ".join(pair) for pair in core["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
    }
    parts |= {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    parts |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for layer in range(config.num_hidden_layers):
        names |= {f"model.layers.{layer}.{ours}": f"blk.{layer}.{theirs}" for ours, theirs in parts.items()}
    for name, tensor in policy.model.state_dict().items():
        kind = quantisation if tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
        stored = gguf.quants.quantize(tensor.numpy(), kind)
        writer.add_tensor(names[name.removesuffix(".weight")] + ".weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("layout", ["split", "kv", "plain"])
def test_autocast_gives_float32_logprobs_near_those_of_float32(layout, policy, random_groups):
    tiny, groups = policy("llama", layout), random_groups([(9, [4, 1, 7]), (3, [5])])
    exact_n = group_logprobs(tiny, groups)
    exact_n.sum().backward()
    exact = {name: p.grad.clone() for name, p in tiny.model.named_parameters()}
    tiny.model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logprob_n = group_logprobs(tiny, groups)
    logprob_n.sum().backward()
    assert logprob_n.dtype == torch.float32 and 0 < (logprob_n - exact_n).abs().mean() < 0.05
    for name, p in tiny.model.named_parameters():
        assert p.grad.dtype == torch.float32
        assert (p.grad - exact[name]).norm() < 0.05 * exact[name].norm(), name


@pytest.fixture
def one_process(tmp_path):
    """A process group of one, whose mesh shards over it."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield dist.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_a_sharded_head_is_gathered_with_its_gradient(policy, random_groups, one_process):
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    tiny, groups = policy("llama"), random_groups(SHAPES)
    expected_n = group_logprobs(tiny, groups)
    expected_n.sum().backward()
    layer = tiny.model.lm_head
    expected = layer.weight.grad
    layer.weight = torch.nn.Parameter(distribute_tensor(layer.weight.detach(), one_process, [Shard(0)]))
    logprob_n = group_logprobs(tiny, groups)
    logprob_n.sum().backward()
    torch.testing.assert_close(logprob_n, expected_n)
    assert isinstance(layer.weight.grad, DTensor) and layer.weight.grad.placements == (Shard(0),)
    torch.testing.assert_close(layer.weight.grad.full_tensor(), expected)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_tied_embeddings_few_rows_join_the_heads_dense_gradient(family, tied, policy, random_groups):
    tiny, found = policy(family, tie_word_embeddings=tied), []
    embedding = tiny.model.get_input_embeddings()
    assert embedding.sparse is tied
    for sparse in (tied, False):
        embedding.sparse = sparse
        for _ in range(2):  # as two micro-batches do
            group_logprobs(tiny, random_groups(SHAPES)).sum().backward()
        assert embedding.weight.grad.layout is torch.strided
        found.append([p.grad for p in tiny.model.parameters()])
        tiny.model.zero_grad(set_to_none=True)
    for ours, dense in zip(*found, strict=True):
        assert torch.allclose(ours, dense, rtol=0, atol=1e-6)
