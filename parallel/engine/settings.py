"""DeepSpeed's inputs: its JSON settings for a layout, and the mesh as its `mpu` object."""

from typing import Any

import torch

from parallel.config import OptimizerConfig, ParallelConfig
from parallel.mesh import Mesh

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def zero_settings(
    parallel: ParallelConfig,
    optimizer: OptimizerConfig,
    *,
    precision: str,
    num_parameters: int,
    device: torch.device,
    num_trained: int | None = None,
) -> dict[str, Any]:
    """Returns DeepSpeed's JSON settings for this layout; the engine sets the accumulation boundary itself.

    num_parameters: elements of the model; num_trained: of them those that train, None: all.
    """
    # A small model, or one that is mostly frozen, needs no large buffer of gradients.
    bucket = _even(parallel, num_parameters if num_trained is None else num_trained)
    zero: dict[str, Any] = {"stage": parallel.zero_stage}
    if parallel.zero_stage > 0:
        zero |= {
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "contiguous_gradients": True,
            # A pipeline reduces once, after its last backward: no computation to overlap with.
            "overlap_comm": device.type == "cuda" and parallel.pipeline == 1,
        }
    if parallel.zero_stage == 3:
        # Persistence 0: a small parameter that is kept whole would not be updated from a restored master.
        # Frozen weights are prefetched as well.
        prefetch = _even(parallel, num_parameters)
        zero |= {"stage3_prefetch_bucket_size": prefetch, "stage3_param_persistence_threshold": 0}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "steps_per_print": 2**62,
        # DeepSpeed's own throughput timer synchronises the device at every forward.
        "timers": {"throughput": {"enabled": False}},
        # Without ZeRO, `WithoutZero.step` clips, with the norm.
        "gradient_clipping": optimizer.gradient_clipping if parallel.zero_stage > 0 else 0.0,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": DTYPES[precision] == torch.bfloat16, "check_grad_overflow": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": zero,
    }


def _even(parallel: ParallelConfig, elements: int) -> int:
    """Returns the elements of a bucket for so many; ZeRO requires an even number."""
    bucket = min(parallel.bucket_elements, elements)
    return bucket + bucket % 2


class ModelParallelUnit:
    """The mesh with the methods that DeepSpeed calls on its `mpu` argument.

    DeepSpeed's data-parallel group is the ranks that hold the same parameters: our data x sequence axes. Its
    model-parallel group is the ranks that hold different ones: tensor x pipeline. Its gradient norm counts all
    parameters of tensor rank 0, and on other ranks those marked `tensor_model_parallel`.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._zero, self._model, self._tensor = mesh.zero, mesh.model, mesh.tensor
        self._pipeline = mesh.pipeline

    def get_data_parallel_group(self) -> Any:
        return self._zero.group

    def get_data_parallel_group_ranks(self) -> list[int]:
        return list(self._zero.ranks)

    def get_data_parallel_rank(self) -> int:
        return self._zero.rank

    def get_data_parallel_world_size(self) -> int:
        return self._zero.size

    def get_model_parallel_group(self) -> Any:
        return self._model.group

    def get_model_parallel_rank(self) -> int:
        return self._model.rank

    def get_model_parallel_world_size(self) -> int:
        return self._model.size

    def get_tensor_model_parallel_group(self) -> Any:
        return self._tensor.group

    def get_tensor_model_parallel_rank(self) -> int:
        return self._tensor.rank

    def get_tensor_model_parallel_world_size(self) -> int:
        return self._tensor.size

    def get_pipeline_model_parallel_rank(self) -> int:
        return self._pipeline.rank

    def get_pipeline_model_parallel_world_size(self) -> int:
        return self._pipeline.size
