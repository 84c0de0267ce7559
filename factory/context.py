"""What the stages of one call share: recipe, lake, models opened when first asked for, and the one loop that knows about disks.

Reads model folders. Writes `models`, and through `make` whatever a stage computes, with a row of `costs`."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from data import pool
from data.config import ModelSettings, model_settings
from data.contract import TABLES
from data.fingerprint import identity, loading, model_folder, policy_model, remembered
from data.keys import digest
from data.lake import Key, Lake, Shard
from data.manifest import Slice
from data.progress import progress
from data.refusal import Refusal
from factory.config import FactoryRecipe, FactorySettings
from factory.costs import Tally, Work, book
from factory.endpoints import Limit
from factory.engines import AT_ONCE, TextEngine, TokenEngine, engine_version, require
from factory.engines.tokens import Tokens
from factory.executors import distributes, in_process, opened

if TYPE_CHECKING:
    from factory.engines.api import Apis
    from factory.executors.scheduling import Workers

LIMIT_FILES = ("config.json", "generation_config.json", "tokenizer_config.json")  # where end tokens are named


@dataclass
class Context:
    """One call of the factory."""

    recipe: FactoryRecipe
    lake: Lake
    engines: dict[str, TokenEngine] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    stage: str = ""
    """The one that runs."""
    _rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    _tokens: dict[str, Tokens] = field(default_factory=dict)
    _apis: Apis | None = None
    _workers: Workers | None = None
    _opening: Any = field(default_factory=Lock)
    _closed: bool = False

    @property
    def settings(self) -> FactorySettings:
        """The factory's own section."""
        return self.recipe.factory

    def say(self, line: str) -> None:
        """One line for the reader."""
        print(line, flush=True)

    def remark(self, made: Slice, line: str) -> None:
        """One line about a slice that this call made; a slice that was found has been talked about before."""
        if made.path in self.made:
            self.say(f"{made.path}: {line}")

    def model(self, role: str | ModelSettings) -> ModelSettings:
        """The settings of student, teacher, policy, a scorer or another model of the recipe, or run:NAME."""
        if isinstance(role, ModelSettings):
            return role
        if role == "teacher":
            if self.recipe.teacher is None:
                raise Refusal(f"recipe {self.recipe.name} has no teacher", "teacher.path=FOLDER")
            return self.recipe.teacher
        if role == "policy":
            return policy_model(self.recipe)
        if role == "student":
            return self.recipe.student
        if role in self.recipe.scorers:
            return self.recipe.scorers[role].model
        if role in self.recipe.models:
            return self.recipe.models[role]
        return policy_model(dataclasses.replace(self.recipe, policy=role))

    def row(self, role: str | ModelSettings) -> dict[str, Any]:
        """The row of `models` for a role, published. A model whose folder is gone is known by its settings."""
        model = self.model(role)
        name = _name(model)
        if name not in self._rows:
            self._rows[name] = self._published(model)
        return self._rows[name]

    def _identified(self, model: ModelSettings) -> tuple[dict[str, Any], bool]:
        """The row of a model, and whether its files say so; else the newest row of its settings does."""
        try:
            return identity(model, self.recipe.runs, self.recipe.seed), True
        except Refusal:
            known = self.lake.slices("models", model=model_settings(model))
            if not known:
                raise
            return dict(self.lake.read(known[-1]).to_pylist()[0]), False

    def _published(self, model: ModelSettings) -> dict[str, Any]:
        settings: dict[str, Any] = {"model": model_settings(model)}
        row, there = self._identified(model)
        if not there:
            return row
        key = Key(settings, (), {"model": row["model_id"]}, (row["model_id"],))
        label = model.path.rstrip("/").rpartition("/")[2].replace("run:", "")
        found = self.lake.find("models", key)
        if found is None:
            with self.lake.publish("models", key, label=label) as publisher:
                for shard in publisher.pending():
                    publisher.write(shard, pa.Table.from_pylist([row], schema=TABLES["models"].schema))
                publisher.finish()
        elif found != self.lake.slices("models", **settings)[-1]:
            self.lake.renew(found)
        return row

    def tokens(self, role: str | ModelSettings) -> Tokens:
        """The tokenizer of a role; no weights are loaded."""
        model = self.model(role)
        name = _name(model)
        if name not in self._tokens:
            self._tokens[name] = Tokens.open(model, model_folder(model, self.recipe.runs))
        return self._tokens[name]

    def stop_ids(self, role: str, stop: Sequence[str]) -> list[int]:
        """Ids that end a sample of a role. Remembered, so that a call that finds everything loads no tokenizer."""
        folder = model_folder(self.model(role), self.recipe.runs)
        files = [f for f in (folder / name for name in LIMIT_FILES) if f.is_file()]
        key = digest([self.row(role)["tokenizer"], [f.read_text(encoding="utf-8") for f in files], list(stop)])
        text = remembered("stop_ids", key, lambda: json.dumps(self.tokens(role).stop_ids(stop)))
        return [int(i) for i in json.loads(text)]

    def text_engine(self, role: str | ModelSettings, stage: str) -> TextEngine:
        """What answers conversations for a role or any other model: its endpoint, or the factory's engine.

        `stage` is what an endpoint's costs are booked under. Answers over endpoints go through the lake's ledger."""
        model = self.model(role)
        if model.endpoint is None:
            return self.engine(role, "answer")
        with self._opening:
            self._refuse_closed()
            if self._apis is None:
                from factory.engines.api import Apis

                settings = self.settings
                self._apis = Apis(self.lake, self.recipe.name, settings.endpoints, Limit.read(settings.budget))
        return self._apis.engine(model, stage)

    def engine(self, role: str | ModelSettings, ability: str) -> TokenEngine:
        """The engine that does this for a role, loaded when first asked for."""
        model, does = self.model(role), self.settings.engine.does(ability)
        require(does, ability)
        name = f"{does} {_name(model)}"
        with self._opening:
            self._refuse_closed()
            if name not in self.engines:
                self._make_room(does)
                self.engines[name] = self._opened(does, role, model)
            engine = self.engines.pop(name)
            self.engines[name] = engine  # last used, last to make room
        return engine

    def _make_room(self, does: str) -> None:
        """Close what was used longest ago. vLLM takes the device's memory for itself, so it stays with nothing."""
        alone = does == "vllm" or any(name.startswith("vllm ") for name in self.engines)
        while len(self.engines) >= (1 if alone else max(self.settings.engine.resident, 1)):
            self.engines.pop(next(iter(self.engines))).close()

    def _opened(self, does: str, role: str | ModelSettings, model: ModelSettings) -> TokenEngine:
        settings, folder = self.settings.engine, model_folder(model, self.recipe.runs)
        row, tokens = self.row(role), self.tokens(role)
        if (line := loading(model, folder)) is not None:
            self.say(line)
        if does == "vllm":
            from factory.engines.vllm import VllmEngine

            return VllmEngine(folder, model, row, tokens, settings.vllm)
        from factory.engines.hf import HfEngine

        return HfEngine(
            folder,
            model,
            row,
            tokens,
            batch_tokens=settings.batch_tokens,
            device=settings.device,
            seed=self.recipe.seed,
        )

    def remark_bill(self, made: Slice) -> None:
        """One line about what a slice's answers over endpoints cost, where there were any."""
        if self._apis is not None:
            self.remark(made, self._apis.bill())

    def all_here(self, names: Iterable[str]) -> bool:
        """Whether none of these models is behind an endpoint."""
        return all(self.model(name).endpoint is None for name in names)

    def close(self) -> None:
        """Free every model, end the workers, and let the ledger go."""
        with self._opening:
            self._closed = True
        if self._workers is not None:
            workers, self._workers = self._workers, None
            workers.close()
        if self._apis is not None:
            apis, self._apis = self._apis, None
            apis.close()
        self._free()

    def _refuse_closed(self) -> None:
        """A shard in a thread that outlives a refusal must load nothing anew."""
        if self._closed:
            raise RuntimeError("this call of the factory has ended")

    def _free(self) -> None:
        while self.engines:
            self.engines.popitem()[1].close()

    def prompts(self) -> Slice:
        """The recipe's prompts."""
        return pool.find_prompts(self.lake, self.recipe)

    def pool(self) -> pool.Pool:
        """The recipe's pool, drawn or imported."""
        return pool.find_pool(self.lake, self.recipe, self.row("policy")["model_id"])

    def make(
        self,
        stage: str,
        table: str,
        key: Key,
        label: str,
        compute: Callable[[Shard, Work], pa.Table],
        *,
        total: int,
        unit: str,
        notes: Mapping[str, Any] | None = None,
        model: str | None = None,
        ability: str | None = None,
        asks: Iterable[str] = (),
    ) -> Slice:
        """The slice of this key: found, or its missing shards made, published one by one, and their cost booked.

        ability: what `compute` asks engines for; where the engine's queue would run dry at a shard's end, it gets two at once.
        asks: models that it asks beside; workers compute no shard that asks an endpoint."""
        if (found := self.lake.find(table, key, label=label)) is not None:
            self.say(f"{found.path}: found, nothing to do")
            return found
        does = "api" if ability == "ask" else self.settings.engine.does(ability) if ability else None
        by = {"engine": does, "engine_version": engine_version(does)} if does else {}
        if distributes(self.recipe, ability) and self.all_here(asks):
            by["executor"] = self.recipe.executor.name
        with self.lake.publish(table, key, label=label, notes={**(notes or {}), **by}) as publisher:
            tally, began, pending = Tally(model=model), time.monotonic(), publisher.pending()
            share = len(pending) / max(len(publisher.shards), 1)
            with progress(f"{stage} {label}", round(total * share), unit) as advance:
                at_once = AT_ONCE.get(does, 1) if does else 1
                if "executor" in by:
                    above = tuple(parent.path for parent in key.parents)
                    named = f"{table}/{publisher.name}"
                    made_by = self._distributed(named, above, pending, at_once, Work(tally, advance))
                else:
                    made_by = in_process.computed(pending, lambda s: compute(s, Work(tally, advance)), at_once)
                for shard, rows in made_by:
                    if self._apis is not None:
                        self._apis.send()
                    publisher.write(shard, rows)
            made = publisher.finish()
        seconds = time.monotonic() - began
        if pending:
            book(self.lake, stage, self.recipe.name, made.path, tally, seconds)
        self.made.add(made.path)
        self.say(_made(made, tally, len(pending), seconds))
        return made

    def _distributed(
        self, slice_: str, parents: tuple[str, ...], pending: Sequence[Shard], at_once: int, work: Work
    ) -> Iterator[tuple[Shard, pa.Table]]:
        """Each pending shard with its rows, from workers; what is loaded here makes room for them."""
        if not pending:
            return iter(())
        self._free()
        if self._workers is None:
            self._workers = opened(self.recipe)
        return self._workers.computed(self.stage, slice_, parents, pending, at_once, work)


def _name(model: ModelSettings) -> str:
    return repr(model)


def _made(made: Slice, tally: Tally, shards: int, seconds: float) -> str:
    kept = f", {len(made.shards) - shards} of {len(made.shards)} shards kept" if shards < len(made.shards) else ""
    if not shards:
        return f"{made.path}: {made.rows:,} rows, all of them there already"
    tokens = tally.tokens_in + tally.tokens_out
    rate = f", {tokens:,} tokens at {tokens / max(seconds, 1e-9):,.0f}/s" if tokens else ""
    return f"{made.path}: {tally.items:,} rows in {seconds:.1f} s{rate}{kept}"
