"""Keep transformers' loading bars and notices out of the terminal: what matters of them we say ourselves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# bitsandbytes says so when it is imported (by peft, by transformers' trainer) on a CPU with bfloat16, whether or not
# anything is in 4 bits. The kernel is optional, only faster, and would be downloaded.
_OPTIONAL_KERNEL = "Failed to load CPU gemm_4bit_forward from kernels-community"


def hush_optional_kernel() -> None:
    """Keep bitsandbytes from advertising its optional kernel; anything else it has to say is heard."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_not_the_kernel)


def _not_the_kernel(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_OPTIONAL_KERNEL)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Only errors from transformers, and no progress bars, inside the block."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
