"""Names of devices as drivers write them, against the makers' data sheets."""

import pytest

from model.peak_flops import peak_flops


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA H20-3e", 148.0),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA GB200", 2500.0),
        ("NVIDIA B300 SXM6 AC", 2250.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L40", 181.05),
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_a_name_as_the_driver_writes_it_has_the_peak_of_its_data_sheet(
    name: str, tera: float
) -> None:
    assert peak_flops(name, "bfloat16") == tera * 1e12


@pytest.mark.parametrize(
    "name",
    ["", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "Tesla V100-SXM2-32GB", "NVIDIA RTX A1000", "H1000"],
)
def test_a_device_that_is_not_in_the_table_has_none(name: str) -> None:
    assert peak_flops(name, "bfloat16") is None


def test_float32_has_none() -> None:
    """Its products may run at several rates."""
    assert peak_flops("NVIDIA H100 80GB HBM3", "float32") is None
