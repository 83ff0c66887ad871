"""Logs to Weights & Biases: one W&B run for the whole run, with the same id after a resume. The only import of wandb.

Offline runs with the same id are separate folders that `wandb sync` joins; online the server joins them.
An error of W&B ends the logging, not the run: metrics.jsonl has every row.
"""

import re
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from data.files import reason, write_durably
from train.configuration.schema import WandbConfig

_ID = re.compile(r"[0-9a-f]{8}")
# The axis of evaluations: tokens seen.
_EVALUATED_AT = "evaluation/tokens_seen"


class WandbLog:
    """Logs metrics of the main rank to Weights & Biases; with mode=disabled it does nothing."""

    def __init__(
        self, config: WandbConfig, *, folder: Path, run_name: str, settings: dict[str, Any]
    ) -> None:
        """Opens the W&B run; its id is kept in the run's folder from the first start.

        Raises:
            ValueError: W&B raised an error, for example online without a key.
        """
        self.run_id = ""
        # Steps that rollbacks abandoned: W&B drops values logged at an earlier step than the last, so its step
        # counter continues when that of the run goes back.
        self.abandoned_steps = 0
        self._run: Any = None
        self._news: deque[str] = deque()
        if config.mode == "disabled":
            return
        import wandb

        self._wandb = wandb
        try:
            self.run_id = self._kept_id(folder / "wandb" / "run_id")
            self._run = self._open(wandb, config, folder, run_name, settings)
        except OSError as error:
            self._give_up(reason(error))
            return
        except wandb.errors.Error as error:
            raise ValueError(
                f"logging.wandb.mode={config.mode}: W&B refuses ({error}); log in with `wandb login`, or "
                "set logging.wandb.mode=offline"
            ) from error
        self._run.define_metric("tokens_seen")
        self._run.define_metric("*", step_metric="tokens_seen")
        self._run.define_metric(_EVALUATED_AT)
        self._run.define_metric("evaluation/*", step_metric=_EVALUATED_AT)

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
                # A killed run loses at most this many seconds of rows; W&B's own default is 15 s.
                x_transaction_log_flush_interval=1.0,
                x_disable_stats=False,
            ),
        )

    def step(self, row: dict[str, Any]) -> None:
        """Logs the numbers of one optimizer step, at its step."""
        if self._run is not None:
            numbers = {
                key: value
                for key, value in _flat(row).items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
            self._keep_going(lambda: self._log(numbers, row["step"]))

    def evaluation(
        self,
        row: Mapping[str, Any],
        numbers: Mapping[str, float],
        table: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Logs the numbers of one evaluation, under evaluation/, with evaluation/tokens_seen as their axis.

        They stand at W&B's step of the last row of training and never raise it: one that is repeated after a restart
        is logged although W&B has later steps already.

        table: lines of all evaluations of the row's task so far, under evaluation/TASK_table.
        """
        if self._run is None:
            return
        named: dict[str, Any] = {f"evaluation/{name}": value for name, value in numbers.items()}
        named[_EVALUATED_AT] = row["tokens_seen"]

        def log() -> None:
            if table:
                lines = [list(line.values()) for line in table]
                made = self._wandb.Table(columns=list(table[0]), data=lines)
                named[f"evaluation/{row['task']}_table"] = made
            self._run.log(named, step=max(self._run.step, row["step"] + self.abandoned_steps))

        self._keep_going(log)

    def file(self, path: Path) -> None:
        """Uploads a copy of the file as it is now; a later version replaces it."""
        if self._run is not None and path.is_file():
            self._keep_going(lambda: self._save(path))

    def _save(self, path: Path) -> None:
        copy = Path(self._run.dir) / path.name
        shutil.copyfile(path, copy)
        self._run.save(str(copy), base_path=self._run.dir, policy="live")

    def _log(self, numbers: dict[str, Any], step: int) -> None:
        self._run.log(numbers, step=step + self.abandoned_steps)

    def close(self, *, failed: bool = False) -> None:
        """Ends the W&B run."""
        if self._run is not None:
            self._keep_going(lambda: self._run.finish(exit_code=1 if failed else 0))

    def news(self) -> list[str]:
        """Returns the warnings since the last call, one line each."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def _keep_going(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # W&B's errors have no narrower common base class
            self._run = None
            with suppress(Exception):
                self._wandb.teardown()  # otherwise it would raise again at exit
            self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, why: str) -> None:
        self._news.append(
            f"warning: W&B logs nothing from here on ({' '.join(why.split())}); metrics.jsonl has every row, "
            "and the next start of the run tries W&B again"
        )

    def _kept_id(self, path: Path) -> str:
        """Returns the id of the first start; a new id if the file has none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with suppress(UnicodeDecodeError):
                kept = path.read_text().strip()
                if _ID.fullmatch(kept):
                    return kept
            self._news.append(f"warning: {path} holds no id of W&B's; a new W&B run begins here")
        made = secrets.token_hex(4)
        write_durably(path, made)
        return made


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {"a": {"b": {"c": 1}}} as {"a/b/c": 1}."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key}/{name}": inner for name, inner in _flat(value).items()}
        else:
            flat[key] = value
    return flat
