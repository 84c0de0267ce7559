"""Online GRPO by TRL on a world's student: `online_training.py NAME UPDATES RATE SCALE SEED [POINT,…]` in the world's folder.

In TRL's environment (`make bench-env`). Its GRPOTrainer as it comes, but for what the arms share: sixteen prompts of eight samples
an update, AdamW and its schedule as in conf/recipe/demo.yaml. The reward is the demo's, from the same components, with the
teacher's answers read from the lake and its log-likelihood taken while training: the teacher is asked at every update. Writes the
student after each POINT (all updates unless given) into online/NAME-POINT with what it took, in paid.json."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

PROMPTS, SAMPLES, LONGEST = 16, 8, 12
ANSWERS = """\
SELECT first(p.messages) AS messages, first(a.text) AS answer FROM answers a JOIN prompts p USING (prompt_id)
WHERE a.label = 'demo' AND p.split = 'train' GROUP BY prompt_id ORDER BY prompt_id"""


class Judge:
    """The demo's reward, and the tokens that it and the policy went through."""

    def __init__(self, answers: dict[str, str]) -> None:
        import trainer
        from factory.rewards import component
        from trainer.forward import load

        recipe = trainer.recipe("demo")
        self.components = {name: component(spec, name) for name, spec in recipe.components.items()}
        if recipe.reward != "agreement + 0.5*language + 0.02*teacher_loglik":
            raise RuntimeError(f"the demo's reward is {recipe.reward} now: this one is another")
        self.teacher = load("runs/demo-teacher/final")
        self.answers, self.tokens = answers, 0

    @torch.no_grad()
    def __call__(self, prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """A reward a completion; completions of a prompt come one after the other."""
        from factory.rewards import Batch
        from trainer.forward import GroupTokens, group_logprobs

        words = self.teacher.tokenizer
        starts = range(0, len(prompts), SAMPLES)
        groups = [GroupTokens(words(prompts[i])["input_ids"], completion_ids[i : i + SAMPLES]) for i in starts]
        logprobs = group_logprobs(self.teacher, groups).split([len(ids) for ids in completion_ids])
        self.tokens += sum(map(len, completion_ids))
        batch = Batch.of_texts(
            [words.decode(ids, skip_special_tokens=True) for ids in completion_ids],
            answers=[[self.answers[prompt]] for prompt in prompts],
            languages=["fo"] * len(prompts),
            scorer_totals=[float(part.sum()) for part in logprobs],
            n_scorer_tokens=[len(ids) for ids in completion_ids],
        )
        value = {name: [r.value or 0.0 for r in one.score(batch)] for name, one in self.components.items()}
        parts = zip(value["agreement"], value["language"], value["teacher_loglik"], strict=True)
        return [agreement + 0.5 * language + 0.02 * loglik for agreement, language, loglik in parts]


def main(name: str, updates: int, rate: float, scale: str, seed: int, points: list[int]) -> None:
    """Train, and write what stands at each point."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from data.lake import Lake

    words = AutoTokenizer.from_pretrained("runs/demo-student/final")
    rows = Lake.open("data/lake").sql(ANSWERS).to_pylist()
    asked = [words.apply_chat_template(r["messages"], tokenize=False, add_generation_prompt=True) for r in rows]
    began = time.monotonic()
    judge = Judge({text: row["answer"] for text, row in zip(asked, rows, strict=True)})
    settings = GRPOConfig(
        output_dir=f"online/{name}-trl",
        max_steps=updates,
        per_device_train_batch_size=PROMPTS * SAMPLES,
        num_generations=SAMPLES,
        max_completion_length=LONGEST,
        learning_rate=rate,
        scale_rewards=scale,
        adam_beta1=0.9,
        adam_beta2=0.98,
        weight_decay=0.01,
        warmup_steps=20,
        seed=seed,
        bf16=False,
        use_cpu=True,
        activation_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=updates,
    )

    class Kept(TrainerCallback):
        """Writes the student at every point."""

        saving = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step in points:
                begin = time.monotonic()
                folder = Path(f"online/{name}-{state.global_step}")
                model.save_pretrained(folder)
                words.save_pretrained(folder)
                paid = {"tokens": judge.tokens, "seconds": begin - began - self.saving, "rate": rate, "scale": scale}
                (folder / "paid.json").write_text(json.dumps(paid), encoding="utf-8")
                self.saving += time.monotonic() - begin

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained("runs/demo-student/final"),
        reward_funcs=[judge],
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": asked}),
        processing_class=words,
        callbacks=[Kept()],
    )
    trainer.train()


if __name__ == "__main__":
    name, updates, rate, scale, seed = sys.argv[1:6]
    points = [int(p) for p in sys.argv[6].split(",")] if len(sys.argv) > 6 else [int(updates)]
    main(name, int(updates), float(rate), scale, int(seed), points)
