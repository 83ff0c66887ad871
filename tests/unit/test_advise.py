"""`ropewalk advise`: its data are those of the published formulas, for released models and for runs of our own."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data.printable import Mistakes
from train.advise.advice import Advice, advise, default_lengths
from train.advise.data import data_of
from train.advise.inputs import Before, read_subject
from train.advise.questions import questions

Json = dict[str, Any]
FIXTURES = Path(__file__).parents[1] / "fixtures"
LLAMA: Json = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
# meta-llama/Llama-2-7b-hf, meta-llama/Llama-3.1-8B and CohereLabs/c4ai-command-r7b-12-2024, as published.
RELEASED: dict[str, Json] = {
    "llama2": LLAMA,
    "llama31": LLAMA
    | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "command_r7b": {
        "model_type": "cohere2",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 256000,
        "max_position_embeddings": 8192,
        "logit_scale": 0.25,
        "rope_theta": 50000,
        "sliding_window": 4096,
    },
}
# The two stages of ProLong (arXiv 2410.02660), from Llama 3: base 5e5 at 8,192 tokens.
STAGE = (
    "tokens: 20e9, batch_tokens: 4194304, micro_batch_tokens: {length}, sequence_length: {length}"
)
LLAMA_3 = Before(8192, 5e5)
PROLONG = [
    "model=8b",
    "recipe=llama",
    "~schedule.stages.short",
    "~schedule.stages.middle",
    "~schedule.stages.long",
    f"+schedule.stages.to_64k={{{STAGE.format(length=65536)}, rope_base: 8e6}}",
    f"+schedule.stages.to_512k={{{STAGE.format(length=524288)}, rope_base: 1.28e8}}",
]


def released(folder: Path, name: str, length: int = 4096) -> Advice:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(RELEASED[name]))
    return advise(read_subject([str(path)]), (length,))


def cells_of(found: Advice) -> set[str]:
    """Every cell of the tables that terminal and page show."""
    tables = [table for question in questions(found) for table in question.tables]
    return {cell for table in tables for row in table.rows for cell in row}


def only(rows: Sequence[Json]) -> Json:
    (row,) = rows
    return row


def test_llama_2_has_the_golden_values_of_every_formula(tmp_path: Path) -> None:
    advice = released(tmp_path, "llama2")
    found = data_of(advice)
    assert {"1,706", "92", "4,712", "11.314", "10.977", "2,608", "652"} <= cells_of(advice)
    assert only(found["reach"])["reach"] == 1706
    assert not only(found["reach"])["enough"]
    bases = only(found["bases"])
    assert bases["first_feasible"] == pytest.approx(2.697e4, rel=0.02)
    assert bases["safe"] == pytest.approx(5.88e4, rel=0.02)
    assert bases["fit"] == pytest.approx(3.22e4, rel=2e-3)
    pairs = only(found["pairs"])
    assert (pairs["pairs"], pairs["never_turn_once"]) == (64, 18)
    assert (pairs["kept_by_fope"], pairs["precritical"]) == (46, 46)
    assert pairs["resonant_wavelengths"][:8] == [6, 7, 8, 10, 11, 13, 15, 17]
    assert pairs["resonant_wavelengths"][44:48] == [3533, 4080, 4712, 5441]
    laws = only(found["extrapolation"])
    assert laws["critical_dimension"] == 92
    assert laws["extended_length"] == pytest.approx(4712, abs=0.5)
    small = laws["small_bases"]
    assert small["quarter"] == pytest.approx(2607.6, abs=0.05)
    assert small["whole"] == pytest.approx(651.9, abs=0.05)
    scores = only(found["decay"])["scores"]
    golden = {"0": 11.314, "1": 10.977, "100": 5.399, "1000": 1.799}
    assert scores == pytest.approx(golden, abs=5e-4)
    # Keys and values of 32 layers of 32 heads of 128, in two bytes.
    assert only(found["cost"])["cache_bytes"] == 2 * 32 * 4096 * 32 * 128 * 2


def test_llama_2_stretched_fourfold_has_the_golden_granularity(tmp_path: Path) -> None:
    found = data_of(released(tmp_path, "llama2", length=16384))
    stretched = only(found["stretched"])
    assert stretched["factor"] == 4.0
    assert stretched["interpolated"] == pytest.approx(0.0290, abs=5e-5)
    assert stretched["ntk"] > stretched["first"] > stretched["interpolated"]
    (pairs,) = found["pairs"]
    whole = [round(wave) for wave in pairs["resonant_wavelengths"][: pairs["precritical"]]]
    assert math.lcm(*whole) == pytest.approx(7.058e51, rel=1e-4)


def test_llama_31_is_judged_by_its_scaled_rotation_and_its_length_before_scaling(
    tmp_path: Path,
) -> None:
    advice = released(tmp_path, "llama31", length=256)
    assert {"llama3 x8", "8,192 at 500,000", "70"} <= cells_of(advice)
    found = data_of(advice)
    pairs, laws = only(found["pairs"]), only(found["extrapolation"])
    plain = data_of(released(tmp_path, "llama2", length=64))["pairs"][0]["wavelengths"]
    assert pairs["wavelengths"][0] == plain[0]
    assert pairs["wavelengths"][29] == pytest.approx(2 * 3.141592653589793 / 2.166571e-3, rel=1e-6)
    assert pairs["wavelengths"][63] == pytest.approx(2 * 3.141592653589793 / 3.068926e-7, rel=1e-6)
    assert (laws["pretrained_base"], laws["pretrained_length"]) == (5e5, 8192)
    assert laws["critical_dimension"] == 70
    assert only(found["reach"])["method"] == "llama3 x8"
    assert (
        only(found["reach"])["reach"] > 18437
    )  # the golden reach of the same base without scaling


def test_a_reach_beyond_a_million_tokens_is_searched_and_beyond_16_million_not_known(
    tmp_path: Path,
) -> None:
    wide = {"max_position_embeddings": 2**22, "rope_theta": 5e11}
    cells = {}
    for length in (2**22, 2**25):
        file = tmp_path / f"{length}.json"
        file.write_text(json.dumps(LLAMA | wide | {"max_position_embeddings": length}))
        advice = advise(read_subject([str(file)]), (2**22, 2**25))
        assert only(data_of(advice)["reach"])["enough"] is (True if length == 2**22 else None)
        cells[length] = cells_of(advice)
        (said, *_) = questions(advice)[0].answer
        assert ("covers the 4,194,304" in said) == (length == 2**22)
        assert "does not cover" not in said
    assert all({"16,777,216 or more", "reaches it"} <= found for found in cells.values())
    assert all("too small" not in found for found in cells.values())


def test_the_stages_of_prolong_have_the_golden_reach_of_their_bases() -> None:
    subject = read_subject(PROLONG, "", LLAMA_3)
    assert [moment.length for moment in subject.moments] == [65536, 524288]
    advice = advise(subject, (65536,))
    assert {"61,935", "8e6", "1.28e8", "8,192 at 500,000"} <= cells_of(advice)
    found = data_of(advice)
    short, long = found["reach"]
    assert (short["stages"], short["base"], short["reach"]) == (["to_64k"], 8e6, 61935)
    assert not short["enough"]
    assert (long["base"], long["sees"]) == (1.28e8, 524288)
    bases = only(found["bases"])
    assert bases["first_feasible"] == pytest.approx(2.09e6, rel=0.02)
    assert bases["safe"] == pytest.approx(1.50e7, rel=0.02)
    first = found["extrapolation"][0]
    assert first["critical_dimension"] == 70
    exponent = 9.252558 / 7.173117  # ln(65536 / 2 pi) / ln(8192 / 2 pi)
    assert first["critical_base"] == pytest.approx(5e5**exponent, rel=1e-4)


def test_command_r7b_is_judged_by_its_window_and_its_full_layers_by_no_base(tmp_path: Path) -> None:
    advice = released(tmp_path, "command_r7b", length=131072)
    assert {"5,305", "50,000", "4.29 GB", "403 MB", "4.7 GB", "32.8 kB"} <= cells_of(advice)
    found = data_of(advice)
    reach = only(found["reach"])
    assert (reach["kind"], reach["sees"], reach["reach"]) == ("window_rope", 4096, 5305)
    assert reach["enough"]
    assert only(found["bases"])["length"] == 4096
    assert only(found["extrapolation"])["critical_dimension"] == 78
    cost = only(found["cost"])
    token = 2 * 8 * 128 * 2  # bytes of the key and the value of a layer
    assert cost["kinds"]["window_rope"]["cache_bytes"] == 24 * 4096 * token
    assert cost["kinds"]["full_nope"]["cache_bytes"] == 8 * 131072 * token
    assert cost["cache_bytes_of_next_token"] == 8 * token


def test_our_8b_saves_what_its_paper_says() -> None:
    subject = read_subject(["model=8b", "schedule=to_128k"])
    found = advise(subject, (65536, 131072))
    assert {"1.517x", "1.922x", "98,281", "1,706"} <= cells_of(found)
    saved = [cost.full_forward_flops / cost.forward_flops for cost in found.costs]
    assert saved == pytest.approx([1.517, 1.922], abs=5e-4)
    assert data_of(found)["parameters"] == 8_028_033_024
    assert only(data_of(found)["reach"])["stages"] == ["pretrain", "extend_32k", "extend_128k"]


@pytest.mark.parametrize("place", ["0.1.0/hybrid", "0.1.0/hybrid/config.yaml", "flat_rope"])
def test_runs_and_checkpoints_of_earlier_versions_are_read(place: str) -> None:
    found = advise(read_subject([str(FIXTURES / place)]), (256,))
    assert found.subject.longest >= 1
    assert found.cases


def test_lengths_that_no_memory_holds_are_answered(tmp_path: Path) -> None:
    most = 2**31 - 1
    config = RELEASED["command_r7b"] | {"max_position_embeddings": most, "sliding_window": most}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = data_of(advise(read_subject([str(tmp_path)]), (most,)))
    assert only(found["effective_lengths"])["windows_carry"] is None
    assert only(found["bases"])["safe"] is None
    assert only(found["cost"])["cache_bytes"] == 32 * most * 2 * 8 * 128 * 2


@pytest.mark.parametrize(
    ("width", "length", "says"),
    [(128, 8192, True), (128, 4096, False), (2, 8192, False)],
)
def test_only_bases_that_the_table_has_are_pointed_at(width: int, length: int, says: bool) -> None:
    words = ["recipe=full_rope", "schedule=quickstart", f"model.head_dim={width}"]
    words += [
        "schedule.stages.long.sequence_length=8192",
        "schedule.stages.long.micro_batch_tokens=8192",
    ]
    first = questions(advise(read_subject(words), (length,)))[0]
    (said,) = [line for line in first.answer if line.startswith("full_rope")]
    assert "does not cover the 8,192 that the layers see" in said
    assert ("see the bases below" in said) == says


def test_lengths_that_nobody_asked_for_are_those_of_the_stages_and_longer_ones() -> None:
    found = default_lengths(read_subject(PROLONG, "", LLAMA_3))
    assert found == (65536, 524288, 2**20, 2**21, 2**22)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=8c"], "model=8c"),
        (["model.num_layer=4"], "did you mean model.num_layers?"),
        (["nothing"], "nothing: no such file or folder; give KEY=VALUE"),
        (["model=8b", "./here"], "is given beside ./here"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], says: str) -> None:
    with pytest.raises(Mistakes) as found:
        read_subject(words)
    assert says in str(found.value)
    assert len(found.value.lines) == 1
