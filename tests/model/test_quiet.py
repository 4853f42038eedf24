"""What is kept out of the terminal, and that nothing else is."""

from __future__ import annotations

import logging

from rewardsmith.model.quiet import hush_optional_kernel


def test_only_the_optional_kernel_is_hushed(caplog) -> None:
    hush_optional_kernel()
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please ...", "no kernels")
    logger.warning("another warning")
    assert caplog.messages == ["another warning"]
