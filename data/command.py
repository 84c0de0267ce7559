"""The edge of a command: overrides in, a frozen recipe out, every mistake as one sentence.

`factory` and `trainer` are Hydra applications over conf/. Reads the YAML there; refuses unknown keys with the nearest name,
overrides that add or delete keys, and recipes that do not exist. Exit code 2 for a refusal."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.config import Recipe
from data.refusal import Refusal, nearest

CONF = Path(__file__).resolve().parent.parent / "conf"
EXPRESSIONS = ("reward", "where")  # SQL, not Hydra's grammar: quoted before Hydra reads them
FLAGS = ("-m", "--multirun", "--debug", "--config-dir", "-cd", "--cfg", "-c", "--resolve", "--info")


@dataclass(frozen=True)
class Command:
    """One command: its section's name, the typed recipe, what it does and what `--help` says first."""

    section: str
    recipe: type[Recipe]
    body: Callable[[Any], None]
    description: str
    examples: Sequence[str]

    @property
    def settings(self) -> type:
        """The dataclass of the command's own section."""
        return next(f.default_factory for f in dataclasses.fields(self.recipe) if f.name == self.section)  # type: ignore[return-value]

    def main(self, argv: Sequence[str]) -> int:
        """Run the command and return its exit code."""
        if {"-h", "--help"} & set(argv):
            print(self.help())
            return 0
        if "--debug" in argv:
            self.run([a for a in argv if a != "--debug"])
            return 0
        try:
            self.run(argv)
        except Refusal as refusal:
            print(refusal, file=sys.stderr)
            return 2
        return 0

    def run(self, argv: Sequence[str]) -> None:
        """Compose the recipe with Hydra and call the body, once per job of a sweep."""
        overrides = self.prepared(argv)
        import hydra
        from hydra.core.config_store import ConfigStore
        from hydra.errors import HydraException
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us, not Hydra's own printer
        ConfigStore.instance().store(name=f"{self.section}_schema", node=thawed(self.recipe))

        def job(config: Any) -> None:
            self.body(OmegaConf.to_object(config))

        with tempfile.TemporaryDirectory() as sweep:
            sys.argv = [f"python -m {self.section}", f"hydra.sweep.dir={sweep}", *overrides]
            try:
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=self.section)(job)()
            except (HydraException, OmegaConfBaseException) as error:
                raise self.translated(error) from error

    def prepared(self, argv: Sequence[str]) -> list[str]:
        """Overrides as Hydra wants them: expressions quoted, the section's keys prefixed, unknown names refused."""
        return list(self._prepared(argv))

    def _prepared(self, argv: Sequence[str]) -> Iterator[str]:
        recipes = _recipes(argv)
        chosen: list[str] = []
        roots = {f.name for f in dataclasses.fields(Recipe)}
        own = {f.name for f in dataclasses.fields(self.settings)}
        groups = {p.name for p in CONF.iterdir() if p.is_dir()}
        follows_flag = False
        for word in argv:
            if word in FLAGS or follows_flag:
                follows_flag = word in ("--config-dir", "-cd", "--cfg", "-c", "--info")
                yield word
                continue
            key, equals, value = word.partition("=")
            first = re.split(r"[.@]", key)[0]
            if word.startswith(("+", "~")) or not equals:
                raise Refusal(f"{word!r} is no override of the form key=value", f"python -m {self.section} --help")
            if first not in roots | own | groups | {"hydra"}:
                raise Refusal(
                    f"no setting named {first!r}: {nearest(first, roots | own | groups)}",
                    f"python -m {self.section} --help",
                )
            if key == "recipe":
                chosen += value.split(",")
            if key in EXPRESSIONS and value not in ("null", "") and value[0] not in "\"'":
                word = key + "='" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
            yield f"{self.section}.{word}" if first in own and first not in roots | groups else word
        for name in chosen:
            if name not in recipes:
                raise Refusal(
                    f"no recipe named {name!r}: {nearest(name, recipes)}",
                    f"python -m {self.section} recipe={sorted(recipes)[0]}",
                )
        if not chosen:
            raise Refusal(
                f"no recipe given; there are: {', '.join(sorted(recipes))}",
                f"python -m {self.section} recipe={sorted(recipes)[0]}",
            )

    def translated(self, error: Exception) -> Refusal:
        """Hydra's and OmegaConf's errors as one sentence, with the nearest name where a key is unknown."""
        text = str(error.__cause__ or error) if "raised while composing" in str(error) else str(error)
        unknown = re.search(r"Key '([^']+)' (?:is )?not in '([^']+)'", str(error)) or re.search(
            r"Key '([^']+)' (?:is )?not in '([^']+)'", text
        )
        if unknown:
            key, owner = unknown.groups()
            known = {c.__name__: [f.name for f in dataclasses.fields(c)] for c in nested(self.recipe)}
            return Refusal(
                f"no setting named {key!r} in {owner}: {nearest(key, known.get(owner, []))}",
                f"python -m {self.section} --help",
            )
        full_key = re.search(r"full_key: (\S+)", str(error))
        where = f"{full_key.group(1)}: " if full_key else ""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Refusal(f"{where}{lines[0]}", f"python -m {self.section} --help")

    def help(self) -> str:
        """The text of `--help`: examples, recipes, and every setting with its meaning."""
        recipes = [f"  {name:<12}{first_comment(path)}" for name, path in sorted(_recipes([]).items())]
        lines = [
            self.description,
            "",
            "Examples:",
            *(f"  {e}" for e in self.examples),
            "",
            "Recipes:",
            *recipes,
            "",
            "Settings (key=value):",
        ]
        lines += _rows(self.recipe, "", skip=("factory", "trainer"))
        lines += ["", f"Settings of this command ({self.section}.key=value, or key=value):", *_rows(self.settings, "")]
        return "\n".join([*lines, "", "-m runs a sweep: objective=grpo,seq_tis seed=1,2. --debug shows tracebacks."])


def _recipes(argv: Sequence[str]) -> dict[str, Path]:
    folders = [CONF, *(Path(b) for a, b in itertools.pairwise(argv) if a in ("--config-dir", "-cd"))]
    return {p.stem: p for folder in folders for p in (folder / "recipe").glob("*.yaml")}


def first_comment(path: Path) -> str:
    """What a recipe says of itself: the text behind the command in its first line."""
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").strip()


def nested(cls: type) -> Iterator[type]:
    """A dataclass and every dataclass that its fields name."""
    yield cls
    for value in typed_fields(cls).values():
        yield from nested(value)


def typed_fields(cls: type) -> dict[str, type]:
    """Field name → dataclass, for the fields that hold one."""
    import typing

    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        for option in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(option) and isinstance(option, type):
                found[name] = option
    return found


def thawed(cls: type) -> Any:
    """A structured node of a frozen dataclass that Hydra may still override."""
    from omegaconf import DictConfig, OmegaConf

    def thaw(node: Any) -> None:
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            OmegaConf.set_readonly(node, None)
            for key in node:
                thaw(node._get_node(key))

    node = OmegaConf.structured(cls)
    thaw(node)
    return node


def field_docs(cls: type) -> dict[str, str]:
    """The line under each field of a dataclass, base classes included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for statement, follower in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(follower, ast.Expr)
                and isinstance(follower.value, ast.Constant)
            ):
                docs[statement.target.id] = str(follower.value.value)  # type: ignore[union-attr]
    return docs


def _rows(cls: type, prefix: str, skip: Sequence[str] = ()) -> list[str]:
    docs, inner, rows = field_docs(cls), typed_fields(cls), []
    for f in dataclasses.fields(cls):
        if f.name in skip:
            continue
        rows.append(f"  {prefix + f.name:<28} {docs.get(f.name, '')}{_default(f)}")
        if f.name in inner:
            rows += _rows(inner[f.name], f"{prefix}{f.name}.")
    return rows


def _default(f: dataclasses.Field[Any]) -> str:
    if f.default in (dataclasses.MISSING, None, "???"):
        return ""
    return f" [{str(f.default).lower() if isinstance(f.default, bool) else f.default}]"
