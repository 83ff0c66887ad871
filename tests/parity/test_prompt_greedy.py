"""What a hit of one forward says about greedy decoding, and what it does not say.

A hit: greedy decoding with the rotation of prompt and answer together writes exactly these tokens. It does not say what
decoding writes with a rotation that changes while the text grows, nor whether other tokens spell the same string, nor
whether the parts of an answer come in another order.
"""

from dataclasses import replace

import numpy as np
import torch

from model.at_step import AtStep
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from tests.parity.test_prompt_scores import ANSWER, AT, LENGTH, MODEL, decoded, whole_model
from train.evaluation.prompt_streams import PromptScore

CONTEXT = LENGTH - ANSWER


def contexts(count: int) -> list[list[int]]:
    generator = np.random.default_rng(1)
    return [generator.integers(0, MODEL.vocab_size, CONTEXT).tolist() for _ in range(count)]


def scored(
    model: Transformer, context: list[int], answer: list[int], at: AtStep = AT
) -> PromptScore:
    """The score of one forward over prompt and answer."""
    ids = torch.tensor(context + answer)
    targets = ids.roll(-1)
    targets[: len(context) - 1] = -100
    targets[-1] = -100
    with torch.no_grad():
        found = model.predictions(model(ids, PackedLayout.from_lengths([len(ids)]), at), targets)
    part = slice(len(context) - 1, len(ids) - 1)
    return PromptScore(found.ranks_T[part].numpy(), found.losses_T[part].double().numpy())


def growing(model: Transformer, context: list[int]) -> list[int]:
    """What decoding writes if the rotation is that of the text so far."""
    made = list(context)
    for _ in range(ANSWER):
        at = replace(AT, asked_length=len(made))
        with torch.no_grad():
            hidden_TD = model(torch.tensor(made), PackedLayout.from_lengths([len(made)]), at)
            made.append(int(model.logits(hidden_TD)[-1].argmax()))
    return made[len(context) :]


def test_a_hit_holds_for_the_rotation_of_prompt_and_answer_together() -> None:
    """Dynamic NTK turns otherwise at every length: with the rotation of the text so far other tokens may be written."""
    model = whole_model()
    others = 0
    for context in contexts(12):
        answer = decoded(model, context)
        assert scored(model, context, answer).hit
        others += growing(model, context) != answer
    assert others > 0


def test_the_same_string_in_other_tokens_and_the_same_parts_in_another_order_are_no_hit() -> None:
    model = whole_model()
    (context,) = contexts(1)
    answer = decoded(model, context)
    # A vocabulary in which the first id spells what two of the answer's ids spell.
    spelled = {one: f"<{one}>" for one in range(MODEL.vocab_size)}
    joined = next(one for one in spelled if one not in answer)
    spelled[joined] = spelled[answer[0]] + spelled[answer[1]]
    other = [joined, *answer[2:]]
    assert "".join(map(spelled.get, other)) == "".join(map(spelled.get, answer))  # type: ignore[arg-type]
    assert not scored(model, context, other, replace(AT, asked_length=LENGTH)).hit
    assert len({*answer}) > 1
    turned = answer[1:] + answer[:1]
    assert not scored(model, context, turned).hit


def test_of_equal_logits_the_lowest_id_is_written_and_hit() -> None:
    model = whole_model()
    (context,) = contexts(1)
    best = decoded(model, context)[0]
    twin = (best + 7) % MODEL.vocab_size
    with torch.no_grad():
        model.lm_head.weight[twin] = model.lm_head.weight[best]  # type: ignore[index, operator]
    low, high = sorted((best, twin))
    assert decoded(model, context)[0] == low
    rest = decoded(model, context)[1:]
    assert scored(model, context, [low, *rest]).ranks[0] == 0
    assert scored(model, context, [high, *rest]).ranks[0] == 1


def test_float32_differs_from_float64_only_where_two_logits_nearly_meet() -> None:
    """Every place where both precisions rank otherwise is named with its margin in float64."""
    exact, single = whole_model(), whole_model().float()
    margins = []
    for context in contexts(40):
        answer = decoded(exact, context)
        ids = torch.tensor(context + answer)
        layout = PackedLayout.from_lengths([len(ids)])
        with torch.no_grad():
            logits, near = (
                model.logits(model(ids, layout, AT)).double() for model in (exact, single)
            )
        two = logits.topk(2, dim=1).values
        differs = logits.argmax(1) != near.argmax(1)
        margins += (two[:, 0] - two[:, 1])[differs].tolist()
        assert float((logits - near).abs().max()) < 1e-4
    assert max(margins, default=0.0) < 2e-4, margins
