"""Notebooks: memory really falls, the kernel really ends, what is shown is escaped, progress needs no widgets."""

from __future__ import annotations

import gc
import re
import sys
from html.parser import HTMLParser

import pytest
import torch
from peft import LoraConfig
from torch import nn
from torch.utils.data import DataLoader

from rewardsmith.errors import TemplateError, UsageError
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.notebook import release_memory, show, show_comparison, shutdown_kernel, text_progress
from rewardsmith.scoring.scorer import Scorer
from rewardsmith.training.config import RewardConfig
from rewardsmith.training.trainer import RewardTrainer
from rewardsmith.types import Comparison, ScoredResponse

MEGABYTE = 2**20


def alive() -> int:
    """Bytes of all tensors of this process that hold memory."""
    gc.collect()
    kinds = (torch.Tensor, nn.Parameter)  # isinstance would ask every proxy there is
    tensors = [item for item in gc.get_objects() if type(item) in kinds and not item.is_meta]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


# -- memory


def test_a_model_that_is_still_referred_to_gives_its_memory_back(bases) -> None:
    model = RewardModel.from_base(bases["llama"])
    held, kept = sum(p.numel() * 4 for p in model.backbone.network.parameters()), repr(model)
    before = alive()
    freed = release_memory(model)
    assert before - alive() >= held
    assert freed.dropped >= held and freed.tensors > 20
    assert re.fullmatch(r"dropped \d+ tensors of \d+ MB; process memory [\d,]+ MB -> [\d,]+ MB", str(freed))
    assert repr(model) == kept  # Out[3] can still be shown
    with pytest.raises(UsageError, match=r"dropped by release_memory\(\); load it again"):
        model.score("question", "answer")


def test_process_memory_falls() -> None:
    network = nn.Linear(1, 1)
    network.weight.data = torch.ones(4096, 8192)  # 128 MB
    freed = release_memory([network])
    assert freed.process[0] - freed.process[1] > 100 * MEGABYTE
    assert freed.dropped == 128 * MEGABYTE + 4


@pytest.fixture
def trainer(bases, tmp_path) -> RewardTrainer:
    rows = [Comparison(f"question {i}", ("fox " * (1 + i % 3), f"dog {i}")) for i in range(8)]
    args = RewardConfig(str(tmp_path), max_steps=3, per_device_train_batch_size=2, report_to=[], logging_steps=1)
    return RewardTrainer(
        model=str(bases["llama"]), args=args, train_dataset=rows, peft_config=LoraConfig(task_type="SEQ_CLS", r=4)
    )


def test_a_trainer_goes_with_its_optimizer_and_keeps_what_is_to_be_kept(trainer) -> None:
    mine = torch.ones(1000)
    trainer.train_dataset = [{"mine": mine}]  # data is not ours to drop
    trainer.callback_handler.train_dataloader = trainer.accelerator.prepare(DataLoader(trainer.train_dataset))
    trainer.model.train()
    next(p for p in trainer.model.parameters() if p.requires_grad).grad = torch.ones(4, 32)
    trainer.create_optimizer()
    optimizer = trainer.optimizer
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    other = RewardModel.around(trainer.network, trainer.processing_class)
    other = RewardModel(other.backbone, nn.Linear(32, 1, bias=False), other.template, other.contract)
    head = other.head.weight.clone()
    release_memory(trainer, keep=[other.head])
    assert all(not tensor.numel() for tensor in (*trainer.model.parameters(), *trainer.model.buffers(), *moments))
    assert all(p.grad is None for p in trainer.model.parameters())
    assert mine.sum() == 1000
    assert torch.equal(other.head.weight, head)


def test_keep(bases) -> None:
    """A model that shares the weights stays whole."""
    model = RewardModel.from_base(bases["llama"])
    twin = RewardModel(model.backbone, nn.Linear(32, 1), model.template, model.contract)
    before = twin.score("p", "fox")
    assert release_memory(model, keep=[twin]).tensors == 1  # the head
    assert twin.score("p", "fox") == before
    with pytest.raises(RuntimeError):
        model.score("p", "fox")


def test_a_scorer_gives_back_model_heads_and_prompts(models, bases) -> None:
    model = RewardModel.from_base(bases["llama"])
    scorer = Scorer(model, prefix_cache=True)
    scorer.score(["question " * 20] * 2, ["fox", "dog"])
    before = alive()
    freed = release_memory(scorer)
    weights = sum(p.untyped_storage().nbytes() for p in models["llama"].backbone.network.parameters())
    assert before - alive() >= freed.dropped > weights  # keys and values too
    assert models["llama"].score("p", "fox")  # another model of the same kind is not touched


def test_4_bit_scales_go_too(bases) -> None:
    pytest.importorskip("bitsandbytes")
    model = RewardModel.from_base(bases["llama"], load_in_4bit=True)
    states = [p.quant_state for p in model.backbone.network.parameters() if getattr(p, "quant_state", None)]
    release_memory(model)
    assert states and all(not state.absmax.numel() for state in states)


def test_nothing_to_drop() -> None:
    assert release_memory().tensors == 0
    assert release_memory(None, [], {"a": [None]}).dropped == 0
    for wrong in ("out/rm", 3, ["out/rm"], {"a": [1]}):
        with pytest.raises(
            UsageError, match=r"release_memory: .* is a (str|int), which holds no weights; give a model"
        ):
            release_memory(wrong)


class OwnModel(RewardModel):
    """As somebody would derive it in a notebook."""


def test_what_is_derived_from_a_model_is_one(bases) -> None:
    model = RewardModel.from_base(bases["llama"])
    own = OwnModel(model.backbone, model.head, model.template, model.contract)
    assert release_memory(own).tensors > 5


def test_the_last_error_lets_go_of_what_it_holds() -> None:
    def fail() -> None:
        big = torch.ones(MEGABYTE)
        raise ValueError(big.shape)

    try:
        fail()
    except ValueError as error:
        sys.last_value, sys.last_traceback = error, error.__traceback__
    held = alive()
    release_memory()
    assert held - alive() >= 4 * MEGABYTE


# -- what is shown


class Checker(HTMLParser):
    """Collects tags and text; fails on what is not closed."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


EVIL = '</td><script>alert(1)</script><img src=x onerror=alert(2)> & "quotes"'


def scored(reward: float, **more) -> ScoredResponse:
    return ScoredResponse(reward, more.pop("se", None), more.pop("truncated", False), 10, **more)


def test_a_table_of_scores() -> None:
    prompts = ["one", "one", [{"role": "user", "content": EVIL}], "long " * 100]
    responses = [EVIL, "fox", [{"role": "assistant", "content": "dog"}], "word " * 100]
    results = [scored(-2.0, se=0.25), scored(1.0, members=(0.5, 1.5)), scored(4.0, truncated=True), TemplateError(EVIL)]
    table = show(prompts, responses, results)
    found = Checker(table._repr_html_())
    assert not {"script", "img", "link", "style", "iframe"} & set(found.tags)
    assert {name for name, _ in found.attributes} == {"style"}
    assert "http" not in table._repr_html_()
    assert found.text.count(EVIL) == 3  # shown as it is
    for part in ("-2.000 ± 0.250", "1.000", "disagreement 0.50", "truncated", "4.000", "〃", "(499 characters)"):
        assert part in found.text, part
    widths = re.findall(r"width:([\d.]+)%;height", table._repr_html_())
    assert widths == ["0.0", "50.0", "100.0"]
    lines = str(table).splitlines()
    assert lines[0] == "one" and lines[2].split() == ["1.000", "fox"] and lines[3] == f"user: {EVIL}"
    # Every colour is given with its transparency, or is the page's: nothing black on black.
    colours = re.findall(r"(?:color|background|border|border-bottom):([^;\"]+)", table._repr_html_())
    assert len(colours) > 10 and all("rgba(" in c or c == "inherit" for c in colours), set(colours)


def test_numbers_limits_and_equal_rewards() -> None:
    table = show(["p"] * 5, list("abcde"), [1.5, 1.5, torch.tensor(1.5), None, float("nan")], limit=4)
    found = Checker(table._repr_html_())
    assert found.text.count("1.500") == 3 and found.text.count("no reward") == 1
    assert "and 1 more rows" in found.text and "and 1 more rows" in str(table)
    assert re.findall(r"width:([\d.]+)%;height", table._repr_html_()) == ["50.0"] * 3
    assert Checker(show([], [], [])._repr_html_()).tags
    with pytest.raises(UsageError, match="not 1, 2 and 0"):
        show(["p"], ["a", "b"], [])


def test_a_comparison(models) -> None:
    model = models["llama"]
    view = show_comparison(model, EVIL, "fox", EVIL + " dog")
    found = Checker(view._repr_html_())
    probability = model.compare(EVIL, "fox", EVIL + " dog")
    assert "script" not in found.tags and found.text.count(EVIL) == 2
    assert f"A · P(preferred) = {probability:.3f}" in found.text
    assert f"B · P(preferred) = {1 - probability:.3f}" in found.text
    assert f"width:{100 * probability:.2f}%" in view._repr_html_()
    assert f"P(A preferred to B) = {probability:.3f}" in str(view) and str(view).startswith(" ".join(EVIL.split())[:40])


# -- progress


def test_progress_is_text_and_needs_no_widgets(trainer, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setitem(sys.modules, "tqdm.notebook", None)
    assert text_progress(text_progress(trainer)) is trainer
    trainer.train()
    out = capsys.readouterr().out
    last = out.replace("\r", "\n").strip().splitlines()[-1]
    assert "100%" in last and "3/3" in last and "loss=" in last and "accuracy=" in last
    assert "{'loss'" not in out  # nobody else prints
    assert out.count("0/3") == 1  # one bar


def test_the_scorer_says_how_far_it_is(models, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setitem(sys.modules, "tqdm.notebook", None)
    Scorer(models["llama"]).score(["p", "p"], ["fox", "dog"], progress=True)
    assert "scoring: 100%" in capsys.readouterr().err


# -- a real kernel


def test_no_kernel(capsys) -> None:
    assert shutdown_kernel() is False
    assert capsys.readouterr().out == "no Jupyter kernel runs this: nothing to shut down\n"


CELLS = [
    """
import torch, sys, os, psutil
from rewardsmith.notebook import release_memory, shutdown_kernel, show
model = torch.nn.Linear(1, 1, bias=False)
model.weight.data = torch.ones(4096, 8192)
def memory(): return psutil.Process().memory_info().rss // 2**20
model
""",
    "[model.weight]",
    "before = memory(); print(release_memory(model))",
    "print(before - memory() > 100, len(Out), model.weight.shape)",
    "show(['p'], ['<b>r</b>'], [1.0])",
    "shutdown_kernel()",
]


def test_in_a_real_kernel(tmp_path) -> None:
    """Out and the variable both hold the model; the kernel ends by itself, with exit code 0, and is not restarted."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
        process = client.km.provisioner.process
        assert process.wait(timeout=20) == 0
    texts = ["".join(str(o.get("text", o.get("data"))) for o in cell.outputs) for cell in notebook.cells]
    assert texts[2].startswith("dropped 1 tensors of 134 MB; process memory ")
    assert texts[3] == "True 0 torch.Size([0])\n"
    assert "&lt;b&gt;r&lt;/b&gt;" in texts[4]
    assert "the kernel shuts down now" in texts[5]
