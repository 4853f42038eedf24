"""The one error tree. Each class is also a standard-library type, so callers can catch either.

A message names the file, line or field, the value, the rule it broke and the remedy. The command line
prints it on one line and exits with the class's ``exit_code``; it never shows a traceback for one.
"""

from __future__ import annotations


class RewardsmithError(Exception):
    """Base of everything rewardsmith raises on purpose."""

    exit_code = 2


class UsageError(RewardsmithError, ValueError):
    """An argument or a combination of arguments that cannot work."""


class DataError(RewardsmithError, ValueError):
    """A data file or row that breaks a rule.

    Args:
        message: what is wrong, the rule and the remedy, on one line.
        file: the file as the user named it, or None when the data did not come from a file.
        line: 1-based line (or row) number in ``file``.
        field: the offending field, e.g. ``"chosen"``.
    """

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None, field: str | None = None):
        self.message, self.file, self.line, self.field = message, file, line, field
        place = ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(": ".join(part for part in (place, field, message) if part))


class FileError(RewardsmithError, OSError):
    """A path that cannot be read or written."""


class TemplateError(RewardsmithError, ValueError):
    """Text that the tokenizer's template cannot render faithfully."""


class ModelError(RewardsmithError, ValueError):
    """A checkpoint that is not, or cannot become, a reward model."""


class ContractError(ModelError):
    """A checkpoint whose scoring contract does not hold: it would not give the rewards it was trained to give."""

    exit_code = 3


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device. torch need not be imported to say no."""
    if isinstance(error, MemoryError):
        return True
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


class MissingExtraError(RewardsmithError, ImportError):
    """An optional dependency that is not installed.

    Args:
        extra: the extra's name in pyproject.toml, e.g. ``"quant"``.
        what: what needs it, e.g. ``"4-bit loading"``.
    """

    def __init__(self, extra: str, what: str):
        super().__init__(f"{what} needs an optional package: pip install 'rewardsmith[{extra}]'")
