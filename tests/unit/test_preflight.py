"""The preflight's judgement, on invented worlds: three hosts of four ranks with one thing wrong, or several."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from parallel.links import MEASURED, GroupTest
from parallel.topology import Topology
from train.configuration.schema import PreflightConfig
from train.preflight.facts import CorpusFiles, Facts, Gpu, GpuState, Site, Trial
from train.preflight.judge import Verdict, judge

HOSTS, RANKS = 3, 4
TOPOLOGY = Topology(tensor=2, sequence=2, data=3)
GROUPS = ("control", "world", "checkpoint", "tensor", "sequence", "window", "zero", "model")
MEGABYTES = 4 << 20


class World:
    """Facts and trials of all ranks; a fault is planted by changing some."""

    def __init__(self, hosts: int, ranks: int, topology: Topology, *, gpus: bool = False) -> None:
        self.topology = topology
        self.facts = [_facts(rank, ranks, gpus) for rank in range(hosts * ranks)]
        self.trials = [_trial(rank) for rank in range(hosts * ranks)]

    def change(self, *ranks: int, **changes: Any) -> None:
        for rank in ranks:
            self.facts[rank] = replace(self.facts[rank], **changes)

    def change_site(self, host: int, **changes: Any) -> None:
        site = self.facts[host * RANKS].site
        assert site is not None
        self.change(host * RANKS, site=replace(site, **changes))

    def change_gpu(self, rank: int, **changes: Any) -> None:
        gpu = self.facts[rank].gpu
        assert gpu is not None
        self.change(rank, gpu=replace(gpu, **changes))

    def change_test(self, rank: int, name: str, **changes: Any) -> None:
        groups = [
            replace(test, **changes) if test.name == name else test
            for test in self.trials[rank].groups
        ]
        self.trials[rank] = replace(self.trials[rank], groups=groups)

    def verdict(self) -> Verdict:
        """Judged as the main rank does, after a journey through JSON."""
        facts = [Facts.from_json(json.loads(json.dumps(f.to_json()))) for f in self.facts]
        trials = [Trial.from_json(json.loads(json.dumps(t.to_json()))) for t in self.trials]
        random.Random(1).shuffle(facts)  # they come as they come
        found, content = judge(
            facts, trials, [self.topology], limits=PreflightConfig(), rank_bytes=1e9
        )
        json.dumps(content, allow_nan=False)
        return found


def _facts(rank: int, ranks: int, gpus: bool) -> Facts:
    host, local = divmod(rank, ranks)
    site = Site(
        versions={"python": "3.11.7", "torch": "2.13.0", "NCCL": "2.27.3"},
        code="c0de" * 16,
        commit="0123456789",
        folder="/home/run",
        problems=[],
        corpora={"web": CorpusFiles("corpus/web", "aaaa1111", "beef", 10**9)},
        output_problem="",
        memory_available=64 << 30,
        shared_memory_free=8 << 30,
        temporary_free=8 << 30,
        num_gpus=ranks if gpus else 0,
        gpus={f"{host}-{n}": GpuState("550.54", 40, 0, 0) for n in range(ranks)} if gpus else {},
    )
    gpu = Gpu(f"{host}-{local}", "H200", 140 << 30, 1 << 30, flops=7e14)
    return Facts(
        rank=rank,
        host=f"n{host + 1}",
        machine=f"boot{host}",
        local_rank=local,
        local_size=ranks,
        world_size=HOSTS * RANKS,
        cores=f"0-{4 * ranks - 1}",
        threads=4,
        device="cuda" if gpus else "cpu",
        gpu=gpu if gpus else None,
        site=site if local == 0 else None,
    )


def _trial(rank: int) -> Trial:
    clock = [(1000.0 + n, 1000.001 + n) for n in range(4)]
    tests = [
        GroupTest(name, MEGABYTES, 1e-4, 8e-3, 4e-3)
        if name in MEASURED
        else GroupTest(name, 0, 1e-4)
        for name in GROUPS
    ]
    return Trial(rank, clock, tests)


def cpu_world() -> World:
    return World(HOSTS, RANKS, TOPOLOGY)


def gpu_world() -> World:
    return World(HOSTS, RANKS, TOPOLOGY, gpus=True)


def version(world: World) -> None:
    world.change_site(1, versions={"python": "3.11.7", "torch": "2.12.0", "NCCL": "2.27.3"})


def missing_package(world: World) -> None:
    world.change_site(2, versions={"python": "3.11.7", "torch": "2.13.0"})


def code(world: World) -> None:
    world.change_site(2, code="bad" * 21, commit="fedcba9876", folder="/home/old")


def missing_data(world: World) -> None:
    for host in (1, 2):
        world.change_site(host, problems=["data.heldout=corpus/held: no corpus/held.bin; make it"])


def other_data(world: World) -> None:
    world.change_site(1, corpora={"web": CorpusFiles("corpus/web", "bbbb2222", "beef", 10**9 + 5)})


def other_tokenizer(world: World) -> None:
    world.change_site(1, corpora={"web": CorpusFiles("corpus/web", "bbbb2222", "dead", 10**9)})


def damaged_data(world: World) -> None:
    corpus = CorpusFiles(
        "corpus/web", "", "", 0, "corpus/web.bin: damaged between byte 0 and byte 9"
    )
    world.change_site(2, corpora={"web": corpus})


def other_output(world: World) -> None:
    world.change_site(1, output_problem="/home/run/outputs/a is not the folder that the main rank")


def clock(world: World) -> None:
    for rank in range(8, 12):
        ahead = [(before + 7.5, after + 7.5) for before, after in world.trials[rank].clock]
        world.trials[rank] = replace(world.trials[rank], clock=ahead)


def absent_rank(world: World) -> None:
    del world.facts[7], world.trials[7]


def lost_rank(world: World) -> None:
    """It gave its facts and then hung: its groups fail, for which it alone is to blame."""
    for rank in (4, 8):
        world.change_test(rank, "zero", error="an all-reduce did not end (timed out)")
    del world.trials[6]


def local_ranks(world: World) -> None:
    world.change(9, local_rank=3)


def told_size(world: World) -> None:
    world.change(*range(4, 8), local_size=8)


def uneven(world: World) -> None:
    """Rank 7 of n2 is on n3."""
    world.change(7, host="n3", machine="boot2", local_rank=4, local_size=None)
    world.change(*range(4, 12), local_size=None)


def dead_link(world: World) -> None:
    world.change_test(
        4, "zero", error="no message from rank 2 (timed out)", silent_peer=2, ring=0.0
    )
    for rank in (0, 2, 6, 8, 10):
        world.change_test(rank, "zero", error="an all-reduce did not end (timed out)")


def wrong_sum(world: World) -> None:
    for rank in (10, 11):
        world.change_test(rank, "tensor", error="an all-reduce gave another sum")


def silent_control(world: World) -> None:
    for rank in range(12):
        world.change_test(rank, "control", error="an all-reduce did not end (timed out)")


def shared_gpu(world: World) -> None:
    world.change_gpu(6, uuid="1-1")


def wrong_product(world: World) -> None:
    world.change_gpu(3, wrong=True)


def taken_gpu(world: World) -> None:
    world.change_gpu(3, used_by_others=90 << 30)


def memory_errors(world: World) -> None:
    world.change_site(1, gpus={"1-2": GpuState("550.54", 40, 3, 0)})


PROBLEMS: list[tuple[Callable[[World], None], str, str]] = [
    (version, "n2: ", "torch 2.12.0, the others have 2.13.0"),
    (missing_package, "n3: ", "NCCL none, the others have 2.27.3"),
    (code, "n3: ", "/home/old: badbadbadb (commit fedcba9876), the others have c0dec0dec0"),
    (missing_data, "n2, n3: ", "data.heldout=corpus/held: no corpus/held.bin"),
    (other_data, "n2: ", "corpus/web: other token files"),
    (other_tokenizer, "n2: ", "corpus/web: made with another tokenizer"),
    (damaged_data, "n3: ", "corpus/web.bin: damaged between byte 0"),
    (other_output, "n2: ", "is not the folder that the main rank"),
    (clock, "n3: ", "7.5 s ahead of the main rank's"),
    (absent_rank, "rank 7 said nothing", "stopped, dead, or cut off"),
    (lost_rank, "n2 (rank 6): ", "fell silent"),
    (local_ranks, "n3: ", "local ranks are 0, 2, 3, 3, not 0-3"),
    (told_size, "n2: ", "the launcher says 8 ranks here, there are 4"),
    (
        dead_link,
        "n1 (rank 2), n2 (rank 4): ",
        "(ranks 0, 2, 4, 6, 8, 10): rank 2 on n1 -> rank 4 on n2: no message from rank 2",
    ),
    (
        wrong_sum,
        "n3 (ranks 10-11): ",
        "axis tensor cannot talk (ranks 10-11): rank 10 on n3: an all",
    ),
    (silent_control, "all 3 hosts: ", "axis control cannot talk (ranks 0-11)"),
    (shared_gpu, "n2 (ranks 5-6): ", "ranks 5-6 are on one GPU, 1-1"),
    (wrong_product, "n1 (rank 3): ", "GPU 0-3 multiplies wrong"),
    (taken_gpu, "n1 (rank 3): ", "96.6 of 150.3 GB of GPU 0-3 are taken by another process"),
    (memory_errors, "n2 (rank 6): ", "GPU 1-2 has 3 uncorrected memory error(s)"),
]


@pytest.mark.parametrize("world", [cpu_world(), gpu_world()], ids=["cpu", "gpu"])
def test_a_sound_world_passes_and_its_slowest_link_is_named(world: World) -> None:
    world.change_test(2, "zero", ring=5e-3)
    found = world.verdict()
    assert (found.problems, found.warnings, found.broken) == ([], [], False)
    assert found.summary == (
        "preflight: 3 hosts, 12 ranks, sound; slowest link, on axis zero (data x sequence): rank 0 on n1 "
        "-> rank 2 on n1 carries 0.84 GB/s"
    )


@pytest.mark.parametrize(
    ("plant", "who", "what"), PROBLEMS, ids=lambda p: getattr(p, "__name__", "")
)
def test_one_fault_gives_one_line_that_names_the_host(
    plant: Callable[[World], None], who: str, what: str
) -> None:
    world = gpu_world()
    plant(world)
    found = world.verdict()
    assert len(found.problems) == 1, found.problems
    assert found.problems[0].startswith(who)
    assert what in found.problems[0]
    assert "\n" not in found.problems[0]


def test_all_faults_are_told_at_once_host_after_host() -> None:
    several = [p for p in PROBLEMS if p[0] not in (missing_package,)]
    several = [p for p in several if p[0] not in (absent_rank, lost_rank, silent_control)]
    several = [p for p in several if p[0] not in (damaged_data, memory_errors, other_tokenizer)]
    world = gpu_world()
    for plant, _, _ in several:
        plant(world)
    found = world.verdict()
    for _, who, what in several:
        assert any(line.startswith(who) and what in line for line in found.problems), what
    assert len(found.problems) == len(several)
    heads = [line[:2] for line in found.problems]
    assert heads == sorted(heads)


def test_a_rank_on_the_wrong_host_is_seen_from_both() -> None:
    world = cpu_world()
    uneven(world)
    three, five = sorted(world.verdict().problems)
    assert three.startswith("n2: 3 rank(s) on this host, 4 on most")
    assert five.startswith("n3: 5 rank(s) on this host")


def test_ranks_that_are_shown_one_gpu_each_are_all_number_0() -> None:
    world = gpu_world()
    world.change(*range(12), local_rank=0, local_size=None)
    assert world.verdict().problems == []


def test_broken_groups_are_known_from_faults_that_leave_them_whole() -> None:
    for plant, broken in ((version, False), (clock, False), (dead_link, True), (lost_rank, True)):
        world = cpu_world()
        plant(world)
        assert world.verdict().broken is broken, plant.__name__


@pytest.mark.parametrize(
    ("rank", "changes", "says"),
    [
        (
            5,
            {"flops": 3.5e14},
            "n2 (rank 5): GPU 1-1 multiplies at 350.0 TFLOP/s, 2.0 times slower",
        ),
        (5, {"name": "A100", "total": 80 << 30}, "n2 (rank 5): A100 with 86 GB, most have H200"),
        (5, {"used_by_others": 9 << 30}, "n2 (rank 5): another process holds 9.7 GB of GPU 1-1"),
    ],
)
def test_a_gpu_unlike_the_others_is_warned_of(
    rank: int, changes: dict[str, Any], says: str
) -> None:
    world = gpu_world()
    world.change_gpu(rank, **changes)
    found = world.verdict()
    assert found.problems == []
    assert [line[: len(says)] for line in found.warnings] == [says]


def test_what_nvidia_smi_reports_is_warned_of() -> None:
    world = gpu_world()
    states = {"2-0": GpuState("535.1", 95, None, 0x04), "2-1": GpuState("535.1", None, 0, 0x48)}
    world.change_site(2, gpus=states, num_gpus=8)
    found = world.verdict()
    assert found.problems == []
    assert found.warnings == [
        "n3: 4 of 8 GPUs are not used",
        "n3 (rank 8): GPU 2-0 is at 95 degrees Celsius",
        "n3 (rank 9): GPU 2-1 is slowed down: hardware slowdown, hardware thermal slowdown",
        "n3: driver 535.1, the others have 550.54; install the same on every host",
    ]


def test_a_link_is_compared_with_links_of_its_kind() -> None:
    world = cpu_world()
    for rank in (0, 1, 4, 5, 8, 9):  # the first of their groups on their hosts
        world.change_test(rank, "zero", ring=40e-3)
    assert world.verdict().warnings == []
    world.change_test(8, "zero", ring=400e-3)
    (line,) = world.verdict().warnings
    assert line == (
        "axis zero (data x sequence): rank 6 on n2 -> rank 8 on n3 carries 0.01 GB/s, 10.0 times slower than "
        "the median of such links, 0.10 GB/s"
    )
    rows = [row.split() for row in world.verdict().tables.splitlines()]
    assert ["zero", "(data", "x", "sequence)", "6", "2", "100"] in [row[:7] for row in rows]


def test_a_tensor_axis_that_leaves_its_host_is_warned_of_with_a_better_layout() -> None:
    world = World(HOSTS, RANKS, Topology(tensor=6, data=2))
    world.trials = [Trial(rank) for rank in range(12)]
    (line,) = world.verdict().warnings
    assert line.startswith("parallel.tensor=6 does not fit into a host")
    assert "better parallel.tensor=2 with 3 times the sequence" in line


def test_ranks_dealt_in_turn_are_warned_of() -> None:
    world = cpu_world()
    for rank in range(12):
        host = rank % HOSTS
        world.change(rank, host=f"n{host + 1}", machine=f"boot{host}", local_rank=rank // HOSTS)
    (line,) = (w for w in world.verdict().warnings if "in turn" in w)
    assert "n1 has 0, 3, 6, 9" in line


def test_crowded_cores_and_full_disks_are_warned_of() -> None:
    world = cpu_world()
    world.change(*range(4), threads=8)
    world.change_site(1, temporary_free=50 << 20)
    world.change_site(2, memory_available=1 << 30)
    found = world.verdict()
    assert found.problems == []
    assert found.warnings == [
        "n1: 32 threads of 4 rank(s) share 16 core(s); set OMP_NUM_THREADS=4",
        "n2: the folder for temporary files has 52 MB free; free some, or set TMPDIR",
        "n3: 1.1 GB of memory are left; weights, gradients and optimizer states of 4 rank(s) take 4.0 GB at least",
    ]


def test_hosts_of_one_name_are_told_apart() -> None:
    world = cpu_world()
    world.change(*range(12), host="localhost")
    version(world)
    (line,) = world.verdict().problems
    assert line.startswith("localhost (2): torch 2.12.0")
