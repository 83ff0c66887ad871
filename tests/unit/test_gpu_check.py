"""The arithmetic of the GPU check, by hand."""

import pytest
import torch
from gpu_check import BEGIN, END, write_docs
from kernel_times import Span, break_down, covered, kind_of
from longest_stream import host_tokens, on_top_bytes
from memory_fit import Kept, Line, keeps_to_try, step_bytes
from presets import adopt_recipe, preset

from model.attention.core import choose_core
from model.initialization import initialize
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from train.configuration.compose import compose_run

KERNELS = {
    "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4, false, false>>": "attention",
    "void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>": "attention",
    "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_3": "attention",
    "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention)": "attention",
    "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NTN": "products",
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64": "products",
    "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_bf16_128x64>": "products",
    "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>": "products",
    "void at::native::vectorized_elementwise_kernel<4, silu>": "rest",
    "void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>": "rest",
    "Memcpy DtoH (Device -> Pinned)": "rest",
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_told_apart_by_the_names_that_libraries_give_them(name):
    assert kind_of(name) == KERNELS[name]


def test_overlapping_intervals_count_once():
    spans = [Span("", 5, 6), Span("", 0, 2), Span("", 1, 3), Span("", 1.5, 2)]
    assert covered(spans) == 3 + 1
    assert covered([]) == 0


def test_parts_of_a_step_add_up_to_its_wall_time():
    spans = [
        Span("flash_fwd", 0, 2),
        Span("gemm", 1, 4),  # 1 under attention, 2 of its own
        Span("copy", 3.5, 5),  # half under the product
    ]
    found = break_down(spans, wall=8.0)
    assert (found.attention, found.products, found.rest, found.host) == (2, 2, 1, 3)
    assert sum(found.shares.values()) == 1


def test_two_lengths_give_the_longest():
    line = Line.through((10, 130.0), (20, 230.0))
    assert line == Line(base=30.0, slope=10.0)
    assert line.tokens_within(1030.0) == 100
    assert line.tokens_within(20.0) == 0


def test_the_host_holds_the_input_of_every_layer():
    # 32 layers, 4,096 bfloat16 numbers each: 256 KiB a token.
    assert host_tokens(preset("8b"), 2**30) == 4096


def test_a_rank_of_eight_holds_float32_gradients_and_an_eighth_of_the_optimizer_on_top():
    config = preset("8b")
    parameters, bucket = 8_028_033_024, 4 * 50_000_000
    assert on_top_bytes(config, 8) == 4 * parameters + 12 * parameters // 8 + bucket


def test_what_does_not_fit_is_recomputed():
    config = preset("1b")

    def keeps(share: float, *, compiled: bool) -> list[str]:
        needed = step_bytes(config, 32_768, Kept("everything"), state_bytes=0, compiled=compiled)
        found = keeps_to_try(
            config, 32_768, state_bytes=0, memory_bytes=needed * share, compiled=compiled
        )
        return [str(kept) for kept in found]

    # Everything of 20 layers: 71.7 KB a token and layer, compiled 51.3, and one layer's gradients, and the head.
    for compiled, per_token in ((False, 71_700), (True, 51_300)):
        needed = step_bytes(config, 32_768, Kept("everything"), state_bytes=0, compiled=compiled)
        assert needed == pytest.approx(32_768 * per_token * 21, rel=0.16)
        assert keeps(1.1, compiled=compiled)[0] == "everything"
        some = keeps(0.9, compiled=compiled)
        assert some[0].startswith("attention in ")
        assert some[-4:] == ["attention", "input", "input_on_cpu", "tiles"]
    assert keeps(1e-9, compiled=True) == ["tiles"]


@pytest.mark.parametrize("model", ["1b", "3b", "8b"])
@pytest.mark.parametrize("recipe", ["rnope_swa", "full_rope"])
def test_presets_are_what_the_command_line_composes(model, recipe):
    assert preset(model, recipe) == compose_run([f"model={model}", f"recipe={recipe}"]).model


def test_a_model_that_adopts_a_recipe_is_the_model_of_that_recipe():
    hybrid, full = (preset("1b", name, rehearsal=True) for name in ("rnope_swa", "full_rope"))
    tokens_T, layout = torch.arange(40), PackedLayout.from_lengths((33, 7))
    found = []
    for config in (hybrid, full):
        model = Transformer(config, choose_core("dense", "cpu", torch.float32))
        initialize(model, config, seed=1)
        found.append(model)
    changed, expected = found
    assert not changed(tokens_T, layout, 1e4).equal(expected(tokens_T, layout, 1e4))
    adopt_recipe(changed, full)
    assert changed(tokens_T, layout, 1e4).equal(expected(tokens_T, layout, 1e4))


def test_tables_go_between_the_markers_of_the_document(tmp_path):
    document = tmp_path / "benchmarks.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_docs("a \\d table", document)
    assert document.read_text() == f"before\n{BEGIN}\na \\d table\n{END}\nafter\n"
