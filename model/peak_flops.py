"""Peak FLOP/s of a device, looked up by its name: the denominator of the MFU.

    MFU = model FLOP/s of all ranks / (peak FLOP/s of one device x ranks)       (arXiv 2204.02311, appendix B)

Model FLOPs are those of `flops.py`, which considers windows and documents and leaves recomputation out. The peaks are
those of dense bfloat16 products with float32 accumulation, from the makers' data sheets (half of a number with
structured sparsity). A run in float32 has no entry: its products run at the rate of float32, of TF32 or of three
bfloat16 products, depending on torch's settings.
"""

import re

# Words of the device name from CUDA or ROCm, and dense bfloat16 FLOP/s. The first row whose words all match is used.
_PEAKS: tuple[tuple[frozenset[str], float], ...] = tuple(
    (frozenset(words.split()), peak)
    for words, peak in (
        # NVIDIA Blackwell: data sheets of HGX B200 and B300, and of GB200 NVL72 and GB300 NVL72.
        ("GB300", 2500e12),
        ("GB200", 2500e12),
        ("B300", 2250e12),
        ("B200", 2250e12),
        # NVIDIA Hopper: data sheets of H100 (SXM, PCIe, NVL), H200 (SXM, NVL), GH200 and H20. H800 computes as H100.
        ("GH200", 989.4e12),
        ("H200 NVL", 835.5e12),
        ("H200", 989.4e12),
        ("H100 NVL", 835.5e12),
        ("H100 PCIE", 756e12),
        ("H100", 989.4e12),
        ("H800 PCIE", 756e12),
        ("H800", 989.4e12),
        ("H20", 148e12),
        # NVIDIA Ada and Ampere: data sheets of L40S, L40, L4; A100, A800 (as A100), A40, A30, A10.
        ("L40S", 362.05e12),
        ("L40", 181.05e12),
        ("L4", 121e12),
        ("A100", 312e12),
        ("A800", 312e12),
        ("A40", 149.7e12),
        ("A30", 165e12),
        ("A10", 125e12),
        # AMD Instinct: data sheets. An MI250X is two devices of half its rate.
        ("MI355X", 2516.6e12),
        ("MI350X", 2306.9e12),
        ("MI325X", 1307.4e12),
        ("MI300X", 1307.4e12),
        ("MI300A", 980.6e12),
        ("MI250X", 191.5e12),
        ("MI250", 181.05e12),
    )
)


def peak_flops(device_name: str, precision: str) -> float | None:
    """Peak FLOP/s of the device; None for a name not in the table, a MIG instance, or any other precision."""
    words = set(re.findall("[A-Z0-9]+", device_name.upper()))
    if precision != "bfloat16" or "MIG" in words:
        return None
    return next((peak for fits, peak in _PEAKS if fits <= words), None)
