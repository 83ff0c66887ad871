"""Paid once here instead of by every forked rank: what DeepSpeed imports when it builds an engine."""

import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
import torch._dynamo  # noqa: F401

import parallel.engine.engine  # noqa: F401  (first: it sets the accelerator)
