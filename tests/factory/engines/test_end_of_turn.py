"""Where an answer ends: at what the chat template puts behind an assistant's turn, if sampling stops there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from data.config import ModelSettings, PromptSource
from data.fingerprint import end_tokens, identity
from data.lake import Lake
from factory.config import FactoryRecipe, ImportSource
from factory.engines.tokens import Tokens

BEGIN = "{% for m in messages %}"
CLOSE = "{% endfor %}{% if add_generation_prompt %}"


@dataclasses.dataclass(frozen=True)
class Family:
    """How a family of models writes a conversation, shortened from its own chat template."""

    template: str | None
    eos: str
    """The tokenizer's own end token."""
    stops: tuple[str, ...]
    """eos_token_id of its generation_config.json."""
    turn: str
    """What must end an answer."""
    own: str = "llama"
    """The configuration's class, and which of the tests' tokenizers."""


FAMILIES = {
    "gemma3": Family(
        BEGIN + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        + CLOSE + "<start_of_turn>model\n{% endif %}",
        "<eos>", ("<eos>", "<end_of_turn>"), "<end_of_turn>", "gemma3",
    ),
    "llama3": Family(
        BEGIN + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
        + CLOSE + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        "<|end_of_text|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), "<|eot_id|>",
    ),
    "qwen": Family(
        BEGIN + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" + CLOSE + "<|im_start|>assistant\n{% endif %}",
        "<|endoftext|>", ("<|im_end|>", "<|endoftext|>"), "<|im_end|>", "qwen3",
    ),
    "qwen that does not stop at its end of turn": Family(
        BEGIN + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" + CLOSE + "<|im_start|>assistant\n{% endif %}",
        "<|endoftext|>", ("<|endoftext|>",), "<|endoftext|>", "qwen3",
    ),
    "mistral": Family(
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>"
        "{% endif %}{% endfor %}",
        "</s>", ("</s>",), "</s>", "mistral",
    ),
    "no template": Family(None, "<|endoftext|>", ("<|im_end|>", "<|endoftext|>"), "<|endoftext|>", "gpt2"),
}  # fmt: skip
LETTERS = st.text("abc ðáøæ,.!?1 Ж", min_size=1, max_size=12).map(lambda text: text.strip() or "a")
NAMES = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def folder(tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`folder(name)`: a random model of that family with its tokens, template and stops."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = written(FAMILIES[name], tiny_model, tmp_path_factory.mktemp("turns"))
        return made[name]

    return of


def written(family: Family, tiny_model: Callable[..., str], place: Path) -> Path:
    """The folder; its tokenizer has the family's special tokens in place of the tests' own end."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(family.own))
    marks = ["<start_of_turn>", "<|start_header_id|>", "<|end_header_id|>", "<|im_start|>", "[INST]", "[/INST]"]
    tokenizer.add_special_tokens({"additional_special_tokens": [*marks, *family.stops, family.turn]})
    tokenizer.add_special_tokens({"eos_token": family.eos})
    ids = dict(zip(family.stops, tokenizer.convert_tokens_to_ids(list(family.stops)), strict=True))
    folder = Path(tiny_model(family.own, place, vocab_size=len(tokenizer), eos_token_id=ids[family.eos]))
    tokenizer.chat_template = family.template
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if family.template is None:
        settings.pop("chat_template", None)
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    told = {"eos_token_id": list(ids.values())}
    (folder / "generation_config.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


@NAMES
def test_an_answer_ends_where_sampling_stops_in_what_the_template_writes(
    folder: Callable[[str], Path], name: str
) -> None:
    family, place = FAMILIES[name], folder(name)
    tokens = Tokens.open(ModelSettings(path=str(place)), place)
    turn, stops = tokens.tokenizer.convert_tokens_to_ids(family.turn), tokens.stop_ids([])

    @given(question=LETTERS, answer=LETTERS)
    def check(question: str, answer: str) -> None:
        ids = tokens.answer_ids(answer)
        assert ids[-1] == turn in stops and not set(ids[:-1]) & set(stops)
        assert tokens.answer_ids(answer, ended=False) == ids[:-1]
        asked = [{"role": "user", "content": question}]
        prompt = tokens.prompt_ids(asked)
        if family.template is not None:
            chat = [*asked, {"role": "assistant", "content": answer}]
            whole = tokens.tokenizer.apply_chat_template(chat, chat_template=family.template, return_dict=False)
            met = [i for i in whole[len(prompt) :] if i in stops]
            assert met[:1] == ([turn] if family.turn in family.template else [])

    check()


@NAMES
def test_the_trainer_stops_there_too(folder: Callable[[str], Path], name: str) -> None:
    from trainer import forward

    place = folder(name)
    tokens = Tokens.open(ModelSettings(path=str(place)), place)
    assert tokens.answer_ids("a")[-1] in forward.end_token_ids(forward.load(str(place)))


def test_what_is_cloned_ends_with_a_stop_of_the_pool_and_another_stop_makes_other_tokens(
    recipe: FactoryRecipe,
    change: Callable[..., FactoryRecipe],
    make: Callable[..., Lake],
    write_rows: Callable[..., str],
    folder: Callable[[str], Path],
) -> None:
    place = folder("gemma3")
    turn = Tokens.open(ModelSettings(path=str(place)), place).tokenizer.convert_tokens_to_ids("<end_of_turn>")
    told = write_rows([{"prompt": "hvat ?", "answer": "oyggin"}, {"prompt": "hvar ?", "answer": "har"}], "told.jsonl")
    mine = change(
        recipe,
        student=ModelSettings(path=str(place)),
        prompts=PromptSource(path=told),
        imports={"told": ImportSource(kind="answers", path=told)},
        components={},
        reward=None,
    )
    lake = make(mine, "prompts,import,samples")
    first = lake.slices("answer_tokens")[-1]
    assert {ids[-1] for ids in lake.read(first, ["token_ids"]).column(0).to_pylist()} == {turn}
    assert all(turn in ids for ids in lake.read(lake.slices("groups")[-1], ["stop_ids"]).column(0).to_pylist())
    stops = place / "generation_config.json"
    before = stops.read_text(encoding="utf-8")
    eos = json.loads(before)["eos_token_id"][0]
    stops.write_text(json.dumps({"eos_token_id": [eos]}), encoding="utf-8")
    try:
        make(mine, "import")
    finally:
        stops.write_text(before, encoding="utf-8")
    other = lake.slices("answer_tokens")[-1]
    assert other.path != first.path
    assert {ids[-1] for ids in lake.read(other, ["token_ids"]).column(0).to_pylist()} == {eos}


def test_the_models_row_names_the_ends_of_both_configurations(folder: Callable[[str], Path]) -> None:
    place = folder("llama3")
    tokens = Tokens.open(ModelSettings(path=str(place)), place)
    assert end_tokens(place) == " ".join(map(str, sorted(tokens.end)))
    assert identity(ModelSettings(path=str(place)), "runs")["end_tokens"] == end_tokens(place)
