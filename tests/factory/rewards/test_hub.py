"""Files of a hub: what counts as their name, and the refusal where there is no network."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.refusal import Refusal
from factory.rewards import component
from factory.rewards._hub import local


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["cis-lmu/glotlid:model.bin", "cis-lmu/glotlid@v3:sub/model.bin"])
def test_a_file_that_the_hub_cannot_give_is_refused_with_the_command_that_fetches_it(name: str) -> None:
    with pytest.raises(Refusal, match=r"no file (sub/)?model.bin of cis-lmu/glotlid: .*hub") as refusal:
        component({"use": "language", "method": "fasttext", "file": name})
    assert "hf download cis-lmu/glotlid" in str(refusal.value) and len(str(refusal.value).splitlines()) == 2


def test_a_file_that_is_here_comes_first_and_a_path_stays_a_path(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b:c").write_text("á\n", encoding="utf-8")
    for path in ("a/b:c", "/nowhere/x.bin", "x.bin", "a/b/c:d", "words.txt"):
        assert local(path) == path


def test_what_is_fetched_is_read_from_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "models--own--words"
    (folder / "snapshots" / "0" / "list").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0")
    (folder / "snapshots" / "0" / "list" / "fo.txt").write_text("á\n", encoding="utf-8")
    found = component({"use": "language", "method": "words", "file": "own/words:list/fo.txt"})
    assert found.settings.file == str(folder / "snapshots" / "0" / "list" / "fo.txt")
    (tmp_path / "fo.txt").write_text("á\n", encoding="utf-8")
    assert found.identity() == component({"use": "language", "method": "words", "file": "fo.txt"}).identity()
