"""`python -m factory.train_language fo=FILE is=FILE … --out MODEL`: a small fastText model that tells these languages apart.

Reads sentences of each language: text files with one a line (a folder of them, each named after its language), tables with a
column `text`, data sets of the hub. Writes the model, for the component `language` with `method: fasttext`. A sentence is taken
once; one that two languages claim is left out. Some are held back by their hash, whatever their order, and tell what the model is
worth. Refuses fewer than two languages, sources that are not there, and a language without sentences."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.exceptions import TyperException

from data.refusal import Refusal
from factory.rewards.text import squash

HELP = "python -m factory.train_language --help"
SHAPE: dict[str, Any] = {"dim": 16, "lr": 0.5, "epoch": 50, "minCount": 3, "minn": 2, "maxn": 4, "bucket": 50_000}
"""Settings of fastText: letters in pairs to fours, and words seen three times; some 4 MB. With one thread it comes out alike."""


class Origin(NamedTuple):
    """Where sentences come from, as factory.sources reads it."""

    path: str
    config: str | None = None
    split: str = "train"


def sources(words: Sequence[str]) -> list[tuple[str, str]]:
    """(language, source) of each word `LANGUAGE=SOURCE`, and of each .txt file of a folder. Raises Refusal."""
    found = []
    for word in words:
        language, named, source = word.partition("=")
        if named and language and source:
            found.append((language, source))
        elif Path(word).is_dir():
            found += [(file.stem, str(file)) for file in sorted(Path(word).glob("*.txt"))]
        else:
            raise Refusal(f"{word!r} is neither LANGUAGE=SOURCE nor a folder with a text file a language", HELP)
    return found


def sentences(source: str) -> Iterator[str]:
    """The source's texts, NFC, each on one line; blank ones are left out. A hub data set is owner/name or owner/name:config."""
    from factory.rewards._files import whole_text
    from factory.sources import Rows, is_file

    if Path(source).suffix == ".txt":
        texts: Iterable[Any] = whole_text(source).splitlines()
    else:
        path, _, config = (source, "", "") if is_file(source) else source.partition(":")
        texts = (row.get("text") for row in Rows(Origin(path, config or None), source))
    for text in texts:
        if not isinstance(text, str):
            raise Refusal(
                f"{source} has a row without a text in the column `text`", "rename the column, or write one text a line"
            )
        if line := squash(text):
            yield line


def gathered(named: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """language → its different sentences, without those that stand under two languages. Raises Refusal."""
    found: dict[str, dict[str, None]] = {}
    for language, source in named:
        found.setdefault(language, {}).update(dict.fromkeys(sentences(source)))
    claims = Counter(line for lines in found.values() for line in lines)
    kept = {language: [line for line in lines if claims[line] == 1] for language, lines in found.items()}
    if empty := sorted(language for language, lines in kept.items() if not lines):
        raise Refusal(f"{empty[0]} has no sentence of its own", "give it a file with one sentence a line")
    if len(kept) < 2:
        raise Refusal(f"{len(kept)} languages: telling apart takes two", "give another one, LANGUAGE=SOURCE")
    return kept


def held_back(sentence: str, share: float) -> bool:
    """Whether a sentence is kept from training; its hash decides, so that other sentences change nothing."""
    return int.from_bytes(hashlib.sha256(squash(sentence).encode()).digest()[:8]) < share * 2**64


def train(texts: Mapping[str, Iterable[str]], out: str | Path, **shape: Any) -> None:
    """Train on sentences by language and write the model to `out`. `shape` overrides SHAPE. Raises Refusal."""
    try:
        import fasttext
    except ImportError as error:
        raise Refusal("training needs the package fasttext", "pip install 'grpo-kd[faroese]'") from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.txt"
        with file.open("w", encoding="utf-8") as lines:
            for language, found in texts.items():
                lines.writelines(
                    f"__label__{language} {line.replace('__label__', '')}\n" for line in map(squash, found)
                )
        model = fasttext.train_supervised(str(file), thread=1, verbose=0, **SHAPE | shape)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f"{out.name}.part")
    model.save_model(str(beside))
    beside.replace(out)


def recalls(model: str | Path, texts: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """language → share of its sentences that the model gives to it, for languages with sentences."""
    from factory.rewards import Batch, component

    found = {}
    for language, lines in texts.items():
        spec = {"use": "language", "method": "fasttext", "file": str(model), "output": "verdict", "min_words": 1}
        values = [
            r.value for r in component(spec | {"language": language}).score(Batch.of_texts(list(lines))) if r.valid
        ]
        if values:
            found[language] = sum(value or 0.0 for value in values) / len(values)
    return found


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def command(
    words: Annotated[
        list[str],
        typer.Argument(metavar="LANGUAGE=SOURCE…", help="A source a language, or a folder of fo.txt, is.txt, …"),
    ],
    out: Annotated[str, typer.Option(help="The model's file.")],
    hold: Annotated[
        float, typer.Option(help="Share of the sentences that train nothing and tell what the model is worth.")
    ] = 0.1,
) -> None:
    """Train a small fastText model that tells languages apart, from one sentence a line of each."""
    if not 0 <= hold < 1:
        raise Refusal(f"hold={hold:g} is outside 0 … 1", HELP)
    texts = gathered(sources(words))
    kept = {language: [line for line in lines if not held_back(line, hold)] for language, lines in texts.items()}
    train(kept, out)
    rest = {language: [line for line in lines if held_back(line, hold)] for language, lines in texts.items()}
    found = recalls(out, rest)
    print(f"{out}: {Path(out).stat().st_size / 1e6:.1f} MB; {sum(map(len, kept.values()))} sentences")
    for language, lines in rest.items():
        told = f"{found[language]:.3f} of {len(lines)} held back" if language in found else "none held back"
        print(f"{language:>10}: {told}, {len(kept[language])} trained on")


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; a Refusal is its two lines and 2."""
    try:
        return int(app(list(arguments), prog_name="python -m factory.train_language", standalone_mode=False) or 0)
    except TyperException as error:
        print(Refusal(error.format_message(), HELP), file=sys.stderr)
    except Refusal as error:
        print(error, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
