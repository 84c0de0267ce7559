"""Real steps of TRL's online GRPO beside our sampling, scoring and training: `online_measuring.py SHAPE LAYERS REPETITIONS FILE`.

In TRL's environment, one process, by turns: a step of `GRPOTrainer.train()` (its generation by transformers, its reward from a
teacher twice the student's size, loss with its head over completions only as on CUDA, backward, AdamW), then of ours one group
sampled, scored by the teacher and rescored by the policy, and two training steps on it under two of ten recipes, AdamW
included. Appends a line a turn to FILE, so that an interrupted run goes on; prints one line of JSON. Everything in (wall, CPU)
seconds."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from our_step import group_of, our_step
from rival_steps import compacted, grpo_trainer
from shapes import SHAPES, Shape, policy, twice

RECIPES = ("grpo", "dapo", "dr_grpo", "cispo", "tis", "seq_tis", "mis", "gspo", "naive", "m2po")
RATE = 1e-6


def main(name: str, layers: int, repetitions: int, file: Path) -> None:
    """Measure the turns that FILE lacks, and print all."""
    shape = SHAPES[name]
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    left = repetitions - len(done)
    if left > 0:
        ours = Ours(shape, layers, turn=len(done))
        for row in _trl_steps(shape, layers, left, ours):
            done.append(row)
            with file.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
    print(json.dumps({"turns": done[:repetitions], "teacher_layers": twice(layers)}))


def clocked(run: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What it returns, and its (wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, (time.perf_counter() - wall, time.process_time() - cpu)


class Ours:
    """Sampling, scoring and training as factory and trainer do them, a group a turn."""

    def __init__(self, shape: Shape, layers: int, turn: int) -> None:
        from trainer.config import Optimiser
        from trainer.optimiser import build

        self.shape, self.turn = shape, turn
        self.student, self.teacher = policy(layers), policy(twice(layers))
        self.optimiser = build(Optimiser(lr=RATE), self.student.model)

    def once(self) -> dict[str, Any]:
        """Seconds of one group: sample, teacher, policy, and train by recipe."""
        from trainer.forward import GroupTokens, Sampling, generate, group_logprobs
        from trainer.optimiser import move

        prompt = np.random.default_rng(self.turn).integers(3, 49_152, self.shape.prompt).tolist()
        seeds = [[self.turn * 1000 + s for s in range(self.shape.samples)]]
        sampling = Sampling(max_tokens=self.shape.longest, stop_ids=(1,))
        drawn, sample = clocked(lambda: generate(self.student, [prompt], self.shape.samples, sampling, seeds)[0])
        tokens = GroupTokens(prompt, [one.token_ids for one in drawn])
        with torch.no_grad():
            logprob_n, teacher = clocked(lambda: group_logprobs(self.teacher, [tokens]))
            _, rescored = clocked(lambda: group_logprobs(self.student, [tokens]))
        lengths = [len(one.token_ids) for one in drawn]
        reward = np.array([float(part.mean()) for part in logprob_n.split(lengths)])
        behaviour = [np.asarray(one.logprobs, np.float32) for one in drawn]
        group = group_of(prompt, [list(one.token_ids) for one in drawn], behaviour, reward)
        train = {}
        for recipe in (RECIPES[(2 * self.turn + k) % len(RECIPES)] for k in (0, 1)):
            step, _ = our_step(self.student, [group], self.shape.budget, recipe)
            _, train[recipe] = clocked(lambda s=step: (s(), move(self.optimiser, self.student.model, RATE, 1.0, 1)))
        self.turn += 1
        return {"sample": sample, "teacher": teacher, "policy": rescored, "train": train}


def _trl_steps(shape: Shape, layers: int, count: int, ours: Ours) -> list[dict[str, Any]]:
    """`count` turns after a warm-up turn, TRL's step and ours one after the other."""
    from transformers import TrainerCallback

    rows: list[dict[str, Any]] = []

    class Clock(TrainerCallback):
        """Between two of TRL's steps, ours runs."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.begin = time.perf_counter(), time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            taken = time.perf_counter() - self.begin[0], time.process_time() - self.begin[1]
            turn = ours.turn
            found = ours.once()
            if state.global_step == 1:
                ours.turn = turn  # the warm-up counts for nothing
                return
            rows.append({"trl": taken, **found})
            told = f"TRL {taken[0]:.1f} s; ours sample {found['sample'][0]:.1f}, teacher {found['teacher'][0]:.1f}"
            steps = ", ".join(f"{recipe} {wall:.1f}" for recipe, (wall, _) in found["train"].items())
            print(f"  turn {turn + 1}: {told}, policy {found['policy'][0]:.1f}, {steps}", file=sys.stderr, flush=True)

    student, teacher = policy(layers), policy(twice(layers))
    for model in (student.model, teacher.model):
        model.set_attn_implementation("sdpa")
    words = [
        " ".join(f"t{i}" for i in np.random.default_rng([9, k]).integers(3, 49_152, shape.prompt))
        for k in range(count + 1)
    ]
    settings = {"max_steps": count + 1, "learning_rate": RATE, "lr_scheduler_type": "constant"}
    trainer = grpo_trainer(student, shape, [_reward(teacher)], words, settings, callbacks=[Clock()])
    with compacted():
        trainer.train()
    return rows


def _reward(teacher: Any) -> Callable[..., list[float]]:
    """The teacher's mean log-probability of each completion: padded rows, `logits_to_keep`, no gradient."""

    @torch.no_grad()
    def teacher_logprob(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        width = max(map(len, completion_ids))
        prompt_bt = torch.tensor(teacher.tokenizer(prompts)["input_ids"])
        target_bt = torch.tensor([ids + [2] * (width - len(ids)) for ids in completion_ids])
        mask_bt = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in completion_ids])
        logits_btv = teacher.model(
            input_ids=torch.cat([prompt_bt, target_bt], 1),
            attention_mask=torch.cat([torch.ones_like(prompt_bt), mask_bt], 1),
            logits_to_keep=width + 1,
        ).logits[:, :-1]
        logprob_bt = -torch.nn.functional.cross_entropy(logits_btv.mT, target_bt, reduction="none")
        return ((logprob_bt * mask_bt).sum(1) / mask_bt.sum(1)).tolist()

    return teacher_logprob


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
