"""The edge of a command: overrides in, a frozen recipe out, every mistake as one sentence.

`factory` and `trainer` are Hydra applications over conf/. Reads the YAML there and in --config-dir; refuses unknown keys with
the nearest name, overrides that add or delete keys, and recipes that do not exist. Exit code 2 for a refusal."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data.config import Recipe
from data.foreign import ours
from data.jobs import Job, first_process, jobs_of
from data.refusal import Refusal, nearest
from data.settings import described, first_comment, last_parts, listed, nested, rows
from data.structured import addressed, in_mapping, thawed, typed_entry, with_open_mappings, without_unknown
from data.typed import Typed, divided, first_of, typing_of

CONF = Path(__file__).resolve().parent.parent / "conf"
EXPRESSIONS = ("reward", "where")  # SQL, not Hydra's grammar: quoted before Hydra reads them
FACTORY_KEYS = ("imports", "corpus", "benchmarks", "soft_targets")
"""What a recipe's factory section says about finding: a trainer that is told them finds what such a factory made."""
QUIET = (  # Hydra writes no folder, no log and no working directory of its own: runs/NAME and the lake are ours
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra.job.chdir=false",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)
INTERRUPTED = 130  # what a shell gives for a program that Ctrl-C ended
UNKNOWN = re.compile(r"Key '([^']+)' (?:is )?not in '([^']+)'")  # how OmegaConf names a key that a dataclass lacks


def config_groups() -> set[str]:
    """Names of the groups of files in conf/ that a command line can choose from: recipe, corpus, …"""
    return {path.name for path in CONF.iterdir() if path.is_dir()}


@dataclass(frozen=True)
class Command:
    """One command: its section's name, the typed recipe, what it does and what `--help` says first."""

    section: str
    recipe: type[Recipe]
    body: Callable[[Any], Any]
    description: str
    examples: Sequence[str]
    names: Callable[[], dict[str, list[str]]] = dict
    """What else `--help` lists: heading → names."""
    check: Callable[[Sequence[Job]], None] | None = None
    """Refuses a sweep before its first job runs, for what can be refused without the disk."""
    closing: Callable[[Sequence[Job], Sequence[Any]], str] | None = None
    """What stands behind a sweep's last job, from the jobs and what `body` gave back."""
    goes_on: Sequence[str] = ()
    """Words with which an interrupted call goes on, where the same ones would not do."""

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
            self.run([word for word in argv if word != "--debug"])
            return 0
        try:
            self.run(argv)
        except Refusal as refusal:
            print(refusal, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            if first_process():
                print(interrupted(self.section, [*argv, *(w for w in self.goes_on if w not in argv)]), file=sys.stderr)
            return INTERRUPTED
        return 0

    def run(self, argv: Sequence[str]) -> None:
        """Compose every job with Hydra, then call the body once a job: a mistake in the last is known before the first begins."""
        jobs, made = self.jobs(argv), []
        typed = Typed.of(self.section, argv, (f.name for f in dataclasses.fields(self.settings)))
        if len(jobs) > 1 and self.check is not None:
            with typing_of(typed):
                self.check(jobs)
        for number, job in enumerate(jobs, 1):
            if len(jobs) > 1 and first_process():
                print(f"[{number}/{len(jobs)}] {job.told}", flush=True)
            with typing_of(dataclasses.replace(typed, words=job.words)):
                made.append(self.body(job.recipe))
        if len(jobs) > 1 and self.closing is not None and first_process():
            print(self.closing(jobs, made), flush=True)

    def jobs(self, argv: Sequence[str]) -> list[Job]:
        """The recipes that a command line names, composed and typed; one unless it is a sweep."""
        flags, overrides = divided(argv)
        words = self.prepared(argv)[len(flags) :]
        import hydra
        from hydra.core.config_store import ConfigStore
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        configs: list[tuple[Any, list[str]]] = []

        def job(config: Any) -> None:
            """One job of a sweep; what may be refused is done behind it: Hydra prints a line of its own for an exception here."""
            configs.append((config, list(HydraConfig.get().overrides.task)))

        os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us, not Hydra's own printer
        with tempfile.TemporaryDirectory() as sweep, thawed(self.recipe), self._refusing(words):
            node = with_open_mappings(self.recipe, addressed(self.recipe, words))
            ConfigStore.instance().store(name=f"{self.section}_schema", node=node)
            sys.argv = [f"python -m {self.section}", *flags, *words, *QUIET, f"hydra.sweep.dir={sweep}"]
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=self.section)(job)()
            known = [(without_unknown(config, self.recipe, FACTORY_KEYS), told) for config, told in configs]
            made = [(OmegaConf.to_object(config), told) for config, told in known]
        return jobs_of(made, overrides, words)

    @contextlib.contextmanager
    def _refusing(self, words: Sequence[str]) -> Iterator[None]:
        """Errors of Hydra, OmegaConf and YAML as one sentence each."""
        import yaml
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            raise self.translated(error) from error
        except yaml.MarkedYAMLError as error:
            raise self.refusal(f"a recipe is no YAML: {' '.join(str(error).split())}") from error
        except AssertionError as error:  # OmegaConf's, where a setting lies within one that the recipe makes null
            if "Unexpected type for root" not in str(error):
                raise
            within = ", ".join(sorted(addressed(self.recipe, words)))
            raise self.refusal(f"the recipe says null for one of {within}: nothing lies within it") from error

    def prepared(self, argv: Sequence[str]) -> list[str]:
        """Words as Hydra wants them: flags first, expressions quoted, the section's keys prefixed, unknown names refused."""
        flags, overrides = divided(argv)
        available = recipes(flags)
        words = [self._override(word, argv) for word in overrides]
        chosen = [
            (word, name)
            for word in words
            if word.startswith("recipe=")
            for name in word.removeprefix("recipe=").split(",")
        ]
        if not chosen:
            raise self.refusal(
                f"no recipe given; there are: {', '.join(available)}", shlex.join(["recipe=demo", *argv])
            )
        for word, name in chosen:
            if name not in available:
                raise self._no_recipe(name, word, argv, available)
            try:
                available[name].read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise self.refusal(f"recipe {available[name]} is no text: {error}") from error
        return [*flags, *words]

    def _no_recipe(self, name: str, word: str, argv: Sequence[str], available: Iterable[str]) -> Refusal:
        """A recipe that is not there: the nearest, or the folder that --config-dir should have named."""
        flags, overrides = divided(argv)
        argv = [*flags, *overrides]  # --config-dir=DIR is two words from here on
        for given in (flags[i + 1] for i, flag in enumerate(flags) if flag == "--config-dir"):
            folder = Path(given)
            if (folder / f"{name}.yaml").is_file() and not (folder / "recipe").is_dir():
                above = str(folder.parent) if folder.resolve().name == "recipe" else None
                place = (
                    f"{folder} holds {name}.yaml itself; --config-dir is the folder that has recipe/{name}.yaml in it"
                )
                to = (
                    self.corrected(argv, given, above) if above else f"mkdir {folder}/recipe, and put {name}.yaml there"
                )
                return Refusal(f"no recipe named {name!r}: {place}", to)
        hint = nearest(name, available)
        close = re.search(r"did you mean '([^']+)'", hint)
        better = self.corrected(argv, word, word.replace(name, close.group(1))) if close else None
        return Refusal(f"no recipe named {name!r}: {hint}", better or f"python -m {self.section} recipe=demo")

    def corrected(self, argv: Sequence[str], word: str, better: str) -> str:
        """This command with one word replaced."""
        return shlex.join(["python", "-m", self.section, *(better if given == word else given for given in argv)])

    def _override(self, word: str, argv: Sequence[str]) -> str:
        typed = word
        word = re.sub(r"^model\.", "model@", word)  # model.teacher=gpt4: conf/model/gpt4.yaml as the teacher
        key, equals, value = word.partition("=")
        first = re.split(r"[.@]", key)[0]
        groups = config_groups()
        roots = {f.name for f in dataclasses.fields(self.recipe)} | {"hydra"}
        own = {f.name for f in dataclasses.fields(self.settings)}
        if word.startswith(("+", "~")) or not equals:
            raise self.refusal(f"{word!r} is no override of the form key=value")
        if first not in roots | own | groups:
            if named := ours(key, value, last_parts(self.recipe)):
                clause, better = named
                if first_of(better) in roots | own:
                    raise Refusal(f"no setting named {key!r}: {clause}", self.corrected(argv, typed, better))
                raise Refusal(f"no setting named {key!r}: {clause}, of the other command", "python -m trainer --help")
            raise self.refusal(f"no setting named {first!r}: {nearest(first, roots | own | groups)}")
        whole = (
            len(value) > 1 and value[0] in "\"'" and value.find(value[0], 1) == len(value) - 1
        )  # quoted for Hydra already
        if key in EXPRESSIONS and value not in ("null", "") and not whole:
            from hydra.core.override_parser.types import Quote, QuotedString

            word = f"{key}={QuotedString(value, Quote.single).with_quotes()}"
        named_file = key.partition("@")[0] in groups and not value.startswith(
            "{"
        )  # corpus={…} is the section's own, no file's name
        word = word if first in roots or named_file else f"{self.section}.{word}"
        path, value = word.partition("=")[0].split("."), word.partition("=")[2]
        if path[0] == "factory" != self.section and path[1:2] and path[1] in FACTORY_KEYS:
            return f"++{word}"
        if place := typed_entry(
            self.recipe, path
        ):  # Hydra merges an entry of a dataclass, and cannot add one by its key
            inside = path[place:]
            return ".".join(path[:place]) + "=" + "".join(f"{{{k}: " for k in inside) + value + "}" * len(inside)
        return f"++{word}" if in_mapping(self.recipe, path) else word

    def refusal(self, what: str, arguments: str = "--help") -> Refusal:
        """A refusal whose next command is this one."""
        return Refusal(what, f"python -m {self.section} {arguments}")

    def translated(self, error: BaseException) -> Refusal:
        """Hydra's and OmegaConf's errors as one sentence, with the nearest name where a key is unknown."""
        chain = [error]
        while chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
        text = "\n".join(str(link) for link in chain)
        if unknown := UNKNOWN.search(text):
            key, owner = unknown.groups()
            known = {c.__name__: [f.name for f in dataclasses.fields(c)] for c in nested(self.recipe)}
            return self.refusal(f"no setting named {key!r} in {owner}: {nearest(key, known.get(owner, []))}")
        if option := re.search(r"Could not (?:find|load) '(\w+)/([^']+)'", text):
            group, name = option.groups()
            return self.refusal(
                f"no {group} named {name!r}: {nearest(name, [p.stem for p in (CONF / group).glob('*.yaml')])}"
            )
        if role := re.search(r"Could not override 'model@([\w.]+)'", text):
            place = role.group(1)
            return self.refusal(
                f"the recipe takes no model of conf/model as {place}: it names its own", f"{place}.path=…"
            )
        lines = [line.strip() for line in str(chain[-1]).splitlines() if line.strip()]
        place = re.search(r"full_key: (\S+)", text)
        if place and place.group(1).startswith("factory.") and self.section != "factory" and "is not in struct" in text:
            read = ", ".join(f"factory.{name}" for name in FACTORY_KEYS)
            return self.refusal(f"{place.group(1)} says nothing to {self.section}, which reads {read}; leave it out")
        composing = len(lines) > 1 and "raised while composing" in lines[0]
        return self.refusal((f"{place.group(1)}: " if place else "") + lines[1 if composing else 0])

    def help(self) -> str:
        """The text of `--help`: examples, recipes, and every setting with its meaning."""
        models, corpora = (
            described((path.stem, first_comment(path)) for path in sorted((CONF / group).glob("*.yaml")))
            for group in ("model", "corpus")
        )
        shared = rows(self.recipe, "", skip=("factory", "trainer"))
        parts = [
            [self.description],
            ["Examples:", *(f"  {example}" for example in self.examples)],
            ["Recipes:", *described((name, first_comment(path)) for name, path in recipes([]).items())],
            *([f"{heading}:", *listed(names)] for heading, names in self.names().items()),
            ["Models, for recipes that name theirs so (model.teacher=NAME, model.student=NAME):", *models],
            ["Corpora by name ('corpus=[NAME,NAME]'), beside those that the recipe describes itself:", *corpora],
            ["Settings (key=value):", *shared],
            [f"Settings of this command ({self.section}.key=value, or key=value):", *rows(self.settings, "")],
            [
                "-m runs a sweep: objective=grpo,seq_tis seed=1,2. --config-dir adds a folder of recipes. --debug shows tracebacks."
            ],
        ]
        return "\n\n".join("\n".join(part) for part in parts)


Kind = TypeVar("Kind", bound=Recipe)


def interrupted(module: str, argv: Sequence[str]) -> Refusal:
    """What is said behind Ctrl-C; these words go on from there."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    start = ["python"] if processes == "1" else ["torchrun", "--nproc-per-node", processes]
    return Refusal("interrupted; what was made is kept", shlex.join([*start, "-m", module, *argv]))


def composed(section: str, kind: type[Kind], words: Sequence[str]) -> Kind:
    """A recipe as the command of that section composes it from these words, for those who call it from Python."""
    kept: list[Kind] = []
    argv = sys.argv
    try:
        Command(section, kind, kept.append, "", ()).run(words)
    finally:
        sys.argv = argv
    return kept[0]


def recipes(flags: Sequence[str]) -> dict[str, Path]:
    """Recipe name → file, in conf/ and in the folder behind --config-dir."""
    folders = [CONF, *(Path(flags[i + 1]) for i, flag in enumerate(flags) if flag == "--config-dir")]
    return {path.stem: path for folder in folders for path in sorted((folder / "recipe").glob("*.yaml"))}
