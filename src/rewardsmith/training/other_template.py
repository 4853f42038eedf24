"""A chat template from elsewhere: a Jinja file, or another tokenizer's, with the tokens that it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from rewardsmith.errors import FileError, UsageError
from rewardsmith.model.bases import SMOLLM2, resolve
from rewardsmith.model.load import read_tokenizer

_MULTIPLE = 64  # of rows of the embeddings, as TRL has them


def take_template(network: Any, tokenizer: Any, path: str, *, trust_remote_code: bool) -> list[int]:
    """Give a network and its tokenizer, in place, the chat template that ``path`` has.

    Of another tokenizer its added tokens and its EOS come along, and the embeddings get rows for them, as with TRL's
    ``clone_chat_template``: a template whose tokens were spelled out letter by letter would be another template.

    Args:
        network: the ``*ForSequenceClassification``.
        tokenizer: its own.
        path: a Jinja file (``.jinja``, ``.j2``), or a folder or Hub id of a tokenizer.
        trust_remote_code: run code that comes with that tokenizer.

    Returns:
        Ids of the tokens that are new, which have to be learnt.

    Raises:
        FileError: the file cannot be read.
        ModelError: there is no such tokenizer.
        UsageError: it has no chat template.
    """
    if path.endswith((".jinja", ".j2")):
        try:
            tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise FileError(f"chat_template_path {path}: cannot be read: {error.strerror}") from error
        return []
    source = read_tokenizer(resolve(path) if path == SMOLLM2 else path, trust_remote_code=trust_remote_code)
    if not source.chat_template:
        raise UsageError(f"chat_template_path {path}: that tokenizer has no chat template")
    tokenizer.chat_template = source.get_chat_template()
    known = tokenizer.get_vocab()
    new = [token for token in source.added_tokens_decoder.values() if token.content not in known]
    tokenizer.add_tokens(new)
    tokenizer.eos_token = source.eos_token
    network.config.get_text_config().eos_token_id = tokenizer.eos_token_id
    network.resize_token_embeddings(len(tokenizer.get_vocab()), pad_to_multiple_of=_MULTIPLE)
    rows = network.get_input_embeddings().weight.shape[0]
    names = (AddedToken(f"<extra_id_{number}>") for number in range(len(tokenizer) + _MULTIPLE))
    while len(tokenizer.get_vocab()) < rows:  # a row for each token and a token for each row
        token = next(names)
        if tokenizer.add_tokens(token):
            new.append(token)
    return tokenizer.convert_tokens_to_ids([token.content for token in new])
