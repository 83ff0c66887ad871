"""Prompts are made where they are read: every rank has the outlines of all, and few ranks make one prompt."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from data.prompts.catalogue import TASKS
from data.prompts.encoder import ClosedVocabulary
from data.prompts.fill import Control, Maker, Prompt
from data.prompts.filler import Noise
from train.configuration.prompt_settings import PromptTaskConfig
from train.evaluation import prompt_sets
from train.evaluation.prompt_plan import PromptPlan
from train.evaluation.prompt_sets import Outline, PromptsOfLength

LENGTH, LAST = 320, 16
CONTROLS: tuple[Control, ...] = ("none", "removed", "swapped")
# Answers of several lengths, an answer among candidates, and items.
NAMES = ("nolima", "personal_passkey", "fwe")


def plan_of(name: str) -> PromptPlan:
    encoder = ClosedVocabulary()
    maker = TASKS[name].maker(encoder, Noise(encoder))
    settings = PromptTaskConfig(task=name, depths=2, samples=3, last_tokens=LAST)
    return PromptPlan(name, name, settings, maker)


def wanted(plan: PromptPlan, control: Control = "none") -> list[Prompt]:
    return [plan.maker.prompt(one, LENGTH, control) for one in plan.requests(LENGTH)]


def mesh_of(rank: int, size: int, gathered: Callable[[Any], list[Any]]) -> Any:
    return SimpleNamespace(
        rank=rank, world_size=size, together=lambda work: work(), gather_objects=gathered
    )


def on_ranks(plan: PromptPlan, size: int) -> list[PromptsOfLength]:
    """The prompts on every rank of a world, whose ranks run one after the other, twice: to send, and to receive."""
    sent: list[Any] = [None] * size

    def gathering(rank: int) -> Callable[[Any], list[Any]]:
        def gather(value: Any) -> list[Any]:
            if sent[rank] is None:
                sent[rank] = value
                raise InterruptedError
            return sent

        return gather

    for rank in range(size):
        with pytest.raises(InterruptedError):
            PromptsOfLength(plan, LENGTH, mesh_of(rank, size, gathering(rank)))
    return [PromptsOfLength(plan, LENGTH, mesh_of(n, size, gathering(n))) for n in range(size)]


def outlines(prompts: Sequence[Prompt]) -> list[Outline]:
    return [Outline(len(one.ids), one.answer, one.right) for one in prompts]


@pytest.mark.parametrize("name", NAMES)
def test_every_rank_has_the_outlines_of_all_prompts_and_makes_their_ids(name: str) -> None:
    plan = plan_of(name)
    for found in on_ranks(plan, 4):
        for control in CONTROLS:
            prompts = wanted(plan, control)
            assert found.prompts(control).outlines == outlines(prompts)
            for number, one in enumerate(prompts):
                assert found.prompts(control).ids(number).tolist() == one.ids.tolist()
        cut = [one.last_part(LAST) for one in wanted(plan)]
        assert found.last_parts().outlines == outlines(cut)
        some = found.last_parts().some([2, 1])
        assert some.outlines == [outlines(cut)[2], outlines(cut)[1]]
        assert some.read(0, 3, 9).tolist() == cut[2].ids[3:12].tolist()


def test_outlines_are_shared_work_and_few_prompts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_sets, "_KEPT_TOKENS", 3 * LENGTH)
    made: list[int] = []
    original = Maker.prompt

    def counted(self: Maker, *given: Any) -> Prompt:
        made.append(given[0].number)
        return original(self, *given)

    plan = plan_of("passkey")
    numbers = [one.number for one in plan.requests(LENGTH)]
    monkeypatch.setattr(Maker, "prompt", counted)
    first, _ = on_ranks(plan, 2)
    assert made == [*numbers[::2], *numbers[1::2]] * 2
    made.clear()
    for number in (5, 5, 4, 5, 4, 3, 5):  # three are kept
        first.prompts().read(number, 0, 8)
    assert made == [numbers[5], numbers[3]]  # 4 is one of its own part
    first.prompts().read(0, 0, 8)
    assert made[2:] == [numbers[0]]
