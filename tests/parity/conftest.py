"""Paid once here instead of by every forked rank: what DeepSpeed imports when it builds an engine."""

import sys


def pytest_collection_finish() -> None:
    """After the test files were imported: only where one of them has imported the engine."""
    if "parallel.engine.engine" in sys.modules:
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
        import torch._dynamo  # noqa: F401
