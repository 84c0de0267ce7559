"""The probe: the student itself answers prompts, and components that need no teacher judge the fresh text.

Reads `prompts`. The only module of the trainer that imports factory.rewards. Refuses components that need a teacher, and prompts
that leave no room for an answer in the model's context. Greedy figures are `probe/NAME`, sampled ones `probe_sampled/NAME`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.fingerprint import chat_template
from data.keys import hex_id, id64, nfc
from data.lake import Lake
from data.manifest import Slice
from data.reasoning import answer_part
from data.refusal import Refusal
from factory.rewards import Batch, Component, component
from trainer.config import TrainerRecipe
from trainer.ema import replaced
from trainer.forward import (
    Generated,
    GroupTokens,
    Policy,
    Sampling,
    context_length,
    end_token_ids,
    generate,
    group_logprobs,
    plan,
)
from trainer.optimiser import trained
from trainer.sources import Reading

NEEDS_TEACHER = frozenset({"answers", "scores", "replies"})
BATCH = 64  # prompts answered together


@dataclass(frozen=True)
class Prober:
    """Prompts in the student's ids with what is known of them, and the components that judge the answers."""

    prompts: list[list[int]]
    rows: list[dict[str, Any]]
    """Rows of `prompts`, as many as there are id lists."""
    components: list[Component]
    max_tokens: int
    stop_ids: tuple[int, ...]
    seed: int
    sampled: bool
    initial: dict[str, Tensor] | None
    """Starting weights, where KL(π‖π_0) is measured."""
    tags: Sequence[str] = ()
    """Around the student's reasoning: components see what follows it; n_tokens counts it too."""

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that `measure` may give."""
        names = ["n_tokens", "truncated", *(item.name for item in self.components)]
        prefixes = ["probe", *(["probe_sampled"] if self.sampled else [])]
        return [f"{prefix}/{name}" for prefix in prefixes for name in names] + (["probe/kl"] if self.initial else [])

    def measure(self, policy: Policy, step: int) -> dict[str, float]:
        """Means over the prompts by name; a component that scored nothing is absent, never 0."""
        figures = self._figures("probe", policy, self._answers(policy, step, greedy=True))
        if self.sampled or self.initial is not None:
            drawn = self._answers(policy, step, greedy=False)
            if self.sampled:
                figures |= self._figures("probe_sampled", policy, drawn)
            if self.initial is not None:
                figures["probe/kl"] = self._kl(policy, self.initial, drawn)
        return figures

    def _answers(self, policy: Policy, step: int, *, greedy: bool) -> list[Generated]:
        sampling = Sampling(max_tokens=self.max_tokens, stop_ids=self.stop_ids, greedy=greedy)
        order = sorted(range(len(self.prompts)), key=lambda i: len(self.prompts[i]))
        found: dict[int, Generated] = {}
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            seeds = [[id64("probe", self.seed, step, self.rows[i]["prompt_id"])] for i in part]
            drawn = generate(policy, [self.prompts[i] for i in part], 1, sampling, seeds)
            found |= {i: samples[0] for i, samples in zip(part, drawn, strict=True)}
        return [found[i] for i in range(len(order))]

    def _figures(self, prefix: str, policy: Policy, answers: Sequence[Generated]) -> dict[str, float]:
        texts = [str(policy.tokenizer.decode(a.token_ids, skip_special_tokens=True)) for a in answers]
        # a thought that never ended answers nothing: measured as an empty answer, where a reward of it would be null
        said = batch_of(self.rows, [answer_part(text, self.tags) or "" for text in texts], answers)
        whole = batch_of(self.rows, texts, answers)
        figures = {
            f"{prefix}/n_tokens": sum(len(a.token_ids) for a in answers) / len(answers),
            f"{prefix}/truncated": sum(a.finish_reason == "length" for a in answers) / len(answers),
        }
        for item in self.components:
            values = [r.value for r in item.score(whole if item.whole else said) if r.valid and r.value is not None]
            if values:
                figures[f"{prefix}/{item.name}"] = sum(values) / len(values)
        return figures

    def _kl(self, policy: Policy, initial: dict[str, Tensor], drawn: Sequence[Generated]) -> float:
        """KL(π‖π_0) a token: the mean of log π − log π_0 on text drawn from π at temperature 1 (MATH §9)."""
        groups = [GroupTokens(prompt, [answer.token_ids]) for prompt, answer in zip(self.prompts, drawn, strict=True)]
        total = sum(sum(answer.logprobs) for answer in drawn)
        with torch.no_grad(), replaced(policy.model, initial):
            for batch in plan(groups, self.max_tokens * BATCH, policy.layout):
                total -= float(group_logprobs(policy, [groups[i] for i in batch]).double().sum())
        return total / sum(len(answer.token_ids) for answer in drawn)


def batch_of(rows: Sequence[Mapping[str, Any]], texts: list[str], answers: Sequence[Generated]) -> Batch:
    """Fresh answers with what is known of their prompts, as components read them; no teacher's answers, no scores."""
    extra = [json.loads(row["extra"]) if row["extra"] else {} for row in rows]
    columns: dict[str, list[Any]] = {
        name: [one.get(name) for one in extra] for name in sorted({n for one in extra for n in one})
    }
    columns |= {name: [row[name] for row in rows] for name in ("topic", "source")}
    return Batch.of_texts(
        texts,
        prompts=[row["messages"] for row in rows],
        references=[row["references"] or [] for row in rows],
        finish_reasons=[answer.finish_reason for answer in answers],
        n_tokens=[len(answer.token_ids) for answer in answers],
        answer_patterns=[row["answer_pattern"] for row in rows],
        languages=[row["language"] for row in rows],
        columns=columns,
    )


def prober(lake: Lake, recipe: TrainerRecipe, reading: Reading, policy: Policy) -> Prober | None:
    """The recipe's probe, or None where it has none. Refuses an empty split and prompts that are too long."""
    settings = recipe.trainer.probe
    if reading.prompts is None:
        return None
    rows = _rows(lake, recipe, reading.prompts)
    components = probe_components(recipe)
    prompts = [_prompt_ids(policy, chat_template(reading.start.settings, reading.start.folder), row) for row in rows]
    longest = settings.max_tokens or recipe.sampling.max_tokens
    limit = context_length(policy)
    for row, prompt in zip(rows, prompts, strict=True):
        if limit is not None and len(prompt) + longest > limit:
            raise Refusal(
                f"probe: prompt {hex_id(row['prompt_id'])} of {len(prompt)} tokens and an answer of {longest} are longer than the "
                f"model's context of {limit}",
                f"probe.max_tokens={max(1, limit - max(len(p) for p in prompts))}",
            )
    stops = [i for text in recipe.sampling.stop for i in policy.tokenizer(text, add_special_tokens=False).input_ids]
    initial = {name: p.detach().clone() for name, p in trained(policy.model).items()} if settings.kl else None
    stop_ids = tuple(dict.fromkeys([*end_token_ids(policy), *stops]))
    return Prober(
        prompts,
        rows,
        components,
        longest,
        stop_ids,
        recipe.seed,
        settings.sampled,
        initial,
        tuple(recipe.reasoning.student),
    )


def probe_components(recipe: TrainerRecipe) -> list[Component]:
    """The recipe's components that need no teacher, and the probe's own. Refuses one of its own that needs one."""
    chosen = []
    for name, spec in recipe.components.items():
        found = component(spec, name)
        if not found.needs & NEEDS_TEACHER and name not in recipe.trainer.probe.components:
            chosen.append(found)
    for name, spec in recipe.trainer.probe.components.items():
        found = component(spec, name)
        if missing := found.needs & NEEDS_TEACHER:
            raise Refusal(
                f"probe.components: {name} needs {' and '.join(sorted(missing))}, and no model is asked while training",
                _elsewhere(recipe, name, found),
            )
        chosen.append(found)
    return chosen


def _elsewhere(recipe: TrainerRecipe, name: str, item: Component) -> str:
    """What measures it instead: the factory's evaluation of the finished run, where components may ask models."""
    if "replies" in item.needs:
        return (
            f"move {name} to factory.benchmarks.NAME.metrics, then: python -m factory recipe={recipe.name} 'stages=[evaluate]' "
            "'policies=[run:NAME]'"
        )
    return f"compare with references (probe.components.{name}.to=references), or take it out"


def _rows(lake: Lake, recipe: TrainerRecipe, slice_: Slice) -> list[dict[str, Any]]:
    """Rows of the split, the first by id, so that every run asks the same prompts."""
    import pyarrow.compute as pc

    table = lake.read(slice_)
    rows = table.filter(pc.equal(table.column("split"), recipe.trainer.probe.split))
    if not rows.num_rows:
        raise Refusal(
            f"probe: {slice_.path} has no prompts of split {recipe.trainer.probe.split}",
            "prompts.held_out=0.1 and the factory's stage prompts, or probe.every=null",
        )
    return rows.sort_by("prompt_id").slice(0, recipe.trainer.probe.prompts).to_pylist()


def _prompt_ids(policy: Policy, template: str | None, row: Mapping[str, Any]) -> list[int]:
    """The prompt as the factory asks it: through the chat template, or, without one, each message on a line of its own."""
    chat = [{"role": m["role"], "content": nfc(m["content"])} for m in row["messages"]]
    template = template or policy.tokenizer.chat_template
    if template is None:
        return list(policy.tokenizer("".join(m["content"] + "\n" for m in chat)).input_ids)
    import jinja2

    try:
        ids: Any = policy.tokenizer.apply_chat_template(
            chat, chat_template=template, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except jinja2.TemplateError as error:
        raise Refusal(
            f"probe: the chat template refuses prompt {hex_id(row['prompt_id'])}: {error}",
            "give a student.chat_template that takes it, or probe.every=null",
        ) from error
    return list(ids)
