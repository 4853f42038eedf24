"""Uploading to the Hub, which never costs a trained model: what fails there fails after the model was saved."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import Trainer

from rewardsmith.errors import FileError

logger = logging.getLogger("rewardsmith")

# No network, no token, no right to write, no such name. HfHubHTTPError's first base is that of the hub's HTTP library,
# of which a failed connection is another child; which library that is differs between versions of the hub.
HUB_ERRORS: tuple[type[Exception], ...] = (OSError, HfHubHTTPError.__bases__[0], HFValidationError)  # type: ignore[assignment]


class SavesBeforePushing(Trainer):
    """A trainer that goes on without the Hub: it warns, trains, saves, and only then says what was not uploaded."""

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """As ``Trainer.init_hf_repo``, but a Hub out of reach is a warning: nothing is to be uploaded yet."""
        self.push_in_progress = None
        try:
            super().init_hf_repo(*args, **kwargs)
        except HUB_ERRORS as error:
            logger.warning(
                "push_to_hub: %s; training goes on, and the model will be saved in %s (check the network, "
                "hub_model_id, and HF_TOKEN or hub_token)",
                _reason(error),
                self.args.output_dir,
            )

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.push_to_hub``, the model saved first.

        Raises:
            FileError: the upload failed; the message says where the model is and how to upload it.
        """
        if self.hub_model_id is None:
            self.save_model(_internal_call=True)  # on every process: sharded weights are gathered
            token, private = kwargs.get("token"), kwargs.get("private")
            try:
                super().init_hf_repo(token=token, private=private)
            except HUB_ERRORS as error:
                raise not_uploaded(self._repository(), self.args.output_dir, error) from error
        try:
            return super().push_to_hub(*args, **kwargs)
        except HUB_ERRORS as error:
            raise not_uploaded(self._repository(), self.args.output_dir, error) from error

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As ``Trainer._push_from_checkpoint``; a checkpoint that is not uploaded does not end the training."""
        if self.is_world_process_zero() and self.hub_model_id is None:
            return  # said when training began; push_to_hub tries again
        try:
            super()._push_from_checkpoint(checkpoint_folder)
        except HUB_ERRORS as error:
            logger.warning("push_to_hub: %s is not uploaded: %s", checkpoint_folder, _reason(error))

    def _repository(self) -> str:
        return self.hub_model_id or self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name


def upload(folder: Path, repository: str, *, token: str | None, private: bool | None, revision: str | None) -> str:
    """Upload a saved model; the address it has then.

    Raises:
        FileError: the upload failed; the model stays where it is.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, revision=revision, commit_message="End of training")
    except HUB_ERRORS as error:
        raise not_uploaded(repository, folder, error) from error
    return str(made)


def not_uploaded(repository: str, folder: Any, error: BaseException) -> FileError:
    """What to say of an upload that failed."""
    return FileError(
        f"push_to_hub: {repository} was not uploaded: {_reason(error)}; the model is saved in {folder}: check the "
        f"network and HF_TOKEN, then: hf upload {repository} {folder}"
    )


def _reason(error: BaseException) -> str:
    """The first sentence of an error, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()).split('. ')[0][:200].rstrip('.')}"
