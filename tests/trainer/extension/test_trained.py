"""From other-language text to a wider model that learns Faroese, by the real commands: every line of the task in one run each."""

from __future__ import annotations

import pytest

WIDE = {"hidden_size": 48, "intermediate_size": 96, "sliding_window": 64, "initializer_range": 0.02}
pytestmark = pytest.mark.slow


def trained_both_ways(world, model, bits_per_byte, train, held_out, capsys):
    """bits per byte of held-out text (before, from pieces, from random) and the tokens-per-byte ratio."""
    world.corpus("faroese", *train)
    world.factory("english", model)
    assert world.trainer("english", model, "run=english", "steps=150") == 0
    world.factory("faroese", "run:english")
    found = {"english": bits_per_byte(world.final("english"), held_out)}
    for start in ("pieces", "random"):
        assert (
            world.extend("faroese", "run:english", f"run={start}", "tokens=400", "min_count=3", f"start={start}") == 0
        )
        world.factory("faroese", f"run:{start}")
        phases = "losses.phases=[{steps: 15, trainable: embeddings}]"
        assert world.trainer("faroese", f"run:{start}", f"run={start}-fo", "steps=50", phases) == 0
        found[start] = bits_per_byte(world.final(f"{start}-fo"), held_out)
    figures = world.record("pieces")["configuration"]["extend"]
    ratio = figures["tokens_per_byte_after"] / figures["tokens_per_byte_before"]
    with capsys.disabled():
        shown = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        print(
            f"\ntokens per byte {figures['tokens_per_byte_before']:.4f} → "
            f"{figures['tokens_per_byte_after']:.4f} ({ratio:.3f}); bpb {shown}"
        )
    return ratio, found


def test_made_faroese(world, tiny_model, made_texts, bits_per_byte, capsys):
    english, held_out = made_texts("en", 400, 0), made_texts("fo", 40, 2)
    world.corpus("english", english, made_texts("en", 10, 1))
    model = tiny_model("mistral", text=english, tokens=420, **WIDE)
    train = made_texts("fo", 400, 3), held_out
    ratio, bits = trained_both_ways(world, model, bits_per_byte, train, held_out, capsys)
    assert ratio <= 0.7
    assert bits["pieces"] < bits["random"]
    assert bits["pieces"] < bits["english"]


def test_real_faroese(world, tiny_model, real_text, bits_per_byte, capsys):
    english, held_out = real_text("sib200/eng_Latn.train.tsv"), real_text("lid/fo.txt")
    world.corpus("english", english, real_text("sib200/eng_Latn.dev.tsv")[:20])
    model = tiny_model("mistral", text=english, tokens=1000, **WIDE)
    train = real_text("ud/ud_faroese_farpahc.txt") + real_text("sib200/fao_Latn.train.tsv")
    ratio, bits = trained_both_ways(world, model, bits_per_byte, (train, held_out), held_out, capsys)
    assert ratio <= 0.7
    # so small a model knows too little for its rows to be worth a mean: 3.297 and 3.290 bits a byte, no claim (docs/tokenizer.md)
    assert bits["pieces"] < bits["english"]
