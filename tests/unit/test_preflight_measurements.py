"""What the preflight measures on one host: clocks, GPUs, a product, the shared folder."""

import random
from pathlib import Path

import pytest
import torch

from train.preflight import output
from train.preflight.clocks import offset_span
from train.preflight.facts import GpuState
from train.preflight.gpu import draw_matrices, is_product, parse_nvidia_smi


def test_the_span_of_a_clock_holds_the_true_offset() -> None:
    draw = random.Random(3)
    for _ in range(200):
        offset = draw.uniform(-10, 10)
        host, main = [], []
        for start in range(4):
            came = [start + draw.random() / 10 for _ in range(2)]
            left = [max(came) + draw.random() / 10 for _ in range(2)]
            host.append((came[0] + offset, left[0] + offset))
            main.append((came[1], left[1]))
        least, most = offset_span(host, main)
        assert least <= offset <= most
        assert most - least <= 0.4


def test_nvidia_smi_is_read_whatever_it_knows() -> None:
    text = (
        "GPU-8f6d0a3c-1b2c-aaaa-bbbb-ccccddddeeee, 550.54.15, 41, 0, 0x0000000000000001\n"
        "GPU-8F6D0A3C-1B2C-AAAA-BBBB-CCCCDDDDEEEF, 550.54.15, [N/A], [Not Supported], [N/A]\n"
        "No devices were found\n\n"
    )
    assert parse_nvidia_smi(text) == {
        "8f6d0a3c-1b2c-aaaa-bbbb-ccccddddeeee": GpuState("550.54.15", 41, 0, 1),
        "8f6d0a3c-1b2c-aaaa-bbbb-ccccddddeeef": GpuState("550.54.15", None, None, 0),
    }
    assert parse_nvidia_smi('Field "clocks_event_reasons.active" is not a valid field') == {}


def test_one_wrong_number_of_a_product_is_noticed() -> None:
    a, b, vectors = draw_matrices(256, torch.device("cpu"))
    product = a @ b
    exact = a.double() @ b.double()
    assert torch.equal(product.double(), exact)
    assert is_product(product, a, b, vectors[:, :1])
    row, column = 17, int(vectors[:, 0].nonzero()[0])
    product[row, column] += 1
    assert not is_product(product, a, b, vectors[:, :1])


def test_a_folder_without_the_token_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PATIENCE", 0.1)
    token = output.leave_token(tmp_path / "shared")
    assert output.token_problem(tmp_path / "shared", token, 4) == ""
    assert [file.name for file in (tmp_path / "shared").iterdir()] == [token.name]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / token.name).write_text("of another run")
    for other in ("own", "nowhere"):
        assert "is not the folder that the main" in output.token_problem(tmp_path / other, token, 4)
    output.remove_token(tmp_path / "shared", token)
    assert list((tmp_path / "shared").iterdir()) == []
