"""Options that several commands share, and how they become values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewardsmith.errors import UsageError

if TYPE_CHECKING:
    from rewardsmith.model.load import LoadOptions

Model = Annotated[str, typer.Argument(help="Reward model: folder or Hugging Face id.")]
PromptField = Annotated[
    str | None, typer.Option("--prompt-field", help="Column of the prompt, when not found by itself.")
]
ResponseField = Annotated[
    str | None, typer.Option("--response-field", help="Column of the response, when not found by itself.")
]
With = Annotated[
    list[str] | None,
    typer.Option("--with", help="Another reward model that votes too; may be given several times."),
]
Aggregate = Annotated[
    str,
    typer.Option(
        "--aggregate", help="One reward of several members': auto, mean, median, min, uncertainty (mean - std)."
    ),
]
Shaping = Annotated[
    str | None,
    typer.Option(
        "--shaping",
        help="Shaped rewards: a file of `rewardsmith shape`, steps such as 'clip(low=-3, high=3)', or 'model' for what "
        "is saved with the model.",
    ),
]
ReferenceField = Annotated[
    str | None,
    typer.Option(
        "--reference-field",
        help="Column of what the shaping compares with, a reference response (text) or its reward; default: reference.",
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", help="File of known scores, read and extended; several processes may share it."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
Format = Annotated[
    str | None,
    typer.Option("--format", help="Name the row format instead of finding it (see: rewardsmith data check --help)."),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="Split of a Hub data set (default train), or start of the file names in a folder (default all)."
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Go on past bad rows; train and data keep them with their reasons.")
]
Budget = Annotated[
    int | None, typer.Option("--batch-tokens", min=16, help="Tokens per forward pass; less needs less memory.")
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype", help="auto (as trained; a base: bfloat16 where native, else float32), float32, bfloat16, float16."
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:0, mps.")]
DeviceMap = Annotated[
    str | None, typer.Option("--device-map", help="Spread a large model over devices, e.g. auto; overrides --device.")
]
FourBit = Annotated[bool, typer.Option("--load-in-4bit", help="Load the backbone in 4-bit NF4 (extra: quant).")]
TrustRemote = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint.")]


def two_tags(context: typer.Context, value: tuple[str, str] | None) -> tuple[str, str] | None:
    """``--think-tags`` takes the next two words, whatever they are: refuse it when one of them is another option.

    Raises:
        UsageError: naming the word that was taken for a tag.
    """
    known = {name for option in context.command.params for name in option.opts}
    taken = next((word for word in value or () if word.partition("=")[0] in known), None)
    if taken is not None:
        raise UsageError(
            f"--think-tags takes two values, OPEN and CLOSE, but {taken!r} is an option: "
            "give both tags, as in --think-tags '<plan>' '</plan>'"
        )
    return value


def tags_option(text: str) -> Any:
    """``--think-tags``; what it is for without it differs."""
    # Eager: before what it swallowed is missed.
    return typer.Option("--think-tags", metavar="OPEN CLOSE", callback=two_tags, is_eager=True, help=text)


ThinkTags = Annotated[
    tuple[str, str] | None, tags_option("Tags of the thinking, two values; default: those of all known models.")
]
Attention = Annotated[
    str | None,
    typer.Option("--attention", help="tree, sdpa, eager or flex_attention; default: tree on a CPU, else sdpa."),
]


def load_options(
    dtype: str, device: str, device_map: str | None, four_bit: bool, trust: bool, attention: str | None
) -> LoadOptions:
    """The model-loading options as one value."""
    from rewardsmith.model.load import LoadOptions

    return LoadOptions(dtype, device, device_map, four_bit, trust, attention)
