"""Language by word list, py3langid and fastText; real Faroese where it is at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data.refusal import Refusal
from factory.rewards import Batch, component

Value = Callable[..., float | None]
FOREIGN = ("da", "de", "en", "is", "nb", "nn", "sv")
FAROESE = "Hon býr í einum lítlum húsi við sjógvin"
ENGLISH = "She lives in a small house by the sea"


@pytest.fixture
def word_list(tmp_path: Path) -> str:
    file = tmp_path / "words.txt"
    file.write_text("Fuglurin\ná\ner\nlundi\nreyð-ur\n", encoding="utf-8")
    return str(file)


def test_share_of_known_words(value: Value, word_list: str) -> None:
    words = lambda text: value(text, use="language", method="words", file=word_list)  # noqa: E731
    assert words("fuglurin á Alvoy er LUNDI!") == pytest.approx(4 / 5)
    assert words("fuglurin er puffin") == pytest.approx(2 / 3)
    assert words("er 1.234 5") == 1.0  # numbers are of no language
    assert words("reyð") == 1.0
    assert words("1 2 😀") is None
    assert words("\n") is None


def test_min_words_is_a_floor_for_saying_anything(value: Value, word_list: str) -> None:
    assert value("er lundi", use="language", method="words", file=word_list, min_words=3) is None
    assert value("Hon býr her", use="language") is None  # three words: identifiers guess
    assert value(FAROESE, use="language", min_words=9) is None


def test_a_word_said_again_is_no_further_word(value: Value, word_list: str) -> None:
    assert value("Eg eg eg eg", use="language") is None
    assert value("Hon býr hon býr hon býr", use="language") is None
    assert value("Hon býr her nú, hon býr her", use="language") is not None
    assert value("er er lundi", use="language", method="words", file=word_list, min_words=3) is None


def test_langid_tells_faroese_on_several_lines(value: Value) -> None:
    lines = FAROESE.replace(" í", "\n\ní")
    assert (value(lines, use="language") or 0) > 0.5  # the likeliest of 140 languages
    assert value(lines, use="language") == value(FAROESE, use="language")
    assert (value(ENGLISH, use="language") or 0) < 0.01
    assert value(FAROESE, use="language", output="verdict") == 1.0
    assert value(ENGLISH, use="language", output="verdict") == 0.0
    assert value(ENGLISH, use="language", output="verdict", language="en") == 1.0


def test_the_prompts_own_language_can_be_the_target(value: Value) -> None:
    verdict = lambda language: value(  # noqa: E731
        ENGLISH, use="language", language="prompt", output="verdict", languages=language
    )
    assert (verdict("en"), verdict("fo"), verdict(None)) == (1.0, 0.0, None)


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(Refusal, match="does not know the language 'fao'"):
        component({"use": "language", "language": "fao"}).score(Batch.of_texts([FAROESE]))


@pytest.fixture(scope="module")
def fasttext_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    fasttext = pytest.importorskip("fasttext")
    folder = tmp_path_factory.mktemp("fasttext")
    lines = [f"__label__fao_Latn {FAROESE}", f"__label__eng_Latn {ENGLISH}"] * 20
    (folder / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    model = fasttext.train_supervised(
        str(folder / "train.txt"), dim=8, epoch=30, lr=1.0, minn=2, maxn=3, bucket=2000, thread=1, verbose=0
    )
    model.save_model(str(folder / "model.bin"))
    return str(folder / "model.bin")


def test_fasttext_by_file_and_label(value: Value, fasttext_model: str) -> None:
    def of(text: str, **more: str) -> float:
        found = value(text, use="language", method="fasttext", file=fasttext_model, **{"language": "fao_Latn"} | more)
        assert found is not None and 0 <= found <= 1
        return found

    assert of(FAROESE.replace(" í", "\ní")) > 0.9 > 0.1 > of(ENGLISH)
    assert of(FAROESE) + of(FAROESE, language="eng_Latn") == pytest.approx(1, abs=1e-3)
    assert of(FAROESE, output="verdict") == 1.0 and of(ENGLISH, output="verdict") == 0.0
    with pytest.raises(Refusal, match="did you mean 'fao_Latn'"):
        of(FAROESE, language="fo_Latn")


def test_a_probability_above_one_is_one(value: Value, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def predict(self, texts: list[str], k: int) -> tuple[list[list[str]], list[list[float]]]:
            assert "\n" not in texts[0] and k == -1
            return [["__label__fo"]], [[1.0000100]]

    monkeypatch.setattr("factory.rewards.language._fasttext_model", lambda key: (Model(), frozenset({"fo", "is"})))
    file = tmp_path / "model.bin"
    file.write_text("")
    given = {"use": "language", "method": "fasttext", "file": str(file)}
    assert value(FAROESE, **given) == 1.0
    assert value(FAROESE, language="is", **given) == 0.0  # a label the model did not list


def test_a_file_that_is_no_model_and_an_empty_word_list_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("fasttext")
    file = tmp_path / "empty"
    file.write_text("\n")
    for method, said in (("fasttext", "no fastText model"), ("words", "holds no word")):
        with pytest.raises(Refusal, match=said):
            component({"use": "language", "method": method, "file": str(file)}).score(Batch.of_texts([FAROESE]))


def _verdicts(lines: list[str]) -> list[float]:
    scored = component({"use": "language", "output": "verdict"}).score(Batch.of_texts(lines))
    values = [reward.value for reward in scored if reward.value is not None]
    assert len(values) > 200  # the rest is shorter than four words
    return values


def test_real_faroese_is_told_from_its_neighbours(faroese_text: Callable[[str], list[str]]) -> None:
    faroese = _verdicts(faroese_text("lid/fo.txt"))
    assert sum(faroese) / len(faroese) > 0.95
    for language in FOREIGN:
        foreign = _verdicts(faroese_text(f"lid/{language}.txt"))
        assert sum(foreign) / len(foreign) < 0.005, language


def test_a_word_list_from_half_of_the_text_knows_more_of_the_other_half_than_of_danish(
    faroese_text: Callable[[str], list[str]], tmp_path: Path
) -> None:
    faroese, file = faroese_text("lid/fo.txt"), tmp_path / "words.txt"
    file.write_text("\n".join(faroese[::2]), encoding="utf-8")
    this = component({"use": "language", "method": "words", "file": str(file)})

    def mean(lines: list[str]) -> float:
        values = [reward.value or 0.0 for reward in this.score(Batch.of_texts(lines))]
        return sum(values) / len(values)

    assert mean(faroese[1::2]) > 2 * mean(faroese_text("lid/da.txt"))
