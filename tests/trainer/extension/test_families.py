"""Families with byte-level and SentencePiece-like tokenizers are widened and trained; what was made for old tokens is refused."""

from __future__ import annotations

import pytest

# gpt2 stands for GPT-SW3 too: its architecture, with a byte-level tokenizer where the original has SentencePiece, as llama stands
FAMILIES = ("mistral", "llama", "gpt2", "bloom")


@pytest.fixture
def widened(world, tiny_model, made_texts, capsys):
    """`widened(family)`: the old model's folder; run:wider is the same with Faroese tokens, in a world with corpora for both."""

    def of(family: str, **shape) -> str:
        english, faroese = made_texts("en", 60, 0), made_texts("fo", 120, 1)
        model = tiny_model(family, text=english, tokens=420, initializer_range=0.02, **shape)
        world.corpus("faroese", faroese, made_texts("fo", 12, 2))
        world.factory("faroese", model)
        assert world.extend("faroese", model, "run=wider", "tokens=120", "min_count=3") == 0
        return model

    return of


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_widened_and_learns(world, widened, bits_per_byte, made_texts, family):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = widened(family, **({"sliding_window": 64} if family == "mistral" else {}))
    figures, held_out = world.record("wider")["configuration"]["extend"], made_texts("fo", 12, 2)
    assert figures["tokens_per_byte_after"] <= 0.7 * figures["tokens_per_byte_before"]
    old, new = AutoModelForCausalLM.from_pretrained(model), AutoModelForCausalLM.from_pretrained(world.final("wider"))
    before, after = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(world.final("wider"))
    height = len(before)
    assert len(after) == height + figures["new_tokens"] == new.get_input_embeddings().weight.shape[0]
    for read in (lambda m: m.get_input_embeddings().weight, lambda m: m.get_output_embeddings().weight):
        assert torch.equal(read(old)[:height], read(new)[:height])
        if family != "mistral":  # byte-level pieces are texts by themselves, so their parts can be told from outside
            parts = [before.encode(after.decode([id_]), add_special_tokens=False) for id_ in range(height, len(after))]
            means = torch.stack([read(old)[ids].mean(0) for ids in parts])
            alike = (means - read(new)[height:]).abs().amax(1) < 1e-6
            assert alike.float().mean() > 0.9  # inside words a few are cut otherwise than alone
    world.factory("faroese", "run:wider")
    assert world.trainer("faroese", "run:wider", "run=taught", "steps=12", "replay.corpus_tokens=512",
                         "losses.phases=[{steps: 4, trainable: embeddings}]") == 0  # fmt: skip
    assert bits_per_byte(world.final("taught"), held_out) < bits_per_byte(world.final("wider"), held_out)


def test_a_pool_a_corpus_and_answers_of_the_old_tokens_are_refused(world, widened, capsys):
    model = widened("llama")
    folder = world.folder / "conf" / "recipe"
    taught = (folder / "faroese.yaml").read_text().replace("name: faroese", "name: taught")
    (folder / "taught.yaml").write_text(f"""{taught}
teacher: {{path: {model}}}
sampling: {{n: 2, max_tokens: 4}}
answers: {{max_tokens: 4}}
components: {{length: {{use: length, unit: chars}}}}
reward: length
""")
    world.factory("taught", model, "stages=[prompts,answers,samples,rewards,corpus]")
    by = {
        "sampled from another policy, tokenizer or chat template": ("losses.pt=0", "losses.rl=1", "replay.prompts=1"),
        "not in this student's tokens: another tokenizer": ("losses.pt=0", "losses.bc=1", "replay.bc=teacher"),
        "has no corpus faroese in this student's tokens": (),
    }  # fmt: skip
    for message, words in by.items():
        capsys.readouterr()
        assert world.trainer("taught", "run:wider", "run=new", "steps=1", *words) == 2
        assert message in capsys.readouterr().err
    keep = ("replay.zero_variance=keep", "replay.truncated=keep")
    for number, words in enumerate(by.values()):  # nothing but the tokens stands in the way
        assert world.trainer("taught", model, f"run=old-{number}", "steps=1", *keep, *words) == 0
