"""Whether a layout lets the regions between attention calls be compiled (`model/regions.py` compiles them)."""

from parallel.config import ParallelConfig


def regions_obstacle(parallel: ParallelConfig) -> str:
    """Returns why the regions between attention calls cannot be compiled in this layout; empty if they can."""
    if parallel.tensor > 1:
        return f"with parallel.tensor={parallel.tensor} transfers run inside them"
    if parallel.zero_stage == 3:
        return "with parallel.zero_stage=3 weights are gathered module by module inside them"
    if parallel.pipeline > 1 and parallel.pipeline_schedule == "zbv":
        return "zbv computes the gradient of every weight separately, and would run a region's backward for each"
    return ""
