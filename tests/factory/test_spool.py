"""Records by shard from a file without a name."""

from __future__ import annotations

from factory.spool import Spool


def test_shards_come_back_in_the_order_of_arrival_as_often_as_asked(tmp_path):
    with Spool(tmp_path / "lake") as spool:
        for number in range(300):
            spool.add(number % 7, {"number": number, "text": "ð" * (number % 5)})
        for _ in range(2):
            assert [[r["number"] for r in spool.read(s)] for s in range(7)] == [
                list(range(s, 300, 7)) for s in range(7)
            ]
        assert list(spool.read(7)) == []


def test_no_file_is_seen_and_none_is_made_for_nothing(tmp_path):
    with Spool(tmp_path / "lake") as spool:
        assert list(spool.read(0)) == []
    assert not (tmp_path / "lake").exists()
    with Spool(tmp_path / "lake") as spool:
        spool.add(0, "x" * 100_000)
        assert list((tmp_path / "lake").iterdir()) == []
