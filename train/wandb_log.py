"""The only import of wandb: one run per job, its id kept over resumes.

Offline runs with the same id are separate folders that `wandb sync` joins; online the server joins them.
"""

import secrets
from pathlib import Path
from typing import Any

from train.config import WandbConfig


class WandbLog:
    """Metrics of the main rank on Weights & Biases; disabled, it does nothing."""

    def __init__(
        self, config: WandbConfig, *, folder: Path, run_name: str, settings: dict[str, Any]
    ) -> None:
        """Open the run; its id is kept in the run's folder from its first start.

        Raises:
            ValueError: W&B refuses, for example online without a key.
        """
        self.run_id = ""
        self._run: Any = None
        if config.mode == "disabled":
            return
        import wandb

        self.run_id = _kept_id(folder / "wandb" / "run_id")
        try:
            self._run = self._open(wandb, config, folder, run_name, settings)
        except wandb.errors.Error as error:
            raise ValueError(
                f"logging.wandb.mode={config.mode}: W&B refuses ({error}); log in with `wandb login`, or "
                "set logging.wandb.mode=offline"
            ) from error
        self._run.define_metric("tokens_seen")
        self._run.define_metric("*", step_metric="tokens_seen")

    def _open(
        self, wandb: Any, config: WandbConfig, folder: Path, run_name: str, settings: dict[str, Any]
    ) -> Any:
        return wandb.init(
            project=config.project,
            entity=config.entity,
            name=run_name,
            id=self.run_id,
            resume="allow" if config.mode == "online" else None,
            dir=str(folder),
            mode="online" if config.mode == "online" else "offline",
            config=settings,
            settings=wandb.Settings(
                silent=True,
                console="off",
                # A killed run keeps what is older than this; W&B's own default is 15 s.
                x_transaction_log_flush_interval=1.0,
                x_disable_stats=False,
            ),
        )

    def step(self, row: dict[str, Any]) -> None:
        """Numbers of one optimizer step, at its step."""
        if self._run is not None:
            numbers = {
                key: value
                for key, value in _flat(row).items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
            self._run.log(numbers, step=row["step"])

    def evaluation(self, row: dict[str, Any]) -> None:
        """Numbers of one evaluation, under evaluation/."""
        if self._run is not None:
            named = {k: v for k, v in row.items() if k not in ("step", "position_buckets")}
            numbers = {
                f"evaluation/{key}": value
                for key, value in named.items()
                if isinstance(value, int | float)
            }
            for bucket in row["position_buckets"]:
                if bucket["loss"] is not None:
                    numbers[f"evaluation/loss_from_position_{bucket['start']}"] = bucket["loss"]
            self._run.log({**numbers, "tokens_seen": row["tokens_seen"]}, step=row["step"])

    def close(self, *, failed: bool = False) -> None:
        """End the run."""
        if self._run is not None:
            self._run.finish(exit_code=1 if failed else 0)


def _kept_id(path: Path) -> str:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(4))
    return path.read_text().strip()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key}/{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat
