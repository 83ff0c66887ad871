"""All rules of a run that involve several fields. All violations are reported together, before any work.

Rules about one part stand beside the dataclass of that part; rules that need the world size, several parts, or free
disk space stand here. `warnings` come from published results and do not stop a run.
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence

from data.config import heldout_key
from data.tokens.declared import HELDOUT, Declared, disagreements, read_declared
from model.attention.backends import backend_problem
from model.config import ModelConfig
from model.huggingface.takers import refusal
from model.layer_pattern import LayerSpec, expand_pattern
from parallel.config import ParallelConfig
from parallel.engine.groups import group_problems
from parallel.pipeline.split import pipeline_problems
from parallel.regions import regions_obstacle
from parallel.sequence.dealing import dealing_problem
from parallel.tensor.cut import tensor_problems
from train.checkpointing.continuation import find_resume, obstacles
from train.checkpointing.state import read_state
from train.configuration.accuracy_rules import accuracy_problems
from train.configuration.bound_warnings import bound_warnings
from train.configuration.generated_rules import generated_warnings, id_problems
from train.configuration.long_context_rules import long_ce_problems, long_perplexity_problems
from train.configuration.prompt_rules import prompt_problems
from train.configuration.ramp_warnings import ramp_warnings
from train.configuration.room import room_problems
from train.configuration.rotation_warnings import rotation_warnings
from train.configuration.scale_warnings import scale_warnings
from train.configuration.schema import RunConfig, run_folder
from train.configuration.typed import still_judged
from train.schedule.saving import steps_between_checkpoints
from train.schedule.stages import Schedule, build_schedule

# File systems allow 255 bytes.
MOST_NAME_BYTES = 200


def problems(config: RunConfig, world_size: int) -> list[str]:
    """Returns every reason why this run cannot start on `world_size` ranks, one line each."""
    return rules(config, world_size) + places(config)


def rules(config: RunConfig, world_size: int, wrong: Collection[str] = ()) -> list[str]:
    """Returns the violations that do not depend on the host.

    wrong: keys whose given values were wrong and are replaced in `config`. Violations that name them are left out.
    """
    return still_judged(_rules(config, world_size), wrong)


def _rules(config: RunConfig, world_size: int) -> list[str]:
    found = config.model.problems() + config.data.rules() + config.parallel.problems()
    found += _name_problems(config) + _start_problems(config)
    found += _recompute_problems(config) + _backend_problems(config) + id_problems(config)
    found += accuracy_problems(config) + prompt_problems(config)
    if not config.model.problems():
        found += group_problems(config.model, config.optimizer.groups)
    config = _with_a_sound_model(config)
    schedule, mistakes = build_schedule(config)
    found += mistakes
    if schedule is not None:
        found += _layout_problems(config, schedule, world_size) + _spike_problems(config, schedule)
        found += long_perplexity_problems(config, schedule) + long_ce_problems(config, schedule)
    return found


def shape_rules(config: RunConfig) -> tuple[Schedule | None, list[str]]:
    """Returns the resolved schedule, and the violations of rules about model and schedule alone; None if there are."""
    found = config.model.problems() + _start_problems(config)
    schedule, mistakes = build_schedule(_with_a_sound_model(config))
    found += mistakes
    return (None if found else schedule), found


def _with_a_sound_model(config: RunConfig) -> RunConfig:
    """Returns the run, with another model if its own breaks rules: the schedule's rules are checked all the same."""
    return dataclasses.replace(config, model=ModelConfig()) if config.model.problems() else config


def _start_problems(config: RunConfig) -> list[str]:
    if 0.0 < (base := config.schedule.start_base) <= 1.0:
        return [f"schedule.start_base={base}: must be above 1; give 0 for none"]
    return []


def places(config: RunConfig, *, room: bool = True) -> list[str]:
    """Returns what is missing on this host. room: also check the free disk space for checkpoints."""
    return files(config) + (room_problems(config) if room else [])


def token_files(config: RunConfig) -> list[str]:
    """Returns what is wrong, on this host, with the token files that the configuration names."""
    return _source_problems(config)[1]


def files(config: RunConfig) -> list[str]:
    """Returns what is wrong, on this host, with the token files and with the checkpoint to resume from."""
    sources, found = _source_problems(config)
    return found + _resume_problems(config, [] if found else sources)


def warnings(config: RunConfig, schedule: Schedule) -> list[str]:
    """Returns warnings from published results and about lost work; they do not stop the run."""
    found = _saving_warnings(config, schedule) + _export_warnings(schedule)
    found += rotation_warnings(config, schedule) + _chunk_warnings(config, schedule)
    found += bound_warnings(config, schedule) + scale_warnings(schedule)
    found += ramp_warnings(config, schedule)
    found += generated_warnings(config, schedule)
    specs = [schedule.at_end_of(stage).at.specs.values() for stage in schedule.stages]
    first = schedule.stages[0].base.corners[0][1]
    bases = [
        corner[1]
        for stage in schedule.stages
        if _is_windowed_hybrid(specs[stage.index])
        for corner in stage.base.corners
    ]
    if max(bases, default=0.0) > 1.001 * max(first, 10_000.0):
        found.append(
            f"rope_base rises to {max(bases):g}: in a windowed hybrid a higher base hurts retrieval "
            "(RNoPE-SWA, arXiv 2501.18795: needles 8.0 at 1e4, 6.2 at 4e6); keep it and let the NoPE "
            "layers carry the length"
        )
    return found


def _is_windowed_hybrid(specs: Iterable[LayerSpec]) -> bool:
    """Whether layers of limited reach rotate, and layers that see the whole document do not."""
    kinds = {(spec.rope is not None, spec.reach.limit is not None) for spec in specs}
    return {(True, True), (False, False)} <= kinds


def _chunk_warnings(config: RunConfig, schedule: Schedule) -> list[str]:
    """Warns of attention chunks that mask nothing in any stage."""
    longest = max(stage.shape.sequence_length for stage in schedule.stages)
    chunks = {spec.kind: spec.chunk for spec in expand_pattern(config.model) if spec.chunk}
    return [
        f"attention chunks of {chunk:,} tokens in {kind} layers mask nothing in sequences of up to {longest:,} tokens: "
        "the layers see the whole document; use a smaller chunk, or a full kind"
        for kind, chunk in chunks.items()
        if chunk >= longest
    ]


def _saving_warnings(config: RunConfig, schedule: Schedule) -> list[str]:
    """Warns of the steps that a run without checkpoints inside its stages may lose."""
    longest = max(schedule.stages, key=lambda stage: stage.num_steps)
    steps = min(longest.num_steps, config.train.max_steps or longest.num_steps)
    if steps_between_checkpoints(config) or steps < 2:
        return []
    return [
        f"checkpoint.every_steps=0: nothing is saved inside a stage; a run that is killed in {longest.name} loses "
        f"up to {steps:,} steps; leave checkpoint.every_steps out, or give a number"
    ]


def _export_warnings(schedule: Schedule) -> list[str]:
    """Warns that no Hugging Face family takes the model as of the last step, with the reason."""
    last = schedule.at_end_of(schedule.stages[-1])
    why = refusal(last.model, last.rope_base)
    return [f"{why}: ropewalk export will refuse this model"] if why else []


def _name_problems(config: RunConfig) -> list[str]:
    name = config.run_name
    if (
        name
        and "/" not in name
        and not name.startswith(".")
        and len(name.encode()) <= MOST_NAME_BYTES
    ):
        return []
    return [
        f"run_name={name!r}: must be a plain folder name of at most {MOST_NAME_BYTES} bytes, such as my_run"
    ]


def _source_problems(config: RunConfig) -> tuple[list[Declared], list[str]]:
    """Returns what the token files declare, and why the run cannot read them, as far as the manifests show."""
    if missing := config.data.missing():
        return [], missing
    found, problems = read_declared(config.data)
    if not problems and found:
        problems = disagreements(found, config.model.vocab_size)
    apart = {HELDOUT, *map(heldout_key, config.data.heldout_of_sources)}
    return [one for one in found if one.key not in apart], problems


def _resume_problems(config: RunConfig, sources: Sequence[Declared]) -> list[str]:
    """Returns why the run cannot resume from its own newest checkpoint, or from the one that is named.

    sources: the training files; empty if they are not known.
    """
    if len(config.run_name.encode()) > MOST_NAME_BYTES:
        return []  # no file system has such a folder, and looking into it raises
    try:
        path = find_resume(config)
    except ValueError as error:
        return [str(error)]
    if path is None:
        return []
    try:
        state = read_state(path)
    except ValueError as error:
        # A damaged checkpoint of the run's own is renamed at the start, and the one before it is used.
        of_this_run = path.parent.resolve() == (run_folder(config) / "checkpoints").resolve()
        return [] if of_this_run else [f"checkpoint.resume={config.checkpoint.resume}: {error}"]
    schedule = None if config.model.problems() else build_schedule(config)[0]
    if schedule is None:
        return []
    found = obstacles(config, schedule, state, sources)
    return [f"checkpoint {path.name}: {line}" for line in found]


def _backend_problems(config: RunConfig) -> list[str]:
    """Returns why the attention backend cannot run on the named device. A host's own lacks are found at the start."""
    model, train = config.model, config.train
    if train.device not in ("cpu", "cuda") or model.problems():
        return []
    problem = backend_problem(
        model.attention_backend,
        train.device,
        train.precision,
        model.head_dim,
        model.attention_softcap,
    )
    return [f"model.{problem}"] if problem else []


def _recompute_problems(config: RunConfig) -> list[str]:
    """Returns what is wrong with keep_for_backward and recompute_layers for this model."""
    found = []
    model = config.model
    if config.train.keep_for_backward == "tiles" and (
        model.activation != "silu" or model.feed_forward_bias
    ):
        found.append(
            f"train.keep_for_backward=tiles: is for plain SwiGLU, not for model.activation={model.activation} with "
            f"model.feed_forward_bias={model.feed_forward_bias}; use input_on_cpu"
        )
    layers = config.train.recompute_layers
    if layers is not None and layers > config.model.num_layers:
        found.append(
            f"train.recompute_layers={layers}: the model has {config.model.num_layers} layers; use at most that"
        )
    return found


def _spike_problems(config: RunConfig, schedule: Schedule) -> list[str]:
    """Returns why the spike detector would never compare a loss, or could not carry out its action."""
    spikes, keep = config.train.spikes, config.checkpoint.keep
    every = steps_between_checkpoints(config)
    if spikes.action == "ignore":
        return []
    found = []
    longest = max(stage.num_steps for stage in schedule.stages)
    if longest <= spikes.window // 2:
        found.append(
            f"train.spikes.window={spikes.window}: nothing is judged in the first {spikes.window // 2} steps "
            f"of a stage, and the longest has {longest}; use a smaller one, or train.spikes.action=ignore"
        )
    if spikes.action == "skip" and config.train.max_skipped_steps < 1:
        found.append(
            "train.spikes.action=skip: must come with train.max_skipped_steps of at least 1; set that, or "
            "use stop"
        )
    if spikes.action == "rollback" and not every:
        found.append(
            "train.spikes.action=rollback: has no checkpoint near enough to go back to; set "
            "checkpoint.every_steps"
        )
    elif spikes.action == "rollback" and (keep - 1) * every < spikes.patience - 1:
        found.append(
            f"train.spikes.patience={spikes.patience}: checkpoint.keep={keep} of every {every} steps do not "
            "reach back before the first of these spikes; keep more, or save less often"
        )
    return found


def _layout_problems(config: RunConfig, schedule: Schedule, world_size: int) -> list[str]:
    """Returns how layouts do not fit the world size, the model or the batches of a stage; each line once."""
    found: dict[str, None] = {}
    for stage in schedule.stages:
        key = f"schedule.stages.{stage.name}"
        overlaid = f"{key}." if config.schedule.stages[stage.name].parallel else ""
        layout = stage.parallel
        if layout.problems():  # reported as the run's, or as the overlay's
            continue
        problem = layout.world_problem(world_size)
        if problem:
            found[f"{overlaid}{problem}"] = None
            continue
        if layout.zero_stage == 0 and config.train.precision != "float32":
            found[
                f"{overlaid}parallel.zero_stage=0: with train.precision={config.train.precision} there "
                "would be no float32 master weights; use zero_stage=1, or train.precision=float32"
            ] = None
        data_size = layout.topology(world_size).data
        backend = config.model.attention_backend
        if layout.sequence > 1 and backend != "auto":
            found[
                f"model.attention_backend={backend}: has no effect with parallel.sequence="
                f"{layout.sequence}, where the ring chooses its kernels; use auto"
            ] = None
        if layout.zero_stage == 3 and config.train.keep_for_backward == "tiles":
            found[
                f"{overlaid}parallel.zero_stage=3: with train.keep_for_backward=tiles a layer needs its whole "
                "weights at hand; use zero_stage=2, or keep_for_backward=input_on_cpu"
            ] = None
        why = regions_obstacle(layout)
        if config.train.compile_regions == "always" and why:
            found[f"{overlaid}train.compile_regions=always: {why}; use auto"] = None
        problems = tensor_problems(config.model, layout.tensor)
        if layout.pipeline > 1:
            problems += pipeline_problems(
                config.model,
                layout,
                micro_batches=stage.shape.num_micro_batches(data_size),
                keep_for_backward=config.train.keep_for_backward,
            )
        found |= {f"{overlaid}{problem}": None for problem in problems}
        found |= {
            f"{key}.{problem}": None
            for problem in stage.shape.problems(data_size)
            + _stream_problems(layout, stage.shape.micro_batch_tokens)
        }
    return list(found)


def _stream_problems(layout: ParallelConfig, micro_batch_tokens: int) -> list[str]:
    """Returns why streams of this length cannot be divided among sequence and tensor ranks."""
    found = []
    dealt = dealing_problem(layout.sequence_layout, micro_batch_tokens, layout.sequence)
    if layout.sequence > 1 and dealt is not None:
        found.append(f"micro_batch_tokens={micro_batch_tokens}: {dealt}")
    ranks = layout.sequence * layout.tensor
    if layout.tensor > 1 and micro_batch_tokens % ranks:
        below = micro_batch_tokens // ranks * ranks
        found.append(
            f"micro_batch_tokens={micro_batch_tokens}: must be a multiple of sequence x tensor = {ranks}; "
            f"use {below or ranks} or {below + ranks}"
        )
    return found
