"""Benchmarks that bring their own questions: scores by hand for each metric, and what a model is really shown and says."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu

from data.measures import MEASURES
from data.refusal import Refusal
from factory.benchmarks import benchmark
from factory.benchmarks._metrics import METRICS, label_of, number_of
from factory.benchmarks.items import Settings, measured, up_to_a_blank_line

ROWS = [
    {"q": "the little boat", "a": "sails", "said": "no"},
    {"q": "hvat eitur landið ?", "a": ["Føroyar", "Føroyar!"], "said": "no"},
    {"q": "sólin skínur", "a": "í dag", "said": "no"},
]
TRAIN = [
    {"q": "báturin siglir", "a": "til oynna"},
    {"q": "the sun", "a": "shines"},
    {"q": "sólin skínur", "a": "í dag"},
]


def scored(metrics, said, *, labels=()):
    """name → value over a set: {answer: references} in, the means of single items and the measures of all."""
    settings = Settings(metrics=metrics, labels=labels)
    items = [measured(text, {"references": refs, "answer_pattern": None}, settings) for text, refs in said]
    names = {name for item in items for name in item}
    columns = {name: np.array([item.get(name, np.nan) for item in items]) for name in names}
    whole = {name: m.compute(columns) for name, m in MEASURES.items() if names >= set(m.needs)}
    return {name: float(np.nanmean(values)) for name, values in columns.items()} | whole


def test_similar_sentences_by_ranks():
    said = [
        ("1", ["0.0"]),
        ("Svarið er trý.", ["1.5"]),
        ("2,5", ["3.0"]),
        ("Eg haldi 5", ["5.0"]),
        ("veit ikki", ["2"]),
    ]
    found = scored(("spearman",), said)
    # ranks of what was said 1 3 2 4, of the truth 1 2 3 4: 1 − 6·(1 + 1)/(4·15); the last item says no number
    assert found["spearman"] == pytest.approx(0.8) and found["answered"] == pytest.approx(0.8)


def test_entities_together_with_and_without_misc():
    said = [
        (
            '{"persónur": ["Jógvan"], "staður": ["Tórshavn", "Suðuroy"]}',
            ['{"persónur": ["Jógvan"], "staður": ["Tórshavn"]}'],
        ),
        (
            'Svar: {"ymiskt": ["Ólavsøka"], "felagsskapur": []} ',
            ['{"ymiskt": ["Ólavsøka", "Jól"], "felagsskapur": ["HB"]}'],
        ),
        ("eg veit ikki", ['{"staður": ["Nólsoy"]}']),
    ]
    found = scored(("entities",), said)
    assert found["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 3))  # right 3, too many 1, missed Jól, HB, Nólsoy
    assert found["micro_f1_no_misc"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 2)) and found["parsed"] == pytest.approx(
        2 / 3
    )


def test_an_entity_named_twice_counts_once_where_it_stands_once():
    found = scored(("entities",), [('{"staður": ["Vágar", "Vágar"]}', ['{"staður": ["Vágar"]}'])])
    assert (found["entity_tp"], found["entity_fp"], found["entity_fn"]) == (1, 1, 0)


def test_translations_item_by_item_and_together_are_sacrebleus():
    texts = ["Báturin siglir til oynna í dag.", "Sólin skínur", "Hvat eitur høvuðsstaðurin í landinum?"]
    golds = [["Báturin sigldi til oynna í gjár."], ["Sólin skínur í dag."], ["Hvat eitur høvuðsstaðurin í landinum ?"]]
    found = scored(("bleu", "chrf"), list(zip(texts, golds, strict=True)))
    references = [[gold[0] for gold in golds]]
    assert found["corpus_bleu"] * 100 == pytest.approx(sacrebleu.corpus_bleu(texts, references).score)
    assert found["corpus_chrf"] * 100 == pytest.approx(sacrebleu.corpus_chrf(texts, references).score)
    items = [sacrebleu.sentence_chrf(text, gold).score for text, gold in zip(texts, golds, strict=True)]
    assert found["chrf"] * 100 == pytest.approx(np.mean(items)) and found["chrf"] != pytest.approx(found["corpus_chrf"])


def test_bleu_of_several_references_is_sacrebleus():
    texts, golds = ["tað er ein bátur á sjónum"], [["ein bátur er á sjónum", "tað er bátur á sjónum í dag"]]
    found = scored(("bleu",), list(zip(texts, golds, strict=True)))
    assert found["corpus_bleu"] * 100 == pytest.approx(sacrebleu.corpus_bleu(texts, [[g] for g in golds[0]]).score)


def test_trivia_keeps_every_letter_and_every_article():
    said = [("TÓRSHAVN.", ["Tórshavn"]), ("í Tórshavn", ["Tórshavn"]), ("á Heygum", ["a Heygum"]), ("", ["Vágar"])]
    found = scored(("exact", "f1"), said)
    assert found["exact"] == pytest.approx(1 / 4)
    assert found["f1"] == pytest.approx((1 + 2 / 3 + 1 / 2 + 0) / 4)  # á is no a: one word of two


def test_logic_by_the_four_cells():
    yes, no = ("ja, tað er rætt", ["ja"]), ("Nei!", ["nei"])
    said = [yes, yes, yes, no, no, ("ja", ["nei"]), ("nei", ["ja"]), ("neii", ["ja"])]  # tp 3, tn 2, fp 1, fn 2
    found = scored(("accuracy", "mcc"), said, labels=("nei", "ja"))
    assert found["accuracy"] == pytest.approx(5 / 8) and found["mcc"] == pytest.approx(
        (3 * 2 - 1 * 2) / np.sqrt(4 * 5 * 3 * 4)
    )
    assert found["macro_f1"] == pytest.approx((2 * 3 / (4 + 5) + 2 * 2 / (4 + 3)) / 2)


def test_labels_are_equal_then_begun_then_nearest():
    labels = ["a", "a b", "rætt", "skeivt"]
    assert [label_of(said, labels) for said in ("A", "a b", "a b c", "Rætt.", "skeift", "a: tí")] == [0, 1, 1, 2, 3, 0]


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("48/2 = 24. Tí 48 + 24 = 72\n#### 72", 1),
        ("### 72", 1),
        ("Svarið er tveir og sjeyti.", 1),
        ("Svarið er tveir og sjeyti. Ikki 9.", 1),
        ("svarið er tjúgu og tvey", 0),
        ("svarið er 72 krónur. Tað eru 12 um mánaðin.", 1),
        ("72 krónur um árið, 12 um mánaðin", 0),
        ("", 0),
    ],
)
def test_word_problems_by_the_number_answered(said, right):
    assert METRICS["numeric"](said, ["48/2 = 24, so 72\n#### 72"], ()) == {"numeric": right}


def test_a_number_in_words_is_the_number_in_digits():
    assert number_of("svarið er tjúgu og tvey") == {22.0} and number_of("### 42") == {42.0}
    assert number_of("seks og hálvtrýss bátar") == {56.0} and number_of("ein maður") == frozenset()


def test_what_cannot_be_said_is_left_out():
    assert METRICS["numeric"]("4", ["fleiri"], ()) == {} and METRICS["accuracy"]("ja", ["kanska"], ("ja", "nei")) == {}
    assert METRICS["entities"]("{}", ["eingin"], ()) == {}


def evaluated(recipe, change, write_rows, **values):
    entry = {
        "kind": "items", "path": write_rows(ROWS, "test.jsonl"), "columns": {"references": "a"}, "template": "{{ q }}",
        "metrics": ["exact", "chrf"], "max_tokens": 5, **values,
    }  # fmt: skip
    return change(recipe, benchmarks={"own": entry})


def plain(folder, ids=None, text=None):
    """transformers' own greedy continuation."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (c.from_pretrained(folder) for c in (AutoModelForCausalLM, AutoTokenizer))
    ids = (
        tokenizer(text).input_ids
        if ids is None
        else tokenizer.apply_chat_template(ids, add_generation_prompt=True, return_dict=False)
    )
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=5, pad_token_id=0)
    return tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)


def test_examples_are_turns_and_never_the_question_itself(recipe, change, make, write_rows):
    shots = {"shots": 2, "examples": write_rows([TRAIN[2], *TRAIN[:2]], "train.jsonl")}
    lake = make(evaluated(recipe, change, write_rows, **shots), "evaluate")
    (slice_,) = lake.slices("evaluations")
    rows = lake.read(slice_).to_pylist()
    user, says = (lambda q: {"role": "user", "content": q}), (lambda a: {"role": "assistant", "content": a})
    first, second = [user("sólin skínur"), says("í dag")], [user("báturin siglir"), says("til oynna")]
    assert rows[0]["prediction"] == plain(recipe.student.path, [*first, *second, user("the little boat")]).strip()
    third = [*second, user("the sun"), says("shines"), user("sólin skínur")]
    assert rows[2]["prediction"] == plain(recipe.student.path, third).strip()
    assert [row["gold"] for row in rows] == [["sails"], ["Føroyar", "Føroyar!"], ["í dag"]]
    assert len({row["item"] for row in rows}) == 3 and len(slice_.shards) == 2


def test_a_base_model_reads_one_text_and_ends_at_a_blank_line(recipe, change, make, write_rows):
    shots = {"shots": 1, "examples": write_rows(TRAIN[:2], "train.jsonl"), "chat": "no", "limit": 1}
    lake = make(evaluated(recipe, change, write_rows, **shots), "evaluate")
    (row,) = lake.read(lake.slices("evaluations")[-1]).to_pylist()
    said = plain(recipe.student.path, text="báturin siglir til oynna\n\nthe little boat")
    assert row["prediction"] == said.strip().split("\n\n")[0].strip()


def test_what_follows_a_blank_line_is_no_answer():
    assert up_to_a_blank_line("til oynna\nog heim \n\nHvar er bátur?") == "til oynna\nog heim"


def test_a_moved_file_is_found_and_a_changed_question_is_asked(recipe, change, make, write_rows, capsys):
    make(evaluated(recipe, change, write_rows), "evaluate")
    moved = evaluated(recipe, change, write_rows, path=write_rows(ROWS, "moved.jsonl"))
    capsys.readouterr()
    lake = make(moved, "evaluate")
    assert "found, nothing to do" in capsys.readouterr().out and len(lake.slices("evaluations")) == 1
    make(evaluated(recipe, change, write_rows, template="{{ q }} ?"), "evaluate")
    assert len(lake.slices("evaluations")) == 2


REFUSED = [
    ({"metrics": ["exakt"]}, "no metric is called 'exakt'; did you mean 'exact'"),
    ({"metrics": []}, "there are no metrics"),
    ({"metrics": ["mcc"]}, "labels are at least two"),
    ({"metrics": "exact"}, "expected a list of texts"),
    ({"metrik": ["exact"]}, "has no setting 'metrik'; did you mean 'metrics'"),
    ({"chat": "perhaps"}, "chat is 'perhaps'"),
    ({"limit": 0}, "limit=0 is outside"),
    ({"template": "{{ qq }}"}, "the template does not fit: 'qq' is undefined"),
    ({"template": "{{ q"}, "is no Jinja"),
    ({"template": None}, "no column holds the messages"),
    ({"columns": {}}, "no column holds the references"),
    ({"columns": {"references": "b"}}, "the source has no column 'b'"),
    ({"path": "none.jsonl"}, "there is no file none.jsonl"),
    ({"shots": 2}, "no file of them is named"),
    ({"max_tokens": 600}, "512 positions"),
    ({"kind": "itemz"}, "did you mean 'items'"),
]


@pytest.mark.parametrize(("values", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_what_is_refused(recipe, change, make, write_rows, values, says):
    with pytest.raises(Refusal, match=says.replace("(", r"\(").replace("{", r"\{")):
        make(evaluated(recipe, change, write_rows, **values), "evaluate")


def test_examples_that_are_too_few_are_refused(recipe, change, make, write_rows):
    with pytest.raises(Refusal, match="has 2 rows for 3 examples"):
        make(evaluated(recipe, change, write_rows, shots=3, examples=write_rows(TRAIN[:2], "t.jsonl")), "evaluate")


def test_every_kind_describes_its_settings_and_help_shows_them():
    import dataclasses
    import importlib

    from data.settings import field_docs
    from factory.__main__ import COMMAND
    from factory.benchmarks import names

    shown = COMMAND.help()
    for kind in names():
        cls = importlib.import_module(f"factory.benchmarks.{kind}").Settings
        fields = [f.name for f in dataclasses.fields(cls)]
        assert set(fields) <= set(field_docs(cls)) and len(fields) <= 12, kind
        told = shown.partition(f"benchmarks.NAME.kind={kind}\n")[2].partition(".kind=")[0]
        rows = " ".join(told.split())  # a long name has its text on the next line
        assert all(f"benchmarks.NAME.{name} {field_docs(cls)[name]}" in rows for name in fields), kind
    assert "benchmarks.NAME.iterations How often everything is resampled and asked. [10]" in " ".join(shown.split())


def test_an_entry_without_a_kind_measures_prompts():
    assert benchmark("b", {"metrics": {"exact": {"use": "similarity"}}}).kind == "prompts"


def test_similar_scores_are_read_as_they_are_smallest():
    assert METRICS["spearman"]("3.125", ["4.250"], ()) == {
        "answered": 1.0,
        "spearman_true": 4.25,
        "spearman_predicted": 3.125,
    }
