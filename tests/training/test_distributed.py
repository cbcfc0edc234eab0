from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import lineas_core as lc
from lineas_core.training.distributed import Ranks, ranks
from tests.helpers.server import free_port

pytestmark = pytest.mark.thorough

WHOLE = lc.TrainConfig(steps=6, rate=0.05, batch_size=8, holdout=0, gamma=1e-3)
# Fewer rows than the set has, and an odd number, so that one process runs one row more.
PART = replace(WHOLE, batch_size=5)
PLUS = replace(PART, optimizer="adamw", rate=0.01, likelihood=2.0, distance=1.0)
RUNS = {
    "sgd": WHOLE,
    "sgd-part": PART,
    "sgd-last": replace(PART, pooling="last"),
    "adamw": replace(WHOLE, optimizer="adamw"),
    "adamw-part": replace(PART, optimizer="adamw", rate=0.01),
    "uneven": replace(WHOLE, batch_size=7, gamma=0.0),
    "measured": replace(WHOLE, rate=None),
}
# The rate is measured by differences of gradients, which double their rounding many times.
TOLERANCE = {"measured": 1e-2}


@dataclass(frozen=True)
class Task:
    """The work that both processes of a test do."""

    folder: Path
    model: str
    prompts: lc.PromptSet


def uneven(prompts: lc.PromptSet) -> lc.PromptSet:
    return replace(prompts, source=prompts.source[:7], target=prompts.target[:5])


def prompts_of(name: str, prompts: lc.PromptSet) -> lc.PromptSet:
    return uneven(prompts) if name == "uneven" else prompts


def in_one_of_two(rank: int, task: Task) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{task.folder}/meeting", rank=rank, world_size=2
    )
    model = lc.load_model(task.model, device="cpu")
    for name, config in RUNS.items():
        result = lc.train(model, prompts_of(name, task.prompts), config)
        result.map.save(task.folder / f"{name}-{rank}.safetensors")
        (task.folder / f"{name}-{rank}.json").write_text(json.dumps(result.losses))
    result = lc.train(model, task.prompts, PLUS, method="lineas+")
    result.map.save(task.folder / f"plus-{rank}.safetensors")
    trainer = lc.Trainer(model, task.prompts, RUNS["sgd-part"])
    for _ in range(2):
        trainer.step()
    trainer.state.save(task.folder / f"state-{rank}")
    # The processes disagree; rank 0 decides for both, or they would deadlock.
    answers = iter([False, rank == 0])
    stopped = lc.train(model, task.prompts, PART, should_stop=lambda: next(answers))
    assert len(stopped.losses) == 1
    gathers_with_gradient(rank)
    dist.destroy_process_group()


def gathers_with_gradient(rank: int) -> None:
    mine = ranks()
    assert (mine.index, mine.count, mine.first) == (rank, 2, rank == 0)
    whole = torch.arange(15.0).view(5, 3)
    own = whole[list(mine.share(range(5)))].requires_grad_()
    gathered = mine.gathered(own, 5)
    assert torch.equal(gathered, whole)
    (gathered * whole).sum().backward()
    assert torch.equal(own.grad, own.detach())
    with pytest.raises(lc.ConfigError, match="2 processes have 1 prompts a step"):
        mine.share([3])


@pytest.fixture(scope="module")
def two(
    small_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Task, lc.LanguageModel]:
    prompts = lc.PromptSet(
        name="letters",
        source=["abc abc", "aab", "a cab", "bac abba", "cc ab", "ab", "bb aa cc", "caba"],
        target=["xyz xyz", "xxy", "x zyx", "yzx xyyx", "zz xy", "xy", "yy xx zz", "zyxy"],
    )
    task = Task(tmp_path_factory.mktemp("two"), str(small_models["llama"]), prompts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        mp.spawn(in_one_of_two, (task,), nprocs=2)
    return task, lc.load_model(task.model, device="cpu")


def values_of(smap: lc.SteeringMap) -> torch.Tensor:
    return torch.cat([torch.cat([scale - 1, shift]) for scale, shift in smap.sites.values()])


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_learn_the_map_that_one_learns(
    two: tuple[Task, lc.LanguageModel], name: str
) -> None:
    task, model = two
    alone = lc.train(model, prompts_of(name, task.prompts), RUNS[name])
    maps = [lc.SteeringMap.load(task.folder / f"{name}-{rank}.safetensors") for rank in (0, 1)]
    assert torch.equal(*map(values_of, maps))
    expected = values_of(alone.map)
    assert float(expected.norm()) > 0.01
    tolerance = TOLERANCE.get(name, 1e-5)
    assert float((values_of(maps[0]) - expected).norm() / expected.norm()) < tolerance
    losses = [json.loads((task.folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]
    assert losses[0] == losses[1] == pytest.approx(alone.losses, rel=tolerance)


def test_two_processes_learn_the_likelihood_that_one_learns(
    two: tuple[Task, lc.LanguageModel],
) -> None:
    task, model = two
    maps = [lc.SteeringMap.load(task.folder / f"plus-{rank}.safetensors") for rank in (0, 1)]
    assert torch.equal(*map(values_of, maps))
    expected = values_of(lc.train(model, task.prompts, PLUS, method="lineas+").map)
    assert float((values_of(maps[0]) - expected).norm() / expected.norm()) < 1e-4


def test_a_run_of_two_processes_goes_on_in_one(two: tuple[Task, lc.LanguageModel]) -> None:
    task, model = two
    state = lc.TrainState.load(task.folder / "state-1")
    assert len(state.losses) == 2
    resumed = lc.train(model, task.prompts, RUNS["sgd-part"], state=state)
    expected = values_of(lc.train(model, task.prompts, RUNS["sgd-part"]).map)
    assert float((values_of(resumed.map) - expected).norm() / expected.norm()) < 1e-5


def test_one_process_has_all_rows_and_talks_to_nobody() -> None:
    alone = ranks()
    assert alone == Ranks(0, 1)
    assert alone.first
    assert list(alone.share([4, 2, 7])) == [4, 2, 7]
    rows = torch.ones(2, 3)
    assert alone.gathered(rows, 2) is rows
    alone.sum([rows])
    assert torch.equal(rows, torch.ones(2, 3))
    assert alone.as_first(0.5) == 0.5


def test_the_first_process_of_a_launch_writes_the_map(
    small_models: dict[str, Path], prompts: lc.PromptSet, tmp_path: Path
) -> None:
    port = str(free_port())
    letters = str(prompts.save(tmp_path / "letters.json"))
    settings = ("steps=3", "batch_size=5", "holdout=0", "rate=0.05")
    started = []
    for rank in range(2):
        # The environment that torchrun and accelerate launch set.
        launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
        launched |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
        command = [sys.executable, "-m", "lineas_core", "train", letters, "--json"]
        command += ["-o", str(tmp_path / f"{rank}.safetensors"), "--device", "cpu"]
        command += ["-m", str(small_models["llama"])]
        command += [word for setting in settings for word in ("--set", setting)]
        environment = {**os.environ, **launched, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        )
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert json.loads(said[0][0])["steps"] == 3
    assert said[1][0] == ""
    assert not (tmp_path / "1.safetensors").exists()
    model = lc.load_model(str(small_models["llama"]), device="cpu")
    config = lc.TrainConfig(steps=3, batch_size=5, holdout=0, rate=0.05)
    expected = values_of(lc.train(model, prompts, config).map)
    found = values_of(lc.SteeringMap.load(tmp_path / "0.safetensors"))
    assert float((found - expected).norm() / expected.norm()) < 1e-5
