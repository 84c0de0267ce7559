"""`python -m data card`: a lake's README.md that makes the folder a data set repository, one configuration a table.

Reads manifests, and the licence and language columns of prompts and corpora. Writes README.md at the lake's root: the front matter
that `datasets` and the hub read, and a page for people. Files are those that the tables' current slices name: unfinished ones are
not loaded. Refuses a README.md that it did not write, and a lake on object storage."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.contract import TABLES, VERSION
from data.lake import Lake
from data.refusal import Refusal
from data.relations import current, journal_files
from data.storage import disk_refusal, replace_durably

NAME = "README.md"
WRITTEN = "Written by `python -m data card`"
LABELLED = (
    "rewards",
    "answer_rewards",
)  # their rows do not say of which component they are: each gets a configuration of its own


def write(lake: Lake, *, replace: bool = False) -> Path:
    """Write the card and return where it is."""
    if lake.remote is not None:
        raise Refusal(f"{lake.uri} is no folder", f"python -m data pull {lake.uri} --lake FOLDER")
    path = lake.root / NAME
    if path.exists() and WRITTEN not in path.read_text(encoding="utf-8") and not replace:
        raise Refusal(f"{path} is not of this command", "python -m data card --replace")
    temporary = path.with_name(f".{NAME}.{os.getpid()}.tmp")
    try:
        temporary.write_text(card(lake), encoding="utf-8")
        replace_durably(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_refusal(error, str(path)) from error
    return path


def configurations(lake: Lake) -> dict[str, list[str]]:
    """Configuration → its files, relative to the lake: a folder's pattern where the table takes all of it, else one by one.

    Without tables that hold a map: `datasets` knows no such type."""
    found: dict[str, list[str]] = {}
    for name, table in TABLES.items():
        if unloadable(name):
            continue
        if table.journal:
            files = [path.relative_to(lake.root).as_posix() for path in journal_files(lake, name)]
            found[name] = [f"{name}/journal/*.parquet"] if files else []
            continue
        slices = current(lake.slices(name))
        found[name] = patterns(lake, (shard.file for s in slices for shard in s.shards))
        for label in sorted({s.label for s in slices}) if name in LABELLED else ():
            own = (shard.file for s in slices if s.label == label for shard in s.shards)
            found[f"{name}-{label}"] = patterns(lake, own)
    return {name: files for name, files in found.items() if files}


def unloadable(table: str) -> bool:
    """Whether a table has a column that `datasets` cannot hold."""
    return any(pa.types.is_map(column.type) for column in TABLES[table].columns)


def patterns(lake: Lake, files: Iterable[str]) -> list[str]:
    """Files by folder: `folder/*.parquet` where every Parquet file there is among them."""
    folders: dict[str, set[str]] = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        folders.setdefault(folder, set()).add(name)
    out: list[str] = []
    for folder, names in folders.items():
        whole = {path.name for path in (lake.root / folder).glob("*.parquet")} == names
        out += [f"{folder}/*.parquet"] if whole else [f"{folder}/{name}" for name in sorted(names)]
    return out


def card(lake: Lake) -> str:
    """The card's text."""
    import yaml

    configs = configurations(lake)
    licences, languages = said(lake, "licence"), said(lake, "language")
    front: dict[str, Any] = {
        "license": licences[0].lower() if len(licences) == 1 and re.fullmatch(r"[\w.+-]+", licences[0]) else "other",
        "language": [code for code in languages if re.fullmatch(r"[a-z]{2,3}", code)],
        "tags": ["grpo-kd"],
        "configs": [{"config_name": name, "data_files": files} for name, files in configs.items()],
    }
    head = yaml.safe_dump({k: v for k, v in front.items() if v}, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{_page(lake, configs, licences)}"


def said(lake: Lake, column: str) -> list[str]:
    """Different values of a column of prompts and corpus, in order."""
    rows = [lake.read(s, [column]) for name in ("prompts", "corpus") for s in current(lake.slices(name))]
    return sorted({str(value) for table in rows for value in table.column(column).to_pylist() if value})


def _page(lake: Lake, configs: Mapping[str, list[str]], licences: list[str]) -> str:
    rows = []
    for name in configs:
        table = name if name in TABLES else name.partition("-")[0]
        component = f", of the component `{name.partition('-')[2]}`" if table != name else ""
        rows.append(f"| `{name}` | {TABLES[table].one_row_per}{component} |")
    left = ", ".join(f"`{name}`" for name in TABLES if unloadable(name) and lake.slices(name))
    beside = f"Without a configuration, since `datasets` has no type for its map column: {left}.\n" if left else ""
    terms = ", ".join(licences) or "not said"
    listed = "\n".join(f"- `{s.path}` ({s.rows:,} rows)" for name in TABLES for s in (current(lake.slices(name))))
    return f"""# A lake of GRPO-KD

{WRITTEN}, contract {VERSION}. Prompts, a student's answers with their log-probabilities, a teacher's answers and scores, and
rewards, as Parquet: a student is trained from them without the teacher.

```python
from datasets import load_dataset

samples = load_dataset("PLACE", "samples", split="train")
```

| configuration | one row per |
|---|---|
{chr(10).join(rows)}

{beside}Tables join by `group_id` and `sample_index`, `prompt_id`, or `candidate`. Licences of prompts and corpora: {terms}.
Texts that models wrote are under those models' terms as well.

## Slices

{listed or "- none"}
"""
