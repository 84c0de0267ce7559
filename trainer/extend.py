"""`python -m trainer.extend`: a student with tokens of its own language, as a run that training, sampling and evaluation take.

Reads the model that a recipe's training starts at, and its corpora in the lake (or a file). Writes runs/NAME/final and a row of
`runs`: a new tokenizer, so pools, answers and corpora of the old one are other tokens, and are refused. Trains nothing."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.command import Command
from data.config import Recipe
from data.refusal import Refusal, nearest
from data.settings import rows as setting_rows
from trainer.config import TrainerRecipe
from trainer.extension.settings import COMMAND, ExtendSettings
from trainer.keyed import Keyed

if TYPE_CHECKING:
    from trainer.extension.pieces import Learned
    from trainer.extension.texts import Texts
    from trainer.journal import Run
    from trainer.sources import Start

REPLACED = ("tokenizer.json", "config.json")
STALE = (
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "added_tokens.json",
)  # the old tokens in other words
SECTIONS = ("factory", "trainer")


def extend(settings: ExtendSettings, recipe: Recipe) -> None:
    """Write the wider model, or find it made. The body of `python -m trainer.extend`."""
    from data.keys import digest
    from trainer.extension.texts import of_file, of_lake
    from trainer.journal import claim_made, held, refuse_other

    run, start = claim_made(settings.run, recipe.runs), _start(recipe)
    tokenizer = start.identity["tokenizer"]
    texts = of_file(settings.text) if settings.text else of_lake(recipe, tokenizer, settings.corpus)
    seed = recipe.seed if settings.start == "random" else None
    hash_ = digest([settings.tokens, settings.min_count, settings.start, seed, start.model_id, texts.source])
    if run.record is not None:
        refuse_other(run, hash_)
        print(f"found run {run.name}: the same extension")
        return
    with held(run):
        figures = _write(settings, recipe, start, texts, run)
        _record(settings, recipe, start, texts, run, figures | {"configuration_hash": hash_})
    told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if name != "new_tokens")
    print(
        f"run {run.name}: {figures['new_tokens']:,} new tokens; on held-out documents {told}; in {run.folder / 'final'}"
    )


def _start(recipe: Recipe) -> Start:
    """What training would start at. Refuses what has no weights of its own to extend."""
    from data.fingerprint import identity, model_folder, policy_model
    from trainer.sources import Start

    model = policy_model(recipe)
    if model.initial != "pretrained" or model.gguf_file or model.endpoint:
        kind = "random" if model.initial != "pretrained" else model.gguf_file or model.endpoint
        raise Refusal(
            f"student {model.path} is {kind}: there are no safetensors whose rows could be extended",
            "student.path=FOLDER, e.g. run:NAME after a first training",
        )
    return Start(model, model_folder(model, recipe.runs), identity(model, recipe.runs, recipe.seed))


def _write(settings: ExtendSettings, recipe: Recipe, start: Start, texts: Texts, run: Run) -> dict[str, float]:
    """The folder; returns new_tokens and tokens a byte before and after."""
    from trainer import checkpoint
    from trainer.extension.pieces import learn
    from trainer.extension.vocabulary import dumped, grown, tokens_per_byte
    from trainer.parents import copy_beside

    spec = _spec(start)
    learned = learn(spec, texts.train, settings.tokens, settings.min_count)
    with checkpoint.appearing(run.folder / "final") as temporary:
        copy_beside(start.folder, temporary, skip=(*REPLACED, *STALE))
        (temporary / "tokenizer.json").write_text(dumped(grown(spec, learned)), encoding="utf-8")
        _write_weights(settings, recipe, start, spec, learned, temporary)
        old, new = (_tokenizer(folder, start) for folder in (start.folder, temporary))
        _refuse_other_text(old, new, texts.held_out, learned)
        figures = {
            "new_tokens": len(learned.parts),
            "tokens_per_byte_before": tokens_per_byte(old, texts.held_out),
            "tokens_per_byte_after": tokens_per_byte(new, texts.held_out),
        }
        (temporary / "README.md").write_text(_card(settings, start, texts, figures), encoding="utf-8")
    return figures


def _spec(start: Start) -> dict[str, Any]:
    """tokenizer.json's content: the folder's own, or what transformers makes of older files."""
    path = start.folder / "tokenizer.json"
    if path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    fast = getattr(_tokenizer(start.folder, start), "backend_tokenizer", None)
    if fast is None:
        raise Refusal(
            f"{start.folder} holds no tokenizer.json, and none can be made from its files",
            "convert the tokenizer: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        )
    return dict(json.loads(fast.to_str()))


def _tokenizer(folder: Path, start: Start) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=start.settings.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Refusal(f"no tokenizer can be loaded from {folder}: {reason}", "student.path=FOLDER") from error


def _write_weights(
    settings: ExtendSettings, recipe: Recipe, start: Start, spec: dict[str, Any], learned: Learned, folder: Path
) -> None:
    from transformers import AutoConfig

    from trainer.extension.rows import Rows, grown_config, of_vocabulary, write_weights
    from trainer.extension.vocabulary import first_new_id
    from trainer.parents import Parent

    trusted = start.settings.trust_remote_code
    config = AutoConfig.from_pretrained(start.folder, trust_remote_code=trusted).get_text_config()
    spread = float(getattr(config, "initializer_range", 0.02))
    rows = Rows(first_new_id(spec), list(learned.parts.values()), settings.start, spread, recipe.seed)
    parent = Parent(start.settings.path, start.folder, {})
    write_weights(parent, folder, rows, of_vocabulary(start.folder, trusted))
    own = json.loads((start.folder / "config.json").read_text(encoding="utf-8"))
    wider = grown_config(own, max(config.vocab_size, rows.end))
    (folder / "config.json").write_text(json.dumps(wider, indent=2) + "\n", encoding="utf-8")


def _refuse_other_text(old: Any, new: Any, texts: Sequence[str], learned: Learned) -> None:
    """The folder as transformers loads it must know the tokens, and read back what the old one read back."""
    known = new.get_vocab()
    lost = [token for token in learned.parts if token not in known]
    changed = [text for text in texts if _back(old, text) != _back(new, text)]
    if lost or changed:
        what = f"{len(lost)} new tokens are unknown" if lost else f"{changed[0][:40]!r} reads back as another text"
        raise Refusal(
            f"{type(new).__name__} does not load the extended tokenizer as written: {what}",
            'give the student a plain tokenizer: "tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json',
        )


def _back(tokenizer: Any, text: str) -> str:
    return str(tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)))


def _record(
    settings: ExtendSettings, recipe: Recipe, start: Start, texts: Texts, run: Run, figures: dict[str, Any]
) -> None:
    """The row of `runs` and the record, in this order: a run whose record is missing is none."""
    from data.fingerprint import identity
    from data.lake import Lake
    from trainer.journal import publish

    final = dataclasses.replace(start.settings, path=f"run:{run.name}", revision=None)
    shown = dataclasses.asdict(settings) | {
        name: value for name, value in figures.items() if name != "configuration_hash"
    }
    record: dict[str, Any] = {
        "configuration": {"extend": shown, "student": dataclasses.asdict(start.settings), "policy": recipe.policy},
        "configuration_hash": figures["configuration_hash"],
        "recipe": recipe.name,
        "slices": texts.slices,
        "reward_sql": None,
        "policy": start.model_id,
        "status": "finished",
        "reason": None,
        "steps": 0,
        "seconds": 0.0,
        "model_id": identity(final, recipe.runs)["model_id"],
    }
    as_text = {"configuration": json.dumps(record["configuration"], sort_keys=True, ensure_ascii=False)}
    row = record | as_text | {"slices": json.dumps(record["slices"]), "folder": str(run.folder)}
    publish(Lake.open(recipe.lake), run, row)
    run.write_record(record)


def _card(settings: ExtendSettings, start: Start, texts: Texts, figures: dict[str, float]) -> str:
    """The model card: where the tokens come from, and what they save."""
    rows = "the mean of their parts' rows" if settings.start == "pieces" else "random numbers"
    return f"""# {settings.run}

`{start.settings.path}` (model id `{start.model_id}`) with {figures["new_tokens"]:,} more tokens, by `python -m {COMMAND}`.
Nothing was trained: new rows start from {rows}.

| on {len(texts.held_out):,} held-out documents | tokens a byte |
|---|---|
| before | {figures["tokens_per_byte_before"]:.4f} |
| after | {figures["tokens_per_byte_after"]:.4f} |

Learned from {len(texts.train):,} documents of {texts.source}.
"""


KEYED = Keyed(
    COMMAND,
    ExtendSettings,
    lambda settings: None,
    "Give a recipe's student tokens of its own language, learned on the recipe's corpora; a new model, to be trained on.",
    (
        f"python -m {COMMAND} recipe=mistral_fa run=mistral-fa-tokens tokens=8000",
        f"python -m {COMMAND} recipe=mistral_fa student.path=AI-Sweden-Models/gpt-sw3-1.3b run=sw3-tokens",
    ),
)


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    if {"-h", "--help"} & set(argv):
        print(
            KEYED.help() + "\n\n" + "\n".join(["Settings of the recipe:", *setting_rows(TrainerRecipe, "", SECTIONS)])
        )
        return 0
    words = [word for word in argv if word != "--debug"]
    own = {field.name for field in dataclasses.fields(ExtendSettings)}
    try:
        recipe = composed([word for word in words if word.partition("=")[0] not in own])
        extend(KEYED.parsed([word for word in words if word.partition("=")[0] in own]), recipe)
    except Refusal as refusal:
        if "--debug" in argv:
            raise
        print(refusal, file=sys.stderr)
        return 2
    return 0


def composed(words: Sequence[str]) -> Recipe:
    """The recipe of these words. Refuses settings that neither it nor this command has."""
    known = {field.name for cls in (ExtendSettings, Recipe) for field in dataclasses.fields(cls)} | {"recipe"}
    for word in words:
        name = word.partition("=")[0].split(".")[0]
        if "=" in word and name not in known:
            raise KEYED.refusal(f"no setting named {name!r}: {nearest(name, known)}")
    if not any(word.startswith("recipe=") for word in words):
        raise KEYED.refusal("recipe=… is not given")
    found: list[TrainerRecipe] = []
    Command("trainer", TrainerRecipe, found.append, "", ()).run(words)
    return found[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
