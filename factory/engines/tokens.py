"""A model's tokenizer, chat template and limits, without its weights: texts to ids and back.

Reads tokenizer and configuration files. Refuses a folder whose tokenizer cannot be loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data.config import ModelSettings
from data.fingerprint import chat_template
from data.keys import nfc
from data.refusal import Refusal


@dataclass
class Tokens:
    """Texts and ids of one model. `tokenizer` is transformers' own object."""

    tokenizer: Any
    config: Any
    template: str | None
    generation: Mapping[str, Any]

    @classmethod
    def open(cls, model: ModelSettings, folder: Path) -> Tokens:
        """The tokenizer of the model in a folder. Raises Refusal where none can be loaded."""
        import transformers

        transformers.utils.logging.disable_progress_bar()
        origin: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
        if model.gguf_file:
            origin["gguf_file"] = model.gguf_file
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **origin)
            config = transformers.AutoConfig.from_pretrained(folder, **origin)
        except (OSError, ValueError, KeyError) as error:
            raise Refusal(
                f"no tokenizer and configuration can be loaded from {folder}: {str(error).strip().splitlines()[0]}",
                "save both beside the weights, as save_pretrained does",
            ) from error
        generation = folder / "generation_config.json"
        told = json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {}
        return cls(tokenizer, config, chat_template(model, folder) or tokenizer.chat_template, told)

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The prompt as the model reads it, up to where its answer begins.

        A tokenizer without a chat template reads the messages' contents, each on a line of its own."""
        chat = [{"role": m["role"], "content": nfc(m["content"])} for m in messages]
        if self.template is None:
            return list(self.tokenizer("".join(m["content"] + "\n" for m in chat)).input_ids)
        import jinja2

        try:
            ids = self.tokenizer.apply_chat_template(
                chat, chat_template=self.template, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except jinja2.TemplateError as error:
            raise Refusal(
                f"the chat template of {self.tokenizer.name_or_path} refuses the roles {[m['role'] for m in chat]}: {error}",
                "prompts.system=null, or give a chat_template that takes them",
            ) from error
        return list(ids)

    def answer_ids(self, text: str, ended: bool = True) -> list[int]:
        """An answer's ids behind a prompt, with the end of turn where the answer came to its end."""
        ids = list(self.tokenizer(nfc(text), add_special_tokens=False).input_ids)
        return [*ids, self.end_of_turn] if ended and self.end_of_turn is not None else ids

    def document(self, text: str) -> tuple[list[int], int]:
        """A document's ids without an end token, and the UTF-8 bytes of its first token's text.

        The first token is context only, never predicted: the begin token where the tokenizer puts one (0 bytes), else text."""
        encoded = self.tokenizer(text, return_offsets_mapping=True)
        ids, offsets = list(encoded.input_ids), encoded.offset_mapping
        while ids and ids[-1] in self.end:
            ids.pop()
        return ids, len(text[: offsets[0][1]].encode()) if ids else 0

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Token → id, added tokens included."""
        return dict(self.tokenizer.get_vocab())

    @property
    def width(self) -> int:
        """One more than the largest id; heads may be padded beyond it."""
        return max(self.vocabulary.values()) + 1

    def text(self, ids: Sequence[int]) -> str:
        """Decoded without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    @cached_property
    def end(self) -> list[int]:
        """Ids that end an answer, the tokenizer's own first; the same set as trainer.forward's `end_token_ids`."""
        found: list[int] = []
        for ids in (
            self.tokenizer.eos_token_id,
            self.generation.get("eos_token_id"),
            self._text_config.eos_token_id,
            getattr(self.config, "eos_token_id", None),  # a model that sees, too, may name it for its text part alone
        ):
            found += ids if isinstance(ids, list) else [] if ids is None else [ids]
        return [i for i in dict.fromkeys(found) if 0 <= i < self._text_config.vocab_size]

    @cached_property
    def end_of_turn(self) -> int | None:
        """The end token that the chat template puts behind an answer (Gemma's <end_of_turn>, not its <eos>).

        The first of `end` where there is no template or it names none; None where the model has no end token."""
        behind = self._behind_an_answer() if self.template is not None else []
        return next((i for i in [*behind, *self.end] if i in self.end), None)

    def _behind_an_answer(self) -> list[int]:
        import jinja2

        answer = "Tórshavn"
        chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
        try:
            text = self.tokenizer.apply_chat_template(chat, chat_template=self.template, tokenize=False)
        except jinja2.TemplateError:  # prompts in roles that it refuses are refused where they are read
            return []
        return list(self.tokenizer(text.rpartition(answer)[2], add_special_tokens=False).input_ids)

    @property
    def context(self) -> int | None:
        """The most positions the configuration allows; None where it names no limit."""
        return getattr(self._text_config, "max_position_embeddings", None)

    @property
    def _text_config(self) -> Any:
        return self.config.get_text_config()

    def stop_ids(self, stop: Sequence[str]) -> list[int]:
        """End tokens and the recipe's further stop texts, each of which must be one token."""
        found = list(self.end)
        for text in stop:
            ids = self.tokenizer(text, add_special_tokens=False).input_ids
            if len(ids) != 1:
                raise Refusal(
                    f"sampling.stop: {text!r} is {len(ids)} tokens of this model; a stop must be one token",
                    "sampling.stop=[]",
                )
            found += ids
        return list(dict.fromkeys(found))
