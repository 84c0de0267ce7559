"""The command that trains a small language model: what it reads, leaves out, holds back and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.refusal import Refusal
from factory.rewards import Batch, component
from factory.train_language import gathered, held_back, main, recalls, sentences, sources

FAROESE = ["Hon býr í einum lítlum húsi", "Tað er kalt á fjallinum", "Vit fara til Havnar í morgin"]
ENGLISH = ["She lives in a small house", "It is cold on the mountain", "We are going to town tomorrow"]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, lines in (("fo", FAROESE), ("en", ENGLISH)):
        many = [f"{line} {number}" for line in lines for number in range(20)]
        (folder / f"{name}.txt").write_text("\n".join(many), encoding="utf-8")
    return folder


def test_the_command_writes_a_model_that_the_component_reads(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fasttext")
    out = texts.parent / "new" / "model.bin"
    assert main([str(texts), "--out", str(out), "--hold", "0.2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 3 and "MB" in told[0] and "held back" in told[1]
    this = component({"use": "language", "method": "fasttext", "file": str(out), "output": "verdict"})
    assert [r.value for r in this.score(Batch.of_texts([FAROESE[0], ENGLISH[0]]))] == [1.0, 0.0]
    assert [p.name for p in out.parent.iterdir()] == ["model.bin"]
    assert recalls(out, {"fo": FAROESE, "en": [*ENGLISH, FAROESE[0]]}) == {"fo": 1.0, "en": 3 / 4}
    before = out.read_bytes()
    assert main([str(texts), "--out", str(out), "--hold", "0.2"]) == 0
    assert out.read_bytes() == before


def test_sources_are_pairs_or_a_folder_and_add_up(texts: Path) -> None:
    more = texts.parent / "more.jsonl"
    more.write_text(json.dumps({"text": "Eitt\n hús"}) + "\n" + json.dumps({"text": " "}) + "\n", encoding="utf-8")
    found = sources([str(texts), f"fo={more}"])
    assert [(language, Path(source).name) for language, source in found] == [
        ("en", "en.txt"), ("fo", "fo.txt"), ("fo", "more.jsonl")]  # fmt: skip
    assert list(sentences(str(more))) == ["Eitt hús"]
    assert gathered(found)["fo"][-1] == "Eitt hús"


def test_a_sentence_counts_once_and_belongs_to_one_language(tmp_path: Path) -> None:
    (tmp_path / "fo.txt").write_text("á\nð\ná\n ð \nOslo\n", encoding="utf-8")
    (tmp_path / "no.txt").write_text("å\nOslo\n", encoding="utf-8")
    assert gathered(sources([str(tmp_path)])) == {"fo": ["á", "ð"], "no": ["å"]}


def test_what_is_held_back_is_a_share_and_stays_the_same() -> None:
    lines = [f"setningur {number}" for number in range(2000)]
    held = [held_back(line, 0.1) for line in lines]
    assert 150 < sum(held) < 250
    assert all(held_back(line, 0.2) for line, back in zip(lines, held, strict=True) if back)
    assert not any(held_back(line, 0) for line in lines)
    assert held_back("  a\n á", 0.5) == held_back("a a\u0301", 0.5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fo"], "'fo' is neither LANGUAGE=SOURCE nor a folder"),
        (["fo=gone.txt"], "no file gone.txt"),
        (["fo=fo.txt"], "1 languages"),
        (["fo=fo.txt", "is=fo.txt"], "fo has no sentence of its own"),
        (["fo=rows.jsonl"], "without a text"),
        (["fo=fo.txt", "--hold", "1"], "hold=1 is outside"),
        (["fo=fo.txt", "--holt", "1"], "No such option"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fo.txt").write_text("á\n", encoding="utf-8")
    Path("rows.jsonl").write_text('{"word": "á"}\n', encoding="utf-8")
    assert main([*words, "--out", "model.bin"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and says in said and len(said.splitlines()) <= 3
    assert not Path("model.bin").exists()


def test_texts_cannot_name_a_label(tmp_path: Path) -> None:
    fasttext = pytest.importorskip("fasttext")
    (tmp_path / "fo.txt").write_text("á __label__evil ð\n" * 3 + "ø æ\n", encoding="utf-8")
    (tmp_path / "en.txt").write_text("the cat\n", encoding="utf-8")
    assert main([str(tmp_path), "--out", str(tmp_path / "m.bin"), "--hold", "0"]) == 0
    assert set(fasttext.load_model(str(tmp_path / "m.bin")).labels) == {"__label__fo", "__label__en"}
    with pytest.raises(Refusal, match="no fastText model"):
        (tmp_path / "m.bin").write_bytes(b"no")
        recalls(tmp_path / "m.bin", {"fo": ["á"]})
