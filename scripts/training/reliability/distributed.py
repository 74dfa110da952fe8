"""What several processes tell each other."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.parallel import DistributedDataParallel

from scripts.training.reliability.errors import TrainingError


def world() -> tuple[int, int]:
    """Return rank and number of processes; 0 and 1 without others."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def rejoin(backend: str) -> None:
    """Let the processes that torchrun has started again find each other.

    torchrun 2.14 keeps its store from one attempt to the next, and with it the addresses of
    processes that are gone, for which new ones then wait for ever (pytorch issue 135712). So they
    meet under a name of their own. The count of attempts is shared within one machine only: with
    more, set ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`` for torchrun.
    """
    env = os.environ
    attempt = int(env.get("TORCHELASTIC_RESTART_COUNT", "0"))
    kept = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    met = dist.is_available() and dist.is_initialized()
    if attempt == 0 or met or not kept or env.get("GROUP_WORLD_SIZE") != "1":
        return
    store = dist.TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False)
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(f"attempt {attempt}", store),
        rank=int(env["RANK"]),
        world_size=int(env["WORLD_SIZE"]),
    )


def gather(value: Any) -> list[Any]:
    """Return the values of all processes in the order of their ranks, in each of them."""
    _, size = world()
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values


def sync_buffers(module: LightningModule) -> None:
    """Let all ranks validate the buffers of the first, which are those that are saved.

    In training, DDP does this before each forward. It must not in validation, where the ranks have
    unequal numbers of batches and one would wait for the others for ever.
    """
    wrapped = module.trainer.strategy.model
    if isinstance(wrapped, DistributedDataParallel):
        for buffer in module.network.buffers():
            dist.broadcast(buffer, 0)
        wrapped.require_forward_param_sync = False  # the next training forward sets it again


class SameEverywhere(Callback):
    """Refuses to train where the processes were started with different things."""

    def __init__(self, settings: dict[str, Any]):
        own = ("command", "trainer")  # devices may differ from machine to machine, and paths
        self.settings = {key: value for key, value in settings.items() if key not in own}
        data = settings["data"].items()
        self.settings["data"] = {key: value for key, value in data if key not in ("root", "zip")}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare configuration, data, code and the version of torch."""
        if trainer.world_size == 1:
            return
        facts = {
            "configuration": json.dumps(self.settings, sort_keys=True),
            "data": trainer.datamodule.fingerprint(),
            "code": _code_digest(),
            "torch": torch.__version__,
        }
        for name, values in {n: gather(facts[n]) for n in facts}.items():
            if len(set(values)) > 1:
                ranks = [rank for rank, value in enumerate(values) if value != values[0]]
                raise TrainingError(f"the {name} of ranks {ranks} is not that of rank 0")


def _code_digest() -> str:
    root = Path(__file__).resolve().parents[3]
    digest = hashlib.sha256()
    for folder in ("scripts", "datasets", "mgic_geo", "mgic_vision"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
