"""The data behind tables and page, as `--json` prints them: plain numbers, lengths in tokens, sizes in bytes."""

from dataclasses import asdict
from typing import Any

from model.flops import parameter_count
from train.advise.advice import Advice
from train.advise.base import Bases
from train.advise.cost import Cost
from train.advise.extrapolation import ExtrapolationOfCase
from train.advise.pairs import PairsOfCase
from train.advise.subject import Case, Moment

Json = dict[str, Any]


def data_of(found: Advice) -> Json:
    """Returns all numbers of an advice."""
    model = found.subject.model
    return {
        "name": found.subject.name,
        "source": found.subject.source,
        "parameters": parameter_count(model),
        "head_dim": model.head_dim,
        "lengths": list(found.lengths),
        "stages": [_moment(moment) for moment in found.subject.moments],
        "reach": [
            _case(row.case) | {"reach": row.tokens, "enough": row.enough} for row in found.reaches
        ],
        "bases": [_bases(row) for row in found.bases],
        "pairs": [_pairs(row) for row in found.pairs],
        "extrapolation": [_extrapolation(row) for row in found.extrapolations],
        "effective_lengths": [
            {
                "stage": row.moment.stage,
                "windows_carry": row.windows_carry,
                "trained_often": row.trained_often,
            }
            for row in found.effective
        ],
        "decay": [
            _case(row.case)
            | {
                "granularity": row.granularity,
                "scores": {str(distance): score for distance, score in row.scores.items()},
            }
            for row in found.decays
        ],
        "stretched": [
            {"kind": row.case.kind.name}
            | {key: value for key, value in vars(row).items() if key != "case"}
            for row in found.stretches
        ],
        "cost": [_cost(cost) for cost in found.costs],
    }


def _moment(moment: Moment) -> Json:
    kinds = {
        kind.name: {"layers": kind.layers, "sees": kind.sees, "base": kind.base or None}
        for kind in moment.kinds
    }
    return {"stage": moment.stage, "length": moment.length, "kinds": kinds}


def _bases(row: Bases) -> Json:
    return {
        "kind": row.case.kind.name,
        "length": row.length,
        "first_feasible": row.bound.first if row.bound else None,
        "safe": row.bound.safe if row.bound else None,
        "fit": row.fit,
        "ntk": row.ntk,
    }


def _pairs(row: PairsOfCase) -> Json:
    return _case(row.case) | {
        "pairs": len(row.turns_P),
        "never_turn_once": row.never,
        "kept_by_fope": row.kept_by_fope,
        "precritical": row.precritical,
        "wavelengths": row.wavelengths_P.tolist(),
        "resonant_wavelengths": row.rounded_P.tolist(),
        "turns": row.turns_P.tolist(),
    }


def _extrapolation(row: ExtrapolationOfCase) -> Json:
    return _case(row.case) | {
        "pretrained_base": row.case.kind.pretrained[0],
        "pretrained_length": row.case.kind.pretrained[1],
        "critical_dimension": row.pretrained_dimension,
        "extended_length": row.wave,
        "critical_base": row.laws.critical_base if row.laws else None,
        "usable_length": row.laws.usable_length if row.laws else None,
        "small_bases": asdict(row.small),
    }


def _case(case: Case) -> Json:
    return {
        "kind": case.kind.name,
        "stages": list(case.stages),
        "sees": case.kind.sees,
        "base": case.kind.base,
        "method": case.method,
    }


def _cost(cost: Cost) -> Json:
    return {
        "length": cost.length,
        "cache_bytes": cost.cache_bytes,
        "cache_bytes_if_full": cost.full_cache_bytes,
        "cache_bytes_of_next_token": cost.grows_by,
        "forward_flops": cost.forward_flops,
        "forward_flops_if_full": cost.full_forward_flops,
        "training_flops": cost.training_flops,
        "weight_flops": cost.dense_flops,
        "decode_flops": cost.decode_flops,
        "kinds": {kind.kind: _without_name(asdict(kind)) for kind in cost.kinds},
    }


def _without_name(row: Json) -> Json:
    return {key: value for key, value in row.items() if key != "kind"}
