"""Every pair's recipe from prompts to a finished run, with tiny random models of its families in the places of the large ones.

The recipe's own file is composed; command-line keys give models, sizes and steps, and nothing else but what a random model cannot
pass: `where` for teachers that write no Faroese. GPT-4 and GPT-3.5 are a server here that answers in Faroese."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from data.command import CONF
from data.lake import Lake
from data.verify import verify
from factory.__main__ import COMMAND as FACTORY
from trainer.__main__ import COMMAND as TRAINER

sys.path.append(str(Path(__file__).parent))
from conftest import ROOT, Place

TURNS = "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }}"
TEMPLATES = {  # how each family writes a conversation, shortened from its own chat template
    "mistral": TURNS + "[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    "llama": TURNS + " [/INST]{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}",
    "gemma3": "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "gpt2": None,
    "bloom": None,
}  # fmt: skip
MARKS = {"gemma3": ["<start_of_turn>", "<end_of_turn>"]}  # of one token each
ROOM = {"gpt2": {"n_positions": 1024}, "bloom": {}}
SHORT = ("sampling.n=4", "sampling.max_tokens=10", "answers.max_tokens=24", "steps=3")
SHORT += ("replay.prompts=2", "replay.answers=3", "replay.corpus_tokens=48", "probe.every=3", "checkpoint.every=3")
SHORT += ("replay.truncated=keep",)  # a random model seldom comes to an end
HERE = (
    "engine=hf",
    "optimiser.lora.enabled=true",
)  # the engine that runs without vLLM; adapters, as for the model's real size
ANY = "where=null"
DOCUMENTS = [
    "Tórshavn er høvuðsstaður Føroya.",
    "Báturin siglir til oynna í kvøld.",
    "Sólin skínur, men tað er kalt.",
] * 4
PAIRS = {  # recipe → families of student and teacher (None: the server), further words
    "gemma27b_to_mistral7b": ("mistral", "gemma3", (ANY,)),
    "fo_danish_pivot": ("mistral", "gemma3", ("model.models.translator=gpt4",)),
    "llama70b_to_llama7b": ("llama", "llama", (ANY, "factory.engine.scorer=hf")),
    "llama70b_llama13b_to_llama7b": ("llama", "llama", (ANY, "factory.engine.scorer=hf")),
    "gemma27b_to_bloomz7b": ("bloom", "gemma3", (ANY,)),
    "gemma27b_to_bloomz7b model.teacher=gpt35": ("bloom", None, ()),
    "gpt4_to_mistral7b": ("mistral", None, ()),
    "gpt4_to_gptsw3": ("gpt2", None, ("rephrase.max_tokens=24",)),
}


class Faroese(BaseHTTPRequestHandler):
    """Answers every question with a Faroese sentence, and every check with a yes."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = body["messages"][-1]["content"]
        told = "Høvuðsstaðurin í landinu eitur Tórshavn, og har búgva nógv fólk við havið."
        text = "Tað er tað sama.\nVerdict: yes" if "Verdict:" in asked else told
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": len(asked.split()), "completion_tokens": 20, "total_tokens": len(asked.split()) + 20}
        whole = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [message],
            "usage": usage,
        }
        content = json.dumps(whole).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server that stands for OpenAI's."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Faroese) as here:
        threading.Thread(target=here.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{here.server_address[1]}/v1"
        here.shutdown()


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`model(family, seed)`: a random model of the family, with its way of writing conversations."""
    made: dict[tuple[str, int], str] = {}

    def of(family: str, seed: int = 0) -> str:
        if (family, seed) not in made:
            tokenizer = AutoTokenizer.from_pretrained(tiny_model(family))
            tokenizer.add_special_tokens({"additional_special_tokens": MARKS.get(family, [])})
            size = {"vocab_size": len(tokenizer), "seed": seed, **ROOM.get(family, {"max_position_embeddings": 512})}
            folder = Path(tiny_model(family, tmp_path_factory.mktemp("family"), **size))
            (folder / "chat_template.jinja").unlink(missing_ok=True)
            tokenizer.chat_template = TEMPLATES[family]
            if family == "gemma3":
                with_eyes(folder)
            tokenizer.save_pretrained(folder)
            if family in MARKS:
                ends = {"eos_token_id": [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]}
                (folder / "generation_config.json").write_text(json.dumps(ends), encoding="utf-8")
            made[family, seed] = str(folder)
        return made[family, seed]

    return of


def with_eyes(folder: Path) -> None:
    """The model in the folder as the text part of one that sees too: Gemma 3 from 4B on is published so."""
    import transformers

    text = transformers.AutoConfig.from_pretrained(folder)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
    }
    config = transformers.Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.fixture
def words(
    tmp_path: Path, model: Callable[..., str], server: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """`words(recipe)`: the command's words for the recipe with tiny models."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"text": f"{i} {t}"}) + "\n" for i, t in enumerate(DOCUMENTS)), encoding="utf-8"
    )

    def of(recipe: str) -> list[str]:
        student, teacher, more = PAIRS[recipe]
        paths = [f"student.path={model(student)}", f"lake={tmp_path / 'lake'}", f"runs={tmp_path / 'runs'}"]
        paths += [f"teacher.path={model(teacher, 7)}"] if teacher else []
        paths += [
            f"factory.corpus.fineweb2_fo.{k}={v}" for k, v in (("path", corpus), ("config", "null"), ("held_out", 0.2))
        ]
        if teacher is None or "model.models.translator=gpt4" in more:
            paths.append(f"factory.endpoints.openai.base_url={server}")
        if recipe == "llama70b_llama13b_to_llama7b":
            paths += [f"{place}.llama13b.path={model('llama', 13)}" for place in ("models", "scorers")]
        return [f"recipe={recipe.split()[0]}", *recipe.split()[1:], *paths, *SHORT, *HERE, *more]

    return of


def factory_words(said: list[str]) -> list[str]:
    """Without the trainer's own, which stand at the root of the trainer's command alone."""
    own = ("steps=", "replay.", "probe.", "checkpoint.", "optimiser.")
    return [word for word in said if not word.startswith(own)]


@pytest.mark.parametrize("recipe", PAIRS)
def test_a_pairs_recipe_runs_from_prompts_to_a_finished_run(
    recipe: str, words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = words(recipe)
    assert FACTORY.main(factory_words(said)) == 0, capsys.readouterr().err
    assert TRAINER.main([*said, "run=tiny"]) == 0, capsys.readouterr().err
    lake = Lake.open(tmp_path / "lake")
    assert verify(lake).faults == []
    assert lake.sql("SELECT status FROM runs WHERE run = 'tiny'").column(0).to_pylist()[-1] == "finished"
    metrics = lake.sql(
        "SELECT name, count(*) AS n FROM metrics WHERE run = 'tiny' AND isfinite(value) GROUP BY 1"
    ).to_pylist()
    steps = {row["name"]: row["n"] for row in metrics}
    assert steps["loss/kernel"] == steps["loss/bc"] == steps["loss/pt"] == 3 and steps["probe/right"] >= 1
    seen = lake.sql("SELECT count(*) AS n, count(fluency) AS fluent, count(chrf) AS near FROM reward_table").to_pylist()
    assert seen[0]["n"] == seen[0]["near"] == 12 * 4 and seen[0]["fluent"] >= 40  # a sample without text has no fluency
    final = tmp_path / "runs" / "tiny" / "final"
    assert AutoTokenizer.from_pretrained(final).chat_template == TEMPLATES[PAIRS[recipe][0]]
    OWN.get(recipe, lambda _: None)(lake)


def pivoted(lake: Lake) -> None:
    """The teacher was asked in Danish; each answer that came to its end has a Faroese one behind it, and those are copied."""
    newest = lake.read(lake.slices("answers")[-1]).to_pylist()
    assert [sum(r["method"] == m for r in newest) for m in ("direct", "translate")] == [48, 48]
    assert {row["language"] for row in newest if row["method"] == "translate"} == {"fo"}
    chosen = lake.sql(
        "SELECT DISTINCT a.method FROM selections s JOIN answers a USING (prompt_id, candidate) WHERE s.chosen"
    )
    assert chosen.column(0).to_pylist() == ["translate"]
    shown = lake.read(lake.slices("prompts")[-1]).to_pylist()
    assert all(row["teacher_messages"] for row in shown if row["split"] == "train")


def advised(lake: Lake) -> None:
    """Two teachers answer, and both score."""
    newest = lake.read(lake.slices("answers")[-1]).to_pylist()
    assert len(newest) == 2 * 48 and len({row["teacher"] for row in newest}) == 2
    assert (
        lake.sql("SELECT count(*) AS n FROM reward_table WHERE ll13 IS NOT NULL AND ll13 <> teacher_loglik")["n"][
            0
        ].as_py()
        > 0
    )


def bought(lake: Lake) -> None:
    """Each answer has its price, and one a prompt is chosen to be copied."""
    assert lake.sql("SELECT sum(price) AS paid FROM answers")["paid"][0].as_py() > 0
    chosen = lake.sql("SELECT count(*) AS n FROM selections WHERE chosen AND source = 'answer'")["n"][0].as_py()
    assert chosen == 12


def restated(lake: Lake) -> None:
    """Each answer is translated and restated; of a random student no restatement passes, so the translation is copied."""
    bought(lake)
    newest = lake.read(lake.slices("answers")[-1]).to_pylist()
    assert [sum(r["method"] == m for r in newest) for m in ("direct", "translate", "rephrase")] == [12, 12, 12]
    assert all(row["check_score"] == 1 for row in newest if row["method"] == "rephrase" and row["text"])


OWN: dict[str, Callable[[Lake], None]] = {
    "fo_danish_pivot": pivoted,
    "llama70b_llama13b_to_llama7b": advised,
    "gemma27b_to_bloomz7b model.teacher=gpt35": bought,
    "gpt4_to_mistral7b": bought,
    "gpt4_to_gptsw3": restated,
}


def test_13b_is_a_stepping_stone(words: Callable[..., list[str]], model: Callable[..., str], tmp_path: Path) -> None:
    said = words("llama70b_to_llama7b")
    other = ["model.student=llama2_13b", "name=llama70b_to_llama13b", f"student.path={model('llama', 13)}"]
    first = [*said, *other]
    assert FACTORY.main(factory_words(first)) == 0 and TRAINER.main([*first, "run=stone"]) == 0
    second = [*said, "teacher.path=run:stone"]
    assert FACTORY.main(factory_words(second)) == 0 and TRAINER.main([*second, "run=small"]) == 0
    rows = Lake.open(tmp_path / "lake").sql("SELECT name, parent_run FROM models").to_pylist()
    assert {"name": "run:stone", "parent_run": "stone"} in rows


def test_continued_pre_training_runs_from_a_corpus_alone(
    words: Callable[..., list[str]], model: Callable[..., str], tmp_path: Path
) -> None:
    asked = (f"student.path={model('mistral')}", "lake=", "runs=", "factory.corpus.")
    said = ["recipe=mistral_fa", *(word for word in words("gemma27b_to_mistral7b") if word.startswith(asked))]
    assert FACTORY.main(said) == 0
    short = ("steps=3", "losses.phases=[{steps: 1, trainable: embeddings}]", "replay.corpus_tokens=48")
    assert TRAINER.main([*said, *short, "run=tiny"]) == 0
    figures = Lake.open(tmp_path / "lake").sql("SELECT value FROM metrics WHERE run = 'tiny' AND name = 'loss/pt'")
    assert figures.num_rows == 3


@pytest.mark.parametrize("recipe", [*PAIRS, "mistral_fa"])
def test_a_pairs_estimate_needs_no_weights_and_no_hub(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "hub")}
    said = [*f"recipe={recipe}".split(), "estimate=true", f"lake={tmp_path / 'lake'}"]
    began, before = time.monotonic(), os.times().children_user
    command = [sys.executable, "-m", "factory", *said]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    with capsys.disabled():
        taken = (
            f"{time.monotonic() - began:.1f} s, of which {os.times().children_user - before:.1f} s of this processor's"
        )
        print(f"\nestimate of {recipe}: {taken}")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "training, " in done.stdout and re.search(r"^all .*\d\.\d\d", done.stdout, re.M)
    assert ("bills at most about $" in done.stdout) == ("gpt" in recipe)
    assert list(tmp_path.iterdir()) == []


def test_every_recipe_is_run_by_a_test() -> None:
    named = {
        "demo",
        "demo_student",
        "demo_teacher",
        "smollm2",
        "mistral_fa",
        "gdpo",
        "ablation",
        "evidence",
        "evidence_wrong",
    }  # in tests of their own
    assert {path.stem for path in (CONF / "recipe").glob("*.yaml")} == named | {name.split()[0] for name in PAIRS}


def test_gdpo_trains_from_the_demos_own_pool(mine: Place) -> None:
    before = mine.derived()
    mine.trainer("recipe=gdpo", "run=gdpo", "steps=3", "probe.every=null")
    assert mine.derived() == before and len(mine.metrics("gdpo")) == 3


def test_the_ablation_is_one_sweep_and_one_table(mine: Place) -> None:
    mine.trainer("-m", "recipe=ablation", "without=nothing,pt,bc,rl", "steps=3", "probe.every=null")
    losses = {name: set(mine.metrics(f"without-{name}")[-1]) for name in ("nothing", "pt", "bc", "rl")}
    lost = {name: {"advantage_square", "loss/bc", "loss/pt"} - found for name, found in losses.items()}
    assert lost == {"nothing": set(), "pt": {"loss/pt"}, "bc": {"loss/bc"}, "rl": {"advantage_square"}}
    mine.factory("recipe=ablation", "stages=[evaluate]", "factory.benchmarks.held_out.limit=8")
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").replace("\\\n", " ")
    [query] = re.findall(r'data sql "(SELECT policy.*?)"', page)
    rows = mine.sql(query)
    assert {row["policy"] for row in rows} == {"student", *(f"without-{name}" for name in losses)}
    assert all(None not in row.values() for row in rows)
