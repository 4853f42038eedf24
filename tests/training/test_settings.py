"""Settings of a fine-tuning run: names, types, precedence, and errors that help."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from rewardsmith.errors import FileError, UsageError
from rewardsmith.training import settings
from rewardsmith.training.config import RewardConfig
from rewardsmith.training.field_names import ELSEWHERE
from rewardsmith.training.finetune import _compute_dtype
from rewardsmith.training.run_folder import RunFolder, fingerprint


@pytest.mark.parametrize(
    ("more", "kind"),
    [({"bf16": True}, "bfloat16"), ({"bf16": False}, "float32"), ({"fp16": True, "bf16": False}, "float16")],
)
def test_4_bit_weights_are_multiplied_in_the_precision_that_was_asked_for(tmp_path, monkeypatch, more, kind) -> None:
    monkeypatch.setattr("rewardsmith.model.hardware._multiplies_bfloat16", lambda device: True)
    config = RewardConfig(str(tmp_path), use_cpu=True, **more)
    assert str(_compute_dtype(config)) == f"torch.{kind}"


LEAST = {"method": "lora", "data": "pairs.jsonl", "output": "out"}


def test_later_layers_win_and_lora_may_be_nested_or_dotted() -> None:
    flat = settings.merged(
        {**LEAST, "lora": {"r": 4, "alpha": 8}, "learning_rate": "1e-4"}, {"lora.r": 32}, {"seed": 3}
    )
    made = settings.build(flat)
    assert (made.lora.r, made.lora.alpha) == (32, 8)
    assert made.training == {"learning_rate": 1e-4, "seed": 3}
    assert made.data == ("pairs.jsonl",) and made.base == "smollm2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate=1e-4", 1e-4),  # YAML reads it as text
        ("learning_rate=1", 1.0),
        ("max_steps=7", 7),
        ("max_steps=7.0", 7),
        ("bf16=true", True),
        ("bf16=null", None),
        ("loss=hinge", "hinge"),
        ('loss_kwargs={"gap": 2}', {"gap": 2}),
        ("max_length=none", "none"),
        ("eval_strategy=no", "no"),  # YAML reads it as false
        ("save_strategy=no", "no"),
        ("trackio_static_space_id=false", False),
        ("report_to=[tensorboard]", ["tensorboard"]),
        ("save_steps=0.5", 0.5),
        ("optim=adamw_8bit", "adamw_8bit"),
    ],
)
def test_values_get_the_type_of_their_field(text, expected) -> None:
    key = text.partition("=")[0]
    if expected == "none":
        with pytest.raises(UsageError, match="max_length 'none': must be a whole number"):
            settings.build({**LEAST, **settings.assignments([text])})
        return
    made = settings.build({**LEAST, **settings.assignments([text])})
    assert made.training[key] == expected and type(made.training[key]) is type(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lerning_rate": 1}, "did you mean learning_rate"),
        ({"lora.rank": 1}, "no such setting"),
        ({"learning_rate": "fast"}, "learning_rate 'fast': must be a number"),
        ({"max_steps": 1.5}, "must be a whole number"),
        ({"max_steps": True}, "max_steps True: must be a whole number"),
        ({"seed": None}, "seed: must not be empty"),
        ({"lora.r": 0}, "lora.r 0: must be at least 1"),
        ({"lora.alpha": 0}, "lora.alpha 0.0: must be finite and greater than 0"),
        ({"lora.layers": []}, r"lora.layers \[\]: names no layer; leave it out for all"),
        ({"warmup_ratio": 0.1}, "warmup_ratio: not supported: transformers takes a share of the steps as warmup_steps"),
        ({"lora.dropout": 1}, r"lora.dropout 1.0: must be in \[0, 1\)"),
        ({"method": "lorra"}, "method 'lorra': use head, lora"),
        ({"method": "full", "lora.r": 4}, "full has no adapters"),
        ({"data": None}, "no training data"),
        ({"output": None}, "no folder"),
        ({"output_dir": "x"}, "decided by the run"),
        ({"remove_unused_columns": False}, "decided by the run"),
    ],
)
def test_mistakes_are_named_with_their_remedy(change, message) -> None:
    with pytest.raises(UsageError, match=message):
        settings.build({**LEAST, **change})


def test_every_field_of_the_config_can_be_set() -> None:
    for field in dataclasses.fields(RewardConfig):
        if field.init and field.name not in settings._OURS and field.default is not dataclasses.MISSING:
            assert settings.build({**LEAST, field.name: field.default}).training[field.name] == field.default


def test_an_adapter_without_checkpoints_is_protected_too(tmp_path: Path) -> None:
    folder = RunFolder.beside(tmp_path / "rm")
    folder.begin({}, resume=False)
    (folder.path / "adapter").mkdir()
    with pytest.raises(UsageError, match=r"holds an unfinished run \(adapter\)"):
        folder.begin({}, resume=False)


def test_rows_have_a_name() -> None:
    rows = [{"chosen_ids": [1, 2], "rejected_ids": [3], "margin": None}, {"chosen_ids": [1], "rejected_ids": [2]}]
    name = fingerprint(rows, None)
    assert name == fingerprint(iter(rows), []) != fingerprint(rows[::-1], None)
    assert len({name, fingerprint(rows, rows), fingerprint(rows[:1], rows[1:]), fingerprint(None, rows)}) == 4


def test_files_that_are_no_settings(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        settings.read_yaml(tmp_path / "none.yaml")
    for text in ("- a\n- b\n", "just text", "a: [1"):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(UsageError, match=r"c\.yaml"):
            settings.read_yaml(tmp_path / "c.yaml")
    with pytest.raises(UsageError, match="must be key=value"):
        settings.assignments(["learning_rate"])


def test_a_run_folder_protects_unfinished_runs(tmp_path: Path) -> None:
    folder = RunFolder.beside(tmp_path / "rm")
    with pytest.raises(UsageError, match="there is no run"):
        folder.begin({"a": 1}, resume=True)
    folder.begin({"a": 1}, resume=False, data="rows")
    assert folder.check({"a": 1}, resume=False) is None
    whole = folder.path / "checkpoint-3"
    whole.mkdir()
    (whole / "trainer_state.json").write_text("{}")
    (folder.path / "checkpoint-6").mkdir()  # killed while writing
    assert folder.last_checkpoint() == whole
    with pytest.raises(UsageError, match="holds an unfinished run"):
        folder.begin({"a": 1}, resume=False)
    with pytest.raises(UsageError, match="a was 1, is now 2"):
        folder.begin({"a": 2}, resume=True)
    assert folder.check({"a": 1}, resume=True) == whole
    with pytest.raises(UsageError, match="the data are not those of the run"):
        folder.begin({"a": 1}, resume=True, data="other rows")
    folder.begin({"a": 1}, resume=True, data="rows")
    folder.finish()
    assert folder.check({"a": 2}, resume=False) is None and whole.exists()  # nothing is removed yet
    folder.begin({"a": 2}, resume=False)
    assert not whole.exists()
    (tmp_path / "other.run").mkdir()
    (tmp_path / "other.run" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileError, match="not a run of ours"):
        RunFolder.beside(tmp_path / "other").begin({}, resume=False)


# -- names that do not exist


@pytest.mark.parametrize(
    "build_config", [lambda **given: RewardConfig("out", **given), lambda **given: settings.build(given)]
)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("max_lenght", "max_lenght: no such setting; did you mean max_length?"),
        ("evaluation_strategy", "evaluation_strategy: not supported: transformers calls it eval_strategy now"),
        ("max_prompt_length", "max_prompt_length: not supported: prompts are not cut here"),
    ],
)
def test_a_name_that_does_not_exist_names_the_nearest(build_config, name, said) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        build_config(**{name: 512})


def test_what_is_said_to_be_elsewhere_is_no_field_of_ours() -> None:
    assert not ELSEWHERE.keys() & {one.name for one in dataclasses.fields(RewardConfig)}
