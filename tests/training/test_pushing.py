"""A Hub that cannot be reached never costs a trained model."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from rewardsmith.errors import FileError
from rewardsmith.training import pushing
from tests.training.conftest import chats, trainer


@pytest.fixture
def no_network(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OfflineModeIsEnabled("Cannot reach the Hub: offline mode is enabled. Unset HF_HUB_OFFLINE")

    for name in ("create_repo", "upload_folder"):
        monkeypatch.setattr(f"huggingface_hub.HfApi.{name}", refuse)


def test_the_trainer_trains_saves_and_then_says_what_was_not_uploaded(trainable, tmp_path, no_network, caplog) -> None:
    made = trainer(trainable["llama"], chats(8), tmp_path, push_to_hub=True, max_steps=2, save_steps=1)
    made.train()
    assert "training goes on, and the model will be saved in" in caplog.text
    assert made.state.global_step == 2
    with pytest.raises(FileError, match=r"was not uploaded: OfflineModeIsEnabled: Cannot reach the Hub.*hf upload"):
        made.push_to_hub()
    assert (Path(made.args.output_dir) / "model.safetensors").is_file()


def test_what_cannot_be_uploaded_is_one_line(tmp_path, no_network) -> None:
    with pytest.raises(FileError, match=f"the model is saved in {tmp_path}: check the network and HF_TOKEN") as error:
        pushing.upload(tmp_path, "me/rm", token=None, private=None, revision=None)
    assert "\n" not in str(error.value)
