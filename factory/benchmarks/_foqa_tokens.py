"""EuroEval's way from words to ids and back, for one tokenizer: what is stripped and cut of a prompt, and where an answer ends.

Follows `benchmark_modules/vllm.py` and `tokenisation_utils.py` at the commit that `_foqa.py` names. A chat prompt is the template's
text read like any text prompt, so a begin token that both the template and the tokenizer put stands twice, as it does there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from data.refusal import Refusal
from factory.engines.tokens import Tokens

CONTEXT = 8192  # EuroEval's own limit, where the model has more
BLANK_LINE = "\n\n"


class Reading:
    """Prompts and answers of one model. `chat`: whether it is asked in turns; `stops`: further texts that end an answer."""

    def __init__(self, tokens: Tokens, chat: bool, longest: int, stops: Sequence[str] = ()):
        self.tokens, self.chat = tokens, chat
        self.tokenizer: Any = tokens.tokenizer
        positions = min(tokens.context or CONTEXT, CONTEXT)
        self.longest = min(longest, max(positions // 2, 1))
        """Tokens drawn: fewer where the model's context is under twice as long."""
        self.room = positions - self.longest
        self.stops = [s for s in (*stops, *([] if chat else [BLANK_LINE]), *self._end_texts()) if s]

    def prompts(self, shown: Sequence[Any]) -> list[list[int]]:
        """Ids of all prompts of an iteration, texts or conversations; one that is too long changes how all are cut."""
        if self.chat:
            return self._fitting_turns(shown)
        texts = [text.strip() for text in shown] if strips(self.tokenizer) else list(shown)
        ids = [list(self.tokenizer(text).input_ids) for text in texts]
        if all(len(one) < self.room for one in ids):
            return ids
        cut = [self._cut(text) for text in texts]
        return [list(self.tokenizer(text).input_ids) for text in cut]

    def _cut(self, text: str) -> str:
        """The text's last tokens, without special ones."""
        side, self.tokenizer.truncation_side = self.tokenizer.truncation_side, "left"
        try:
            ids = self.tokenizer(text, truncation=True, max_length=self.room).input_ids
        finally:
            self.tokenizer.truncation_side = side
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _fitting_turns(self, shown: Sequence[Any]) -> list[list[int]]:
        """Without as many examples, the same number for all, as make everyone fit."""
        for fewer in range(0, max(map(len, shown)), 2):
            ids = [self._turns(messages[fewer:], cut=fewer > 0) for messages in shown]
            if all(len(one) < self.room for one in ids):
                return ids
        raise Refusal(
            f"a question has {max(map(len, ids))} tokens without any example, and there is room for {self.room}",
            "leave this benchmark out for this policy; EuroEval would cut the question itself",
        )

    def _turns(self, messages: Sequence[dict[str, str]], cut: bool) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            list(messages),
            chat_template=self.tokens.template,
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=False,
        )
        if cut and self.tokenizer.bos_token:  # the template's begin token goes with the first examples
            text = text.replace(self.tokenizer.bos_token, "")
        return list(self.tokenizer(text).input_ids)

    def answer(self, ids: Sequence[int]) -> str:
        """The text up to the first stop, stripped, without special tokens."""
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=False))
        if self.stops:
            text = re.split("|".join(map(re.escape, self.stops)), text, maxsplit=1)[0]
        return str(self.tokenizer.decode(self.tokenizer(text.strip()).input_ids, skip_special_tokens=True))

    def _end_texts(self) -> list[str]:
        """Padding (where there is none, the begin token), end of text, and what closes a turn."""
        ends = [self.tokenizer.pad_token or self.tokenizer.bos_token, self.tokenizer.eos_token]
        if self.chat:
            turn = [{"role": "user", "content": "X"}]
            ids = self.tokenizer.apply_chat_template(
                turn, chat_template=self.tokens.template, tokenize=True, return_dict=False, enable_thinking=False
            )
            marks = [i for i, token in enumerate(self.tokenizer.convert_ids_to_tokens(ids)) if "X" in token]
            ends.append(self.tokenizer.decode(ids[marks[0] + 1 :]).strip() if marks else None)
        return [end for end in ends if end]


def strips(tokenizer: Any) -> bool:
    """Whether prompts lose their last space: where no label behind ": " leaves that space's own token as it is."""
    behind, *labelled = (
        list(tokenizer(text, add_special_tokens=False).input_ids) for text in (": ", ": negative", ": positive")
    )
    return not any(ids[: len(behind)] == behind for ids in labelled)
