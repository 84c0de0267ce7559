"""How a recipe's slices are named and found: one place for keys, used by the factory to make and by the trainer to read.

Keys hold what changes values. The trainer resolves by exact settings and parents, never by "newest": only the prompts' contents,
whose source it may not have, are those of the newest slice with the recipe's own source settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data.config import Reasoning, Recipe, sampling_settings
from data.lake import Key, Lake
from data.manifest import Slice
from data.refusal import Refusal
from data.scorers import scorer_model, scorer_of, valued
from data.typed import again
from data.writers import STAGE_OF, asked_own, find_derived, find_model, steps, translated_own


@dataclass(frozen=True)
class Pool:
    """The groups of one policy under one setting."""

    prompts: Slice
    groups: Slice
    samples: Slice

    @property
    def policy(self) -> str:
        """models.model_id of the policy that was sampled."""
        return self.samples.models["policy"]


def command(recipe: Recipe, stages: str) -> str:
    """The factory command that makes what is missing: this process's own words that the factory reads, and these stages."""
    policy = [] if recipe.policy == "student" else [f"policy={recipe.policy}"]
    return again("factory", recipe.name, [f"lake={recipe.lake}", *policy, f"stages=[{stages}]"], ("estimate",))


def prompts_settings(recipe: Recipe) -> dict[str, Any]:
    """What names the prompts, beside their contents."""
    return {"source": asdict(recipe.prompts)}


def groups_key(
    recipe: Recipe, prompts: Slice, policy: Mapping[str, Any], stop_ids: list[int], mixed_with: str | None = None
) -> Key:
    """Key of `groups`: prompts × policy × sampling, and the teacher that is mixed into it.

    The number of samples is not in it: a group may be topped up."""
    sampling = {k: v for k, v in sampling_settings(recipe).items() if k != "n"}
    settings = {"sampling": sampling, "stop_ids": stop_ids, "seed": recipe.seed}
    mixed = {} if mixed_with is None else {"mixed_with": mixed_with}
    return Key(settings | mixed, (prompts,), {"policy": policy["model_id"]})


def samples_settings(recipe: Recipe) -> dict[str, Any]:
    """Settings of `samples` drawn by the factory."""
    return {"sampling": sampling_settings(recipe), "seed": recipe.seed}


def samples_key(recipe: Recipe, groups: Slice) -> Key:
    """Key of `samples`: the groups and how many of each."""
    mixed = {k: v for k, v in groups.settings.items() if k == "mixed_with"}
    return Key(samples_settings(recipe) | mixed, (groups,), {"policy": groups.models["policy"]})


def scores_key(pool: Pool, scorer: str, temperature: float = 1.0, shown: str = "messages") -> Key:
    """Key of `scores`: these samples under that scorer. Teachers score at temperature 1, the policy at the pool's.

    `shown` is teacher_messages where the scorer saw those: one model may be the policy and, shown something else, the teacher."""
    settings = {"temperature": temperature} | ({} if shown == "messages" else {"shown": shown})
    return Key(settings, (pool.samples, pool.groups, pool.prompts), {"scorer": scorer})


def answers_key(recipe: Recipe, prompts: Slice, teacher: str) -> Key:
    """Key of `answers`: prompts under a teacher, the teacher's alone, so that another student orphans nothing."""
    return Key({"sampling": asdict(recipe.answers), "seed": recipe.seed}, (prompts,), {"teacher": teacher})


def answer_tokens_key(
    answers: Slice, prompts: Slice, student: Mapping[str, Any], reasoning: Reasoning = Reasoning()
) -> Key:
    """Key of `answer_tokens`: the answers in one student's tokenizer and chat template, ended as its stops allow."""
    cut = {"behind": list(reasoning.teacher)} if reasoning.teacher and not reasoning.copied else {}
    return Key(cut, (answers, prompts), {k: student[k] for k in ("tokenizer", "chat_template", "end_tokens")})


def soft_targets_key(base: Slice, scorer: str, spec: Mapping[str, Any]) -> Key:
    """Key of `answer_soft_targets` (base: answer_tokens) or `soft_targets` (base: samples): these tokens under that teacher.

    `spec` is what changes the targets: `kind` (sampled, top_k, student_m), `draws` or `k`, `seed` where there are draws, and
    `policy`, the model_id whose ids student_m takes. The base's own key says what the teacher was shown before them."""
    return Key(dict(spec), (base,), {"scorer": scorer})


def find_prompts(lake: Lake, recipe: Recipe) -> Slice:
    """The recipe's prompts: the newest slice of exactly its source settings, with the teacher's side translated where it is."""
    there = lake.slices("prompts", **prompts_settings(recipe))
    found = [s for s in there if translated_own(lake, recipe, s)]
    if not found:
        raise Refusal(f"no prompts of {recipe.prompts.path} in {lake.uri}", command(recipe, "prompts"))
    return found[-1]


def find_pool(lake: Lake, recipe: Recipe, policy: str) -> Pool:
    """The pool of this recipe, policy and sampling; an imported pool answers to its label."""
    prompts = find_prompts(lake, recipe)
    wanted = samples_settings(recipe)
    if recipe.sampling.alpha:
        wanted["mixed_with"] = find_model(lake, recipe.teacher)
    found = [
        s
        for s in lake.slices("samples", label=recipe.pool_label)
        if s.models["policy"] == policy and ("import" in s.settings or _seedless(s.settings) == _seedless(wanted))
    ]
    # a sweep over seeds trains from one pool: the recipe's own seed is preferred, not asked for
    own = [s for s in found if s.settings.get("seed") == recipe.seed]
    for samples in [*reversed(own), *reversed(found)]:
        groups = lake.slice(samples.parent("groups"))
        if groups.parent("prompts") == prompts.path or "import" in samples.settings:
            return Pool(lake.slice(groups.parent("prompts")), groups, samples)
    if any(s.models["policy"] != policy for s in lake.slices("samples", label=recipe.pool_label)):
        raise Refusal(
            f"the pool {recipe.pool_label} was sampled from another policy, tokenizer or chat template than {recipe.policy}",
            command(recipe, "samples,scores,rewards"),
        )
    raise Refusal(
        f"no pool {recipe.pool_label} under these sampling settings in {lake.uri}",
        command(recipe, "prompts,samples,scores,rewards"),
    )


def _seedless(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "seed"}


def find_scores(
    lake: Lake, recipe: Recipe, pool: Pool, scorer: str, temperature: float = 1.0, shown: str = "messages"
) -> Slice:
    """Scores of exactly these samples by one scorer."""
    found = lake.find("scores", scores_key(pool, scorer, temperature, shown))
    if found is None:
        raise Refusal(f"{pool.samples.path} has no scores by {scorer}", command(recipe, "scores"))
    return found


def scorer_reading(lake: Lake, recipe: Recipe, prompts: Slice, scorer: str) -> tuple[float, str]:
    """Temperature and prompt of a scorer: the policy's as it was sampled, every other at temperature 1."""
    if scorer == "policy":
        return recipe.sampling.temperature, "messages"
    told = scorer in recipe.scorers and recipe.scorers[scorer].shown == "teacher_messages"
    return 1.0, shown_to_teacher(lake, prompts) if told or scorer == "teacher" else "messages"


def shown_to_teacher(lake: Lake, prompts: Slice) -> str:
    """teacher_messages where any prompt has them, else messages."""
    has = lake.read(prompts, ["teacher_messages"]).column(0)
    return "teacher_messages" if has.null_count < len(has) else "messages"


def find_rewards(lake: Lake, recipe: Recipe, name: str, base: Slice) -> Slice:
    """The slice of one component for exactly these samples or answers: by its specification, and by what it was compared with."""
    table = "rewards" if base.table == "samples" else "answer_rewards"
    found = [
        s for s in lake.slices(table, label=name, spec=valued(recipe.components[name])) if s.parents[0] == base.path
    ]
    found = [
        s for s in found if asked_own(lake, recipe, s) and s.settings.get("reasoning", {}) == recipe.reasoning.settings
    ]
    own = [s for s in found if all(_is_own(lake, recipe, name, s, path) for path in s.parents[1:])]
    if not own:
        other = ", only under another teacher or other answers" if found else ""
        raise Refusal(f"{base.path} has no component {name} of these settings{other}", command(recipe, "rewards"))
    return own[-1]


def _is_own(lake: Lake, recipe: Recipe, name: str, slice_: Slice, parent: str) -> bool:
    """Whether scores or answers that a component was made from are the recipe's; a recipe without a teacher takes any."""
    table = parent.partition("/")[0]
    if table == "scores":
        return _is_own_score(lake, recipe, scorer_of(recipe.components[name]), slice_, lake.slice(parent))
    if recipe.teacher is None or table != "answers":
        return True
    answers = find_answers(lake, recipe, lake.slice(slice_.parent("prompts")))
    return answers is not None and answers.holds_the_same(lake.slice(parent))


def _is_own_score(lake: Lake, recipe: Recipe, scorer: str, slice_: Slice, scores: Slice) -> bool:
    if scorer == "policy":
        return scores.models["scorer"] == lake.slice(slice_.parents[0]).models["policy"]
    model = scorer_model(recipe, scorer)
    return model is None or scores.models["scorer"] == find_model(lake, model)


def find_answers(lake: Lake, recipe: Recipe, prompts: Slice, before: str | None = None) -> Slice | None:
    """The recipe's answers to exactly these prompts, derived ones behind those they are made from; None where there are none.

    `before`: only what stands before that step (translate, say). Refuses answers that a step has not been through yet."""
    found = find_own_answers(lake, recipe, prompts)
    for step in steps(recipe, before):
        if found is None:
            return None
        made = find_derived(lake, recipe, found, step)
        if made is None:
            raise Refusal(f"{found.path} has not been through {step} yet", command(recipe, STAGE_OF[step]))
        found = made
    return found


def find_own_answers(lake: Lake, recipe: Recipe, prompts: Slice) -> Slice | None:
    """The answers to exactly these prompts that the recipe imports or asks its teacher for; None where there are none.

    A sweep over seeds shares one teacher's answers: the recipe's own seed is preferred, not asked for, and so is its own label:
    what hangs on the same answers of another recipe need not be there yet. Refuses two imports of answers in one recipe."""
    there = [s for s in lake.slices("answers") if s.parents[0] == prompts.path]
    imported = [s for s in there if s.models.get("teacher") == "imported"]
    section = {} if recipe.factory is None else _section(recipe.factory)
    sources = {name: _fields(source) for name, source in (section.get("imports") or {}).items()}
    imports = sorted(name for name, source in sources.items() if source.get("kind") == "answers")
    if len(imports) > 1:
        raise Refusal(
            f"imports {' and '.join(imports)} are both answers: a recipe has one slice of them, and the older would be forgotten",
            "put their rows into one file: a prompt may have several answers",
        )
    if recipe.teacher is None or imports:
        return _own_label(recipe, imported)
    teacher, sampling = find_model(lake, recipe.teacher), asdict(recipe.answers)
    asked = [s for s in there if s.models.get("teacher") == teacher and s.settings.get("sampling") == sampling]
    own = [s for s in asked if s.settings["seed"] == recipe.seed]
    return _own_label(recipe, own or asked or (imported if not section else []))


def _own_label(recipe: Recipe, found: Sequence[Slice]) -> Slice | None:
    """The newest of those that carry the recipe's name, else of all."""
    labelled = [s for s in found if s.label == recipe.name]
    return (labelled or found)[-1] if found else None


def find_answer_tokens(lake: Lake, recipe: Recipe, answers: Slice, prompts: Slice, student: Mapping[str, Any]) -> Slice:
    """The answers in this student's tokens."""
    found = lake.find("answer_tokens", answer_tokens_key(answers, prompts, student, recipe.reasoning))
    if found is None:
        raise Refusal(
            f"{answers.path} is not in this student's tokens: another tokenizer, chat template or end of turn",
            command(recipe, "answers"),
        )
    return found


SOFT_NUMBERS = ("draws", "k")


def find_soft_targets(
    lake: Lake, recipe: Recipe, base: Slice, scorer: str, kind: str, policy: str, without: str
) -> Slice:
    """Soft targets of exactly these tokens by one teacher; those of student_m by this student's own ids. `without` needs none.

    Draws and k are the recipe's where its factory section names them; the recipe's own seed is preferred, not asked for."""
    of = "samples" if base.table == "samples" else "answers"
    table = "soft_targets" if of == "samples" else "answer_soft_targets"
    section = {} if recipe.factory is None else _section(recipe.factory)
    wanted = _fields(section["soft_targets"]) if section.get("soft_targets") else {}
    numbers = {name: wanted[name] for name in SOFT_NUMBERS if wanted.get("kind") == kind and name in wanted}
    found = [
        s
        for s in lake.slices(table, kind=kind)
        if s.parents[0] == base.path
        and s.models.get("scorer") == scorer
        and all(s.settings[name] == value for name, value in numbers.items() if name in s.settings)
        and (kind != "student_m" or s.settings.get("policy") == policy)
    ]
    if not found:
        raise Refusal(
            f"{base.path} has no soft targets of kind {kind} by {scorer}",
            command(recipe, "soft_targets") + f" soft_targets.of={of} soft_targets.kind={kind}, or {without}",
        )
    own = [s for s in found if s.settings.get("seed") == recipe.seed]
    return (own or found)[-1]


RECIPES_OWN = ("prompts", "likelihood")  # kinds of benchmarks without texts of their own, the one of no kind first


def corpus_source(source: Mapping[str, Any]) -> dict[str, Any]:
    """A corpus's source as keys hold it: one that is kept clear of no files of its own is named as if there were none."""
    return {name: value for name, value in source.items() if name != "clear_of" or value}


def find_corpora(lake: Lake, recipe: Recipe, tokenizer: str) -> list[Slice]:
    """The recipe's corpora in this tokenizer, kept clear of its own prompts and benchmarks: the newest slice of each source.

    A recipe without such a section takes the newest slice of every corpus in the lake."""
    section = {} if recipe.factory is None else _section(recipe.factory)
    named = {name: corpus_source(_fields(source)) for name, source in (section.get("corpus") or {}).items()}
    benchmarks = {name: _fields(benchmark) for name, benchmark in (section.get("benchmarks") or {}).items()}
    newest, clear_of = {}, prompts_settings(recipe)["source"]
    for slice_ in lake.slices("corpus", clear_of=clear_of) if named else lake.slices("corpus"):
        source = slice_.settings.get("source", {})
        wanted = named.get(slice_.label)
        alike = wanted is not None and all(source.get(k) == v for k, v in wanted.items())
        # documents that another corpus has too stand there alone: without it, this slice is not the whole source
        alone = set(slice_.settings.get("behind", ())) <= set(named)
        own = slice_.models.get("tokenizer") == tokenizer and _clear_of(slice_, benchmarks)
        if own and (not named or (alike and alone)):
            newest[slice_.label] = slice_
    missing = sorted(set(named) - set(newest)) or ([] if newest else ["of any name"])
    if missing:
        raise Refusal(
            f"{lake.uri} has no corpus {', '.join(missing)} in this student's tokens, kept clear of the recipe's prompts and"
            " benchmarks",
            command(recipe, "prompts,corpus"),
        )
    return [newest[name] for name in sorted(newest)]


def _clear_of(corpus: Slice, benchmarks: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a corpus was compared with the texts of these benchmarks, as far as they have any of their own."""
    against = corpus.settings.get("against", {})
    own = {name: spec for name, spec in benchmarks.items() if spec.get("kind", RECIPES_OWN[0]) not in RECIPES_OWN}
    return all(
        name in against and spec.get("path", against[name]["path"]) == against[name]["path"]
        for name, spec in own.items()
    )


def _section(factory: Any) -> dict[str, Any]:
    return dict(factory) if isinstance(factory, Mapping) else vars(factory)


def _fields(source: Any) -> dict[str, Any]:
    return dict(source) if isinstance(source, Mapping) else asdict(source)
