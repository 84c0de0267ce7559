"""Corpora by name, kept clear of benchmarks: what is planted is found, removed, counted and printed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from data.pool import find_corpora
from data.refusal import Refusal
from factory.config import CorpusSource

ROOT = Path(__file__).parents[3]
# made for this test in the form of FoQA: a passage, a question, answers
ITEM = {
    "context": "Á Kráksoynni búðu í gomlum døgum níggju systkin, og hvørt teirra átti ein bát, sum tey róðu út hvønn dag.",
    "question": "Hvussu nógv systkin búðu í gomlum døgum á oynni, har kráka var vættur?",
    "answers": {"text": ["níggju systkin"], "answer_start": [36]},
}
PLAIN = "Seyðurin gongur í haganum, og fuglurin flýgur yvir fjallið, tá ið sólin skínur."


@pytest.fixture
def corpus(recipe, change, write_rows):
    """`corpus(*texts, **fields)`: the recipe with one corpus `fo` of these train documents."""

    def named(*texts, recipe=recipe, **fields):
        path = write_rows([{"text": text} for text in texts], "c.jsonl")
        return change(recipe, corpus={"fo": CorpusSource(**{"path": path, "licence": "CC0-1.0", **fields})})

    return named


def slices(lake):
    return lake.slices("corpus", label="fo")


def texts(lake, slice_):
    return lake.read(slice_, ["text"]).column(0).to_pylist()


def dressed(text):
    """The same words in other case, with other punctuation and white space."""
    return re.sub(r"[,.]\s*", " –\n\n", text.upper()).replace(" ", "  ")


@pytest.mark.parametrize("part", ["context", "question"])
@pytest.mark.parametrize("written", [str, dressed], ids=["as it is", "other case, punctuation, white space"])
def test_a_planted_item_is_removed_and_the_count_is_printed(corpus, make, write_rows, capsys, part, written):
    clear_of = [write_rows([ITEM], "foqa.jsonl")]
    lake = make(corpus(PLAIN, f"Her stendur: {written(ITEM[part])} og meira.", clear_of=clear_of), "prompts,corpus")
    assert texts(lake, slices(lake)[-1]) == [PLAIN]
    assert f"left out 1 documents sharing 13 words with {clear_of[0]}" in capsys.readouterr().out
    assert slices(lake)[-1].notes["contaminated_by"] == {clear_of[0]: 1}
    manifest = json.loads((lake.root / slices(lake)[-1].path / "_manifest.json").read_text())
    assert manifest["notes"]["contaminated_by"] == {clear_of[0]: 1}


@pytest.mark.parametrize("spec", [
    {"kind": "items", "columns": {"messages": "context", "references": "answer"}, "metrics": ["f1"]},
    {"kind": "items", "columns": {"messages": "question", "references": "answer"}, "metrics": ["f1"]},
])  # fmt: skip
def test_an_item_of_a_benchmark_is_found_and_training_asks_for_the_comparison(
    corpus, change, make, write_rows, capsys, spec
):
    path = write_rows([{**ITEM, "answer": "níggju systkin"}], "items.jsonl")
    unaware = corpus(PLAIN, f"Her stendur: {dressed(ITEM[spec['columns']['messages']])}")
    lake = make(unaware, "prompts,corpus")
    aware = change(unaware, benchmarks={"quiz": {**spec, "path": path}})
    with pytest.raises(Refusal, match="kept clear of the recipe's prompts and benchmarks"):
        find_corpora(lake, aware, slices(lake)[-1].models["tokenizer"])
    capsys.readouterr()
    lake = make(aware, "corpus")
    assert "left out 1 documents sharing 13 words with benchmark quiz" in capsys.readouterr().out
    (found,) = find_corpora(lake, aware, slices(lake)[-1].models["tokenizer"])
    assert texts(lake, found) == [PLAIN] and found.notes["contaminated_by"] == {"benchmark quiz": 1}


def test_short_texts_are_whole_documents_or_counted_as_not_looked_for(corpus, make, write_rows, capsys):
    short = write_rows([{"question": "Hvar er Nólsoy?", "answer": "í Føroyum"}], "items.jsonl")
    lake = make(
        corpus(PLAIN, "hvar er nólsoy", "Hvar er Nólsoy? Hon er í Føroyum.", clear_of=[short]), "prompts,corpus"
    )
    assert texts(lake, slices(lake)[-1]) == [PLAIN, "Hvar er Nólsoy? Hon er í Føroyum."]
    assert (
        f"2 texts of {short} under 8 words: left out only where a document is nothing else" in capsys.readouterr().out
    )


def test_a_sentence_of_sib200_is_found_in_a_document_around_it(corpus, make):
    folder = ROOT / os.environ.get("FAROESE_TEXT", "../shared/faroese")
    path = folder / "sib200" / "fao_Latn.dev.tsv"
    if not path.is_file():
        pytest.skip(f"no sib200 below FAROESE_TEXT ({folder})")
    sentences = [line.split("\t")[-1] for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    planted = [f"Í dag varð sagt: {dressed(sentence)} Tað var alt." for sentence in sentences]
    long = [len(sentence.split()) >= 9 for sentence in sentences]
    lake = make(corpus(PLAIN, *planted, clear_of=[str(path)]), "prompts,corpus")
    left = texts(lake, slices(lake)[-1])
    assert left[0] == PLAIN and not set(left) & {text for text, enough in zip(planted, long, strict=True) if enough}
    assert sum(long) > 80  # most of them are long enough to be found anywhere


def test_the_slice_changes_with_the_texts_that_a_corpus_is_kept_clear_of(recipe, corpus, change, make, write_rows):
    made = []
    for question in (ITEM["question"], "Hvat var tað?"):
        path = write_rows([{**ITEM, "question": question}], "foqa.jsonl")
        one = change(corpus(PLAIN, clear_of=[path]), shard_groups=2)
        made.append(slices(make(one, "prompts,corpus"))[-1])
    assert made[0].name != made[1].name and made[0].settings["against"] != made[1].settings["against"]
    assert [shard.file for shard in made[0].shards] == [shard.file for shard in made[1].shards]  # equal tokens are kept


def test_held_out_documents_of_one_corpus_are_kept_out_of_the_others(recipe, change, make, write_rows):
    held = "Ein hildin setningur, sum er langur nokk til at verða funnin aftur í hvørjum øðrum savni sum helst."
    one = {"path": write_rows([{"text": f"Byrjan. {held}"}, {"text": PLAIN}], "a.jsonl"), "licence": "CC0-1.0"}
    other = {"path": write_rows([{"text": held, "split": "held_out"}, {"text": PLAIN}, {"text": "Annað."}], "b.jsonl")}
    lake = make(change(recipe, corpus={"fo": CorpusSource(**one), "b": CorpusSource(**other)}), "prompts,corpus")
    assert texts(lake, slices(lake)[-1]) == [PLAIN]
    second = lake.slices("corpus", label="b")[-1]
    assert texts(lake, second) == [held, "Annað."] and second.notes["duplicates"] == 1  # the earlier corpus keeps it
    assert slices(lake)[-1].notes["contaminated_by"] == {"held-out documents": 1}


def test_a_corpus_that_lacks_what_another_has_is_not_found_without_it(recipe, change, make, write_rows):
    both = {
        name: CorpusSource(path=write_rows([{"text": PLAIN}, {"text": name}], f"{name}.jsonl")) for name in ("a", "fo")
    }
    recipe = change(recipe, corpus=both)
    lake = make(recipe, "prompts,corpus")
    tokenizer = slices(lake)[-1].models["tokenizer"]
    assert [s.label for s in find_corpora(lake, recipe, tokenizer)] == ["a", "fo"]
    alone = change(recipe, corpus={"fo": both["fo"]})
    with pytest.raises(Refusal, match="no corpus fo"):
        find_corpora(lake, alone, tokenizer)
    assert texts(lake, find_corpora(make(alone, "corpus"), alone, tokenizer)[0]) == [PLAIN, "fo"]


def test_a_corpus_without_a_licence_says_so_and_stays_null(corpus, make, capsys):
    lake = make(corpus(PLAIN, licence=None), "prompts,corpus")
    assert lake.read(slices(lake)[-1], ["licence"]).column(0).to_pylist() == [None]
    assert "no licence is known of 1 documents" in capsys.readouterr().out
    lake = make(corpus(PLAIN), "corpus")
    assert lake.read(slices(lake)[-1], ["licence"]).column(0).to_pylist() == ["CC0-1.0"]
    assert "no licence" not in capsys.readouterr().out


@pytest.mark.parametrize("path", [
    "facebook/flores", "openlanguagedata/flores_plus", "mteb/NTREX", "data/ntrex128_500.jsonl", "Davlan/sib200",
])  # fmt: skip
def test_benchmarks_are_no_corpora(path):
    with pytest.raises(Refusal, match="is a benchmark only"):
        CorpusSource(path=path)


@pytest.mark.parametrize("path", ["explores.jsonl", "flores/mine.jsonl", "wikimedia/wikipedia"])
def test_a_name_that_only_looks_like_one_is_a_corpus(path):
    assert CorpusSource(path=path).path == path


def test_a_file_that_is_not_there_is_refused(corpus, make):
    with pytest.raises(Refusal, match=r"gone\.txt is no text file"):
        make(corpus(PLAIN, clear_of=["gone.txt"]), "prompts,corpus")


def test_corpora_are_chosen_by_name(command):
    code, _, err = command("stages=[prompts]", "corpus=[wikipedia_fo,bible_fo]", "corpus.wikipedia_fo.limit=5")
    assert code == 0, err
    code, _, err = command("stages=[prompts]", "corpus=[wikipedia_fa]")
    assert code == 2 and "did you mean 'wikipedia_fo'?" in err
    code, _, err = command("stages=[prompts]", "corpus={mine: {path: facebook/flores}}")
    assert code == 2 and "is a benchmark only" in err


def test_every_named_corpus_has_a_source_and_says_what_its_licence_is():
    import yaml

    files = sorted((ROOT / "conf" / "corpus").glob("*.yaml"))
    assert {"wikipedia_fo", "fineweb2_fo", "itu_pairs_fo", "bible_fo", "jw300_fo"} <= {path.stem for path in files}
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# @package factory.corpus.{path.stem}\n# ")
        source = CorpusSource(**yaml.safe_load(text))
        assert source.language == "fo" and (source.licence or "licence" in text)
