"""Logs of a run: ``log.jsonl``, TensorBoard, and one line of progress with an ETA."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

#: Seconds without a line after which a run without a terminal says how far it is.
QUIET_S = 30.0


class RunLog:
    """Writes scalars of a run that may be interrupted: records after the resumed step are dropped,
    not doubled.

    Use as a context manager. ``kind`` is ``train`` or ``valid``; values must be numbers or strings.
    """

    def __init__(
        self,
        folder: Path,
        resumed_step: int,
        total: int,
        title: str,
        *,
        progress: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"
        if resumed_step:
            _drop_after(self.path, resumed_step)
        # killed before its first checkpoint: nothing of it counts, not even the validation of step
        # 0
        else:
            self.path.unlink(missing_ok=True)
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._file = self.path.open("a")
        self._board = SummaryWriter(
            str(folder / "tensorboard"), purge_step=resumed_step + 1 if resumed_step else None
        )
        self._console = Console(stderr=True)
        self._live = progress and self._console.is_terminal
        self._speak = progress and not self._live  # a log file wants lines, not a moving bar
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=self._console,
            disable=not self._live,
        )
        self._title = title
        self._task = self._bar.add_task(title, total=total, completed=resumed_step, metrics="")
        self._shown: dict[str, float] = {}
        self._clock = clock
        self._total, self._first_step = total, resumed_step
        self._started = self._last_line = clock()

    def __enter__(self) -> RunLog:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        self._file.close()
        self._board.close()

    def advance(self, step: int) -> None:
        """Move the bar to ``step`` finished steps; without a terminal print a line after
        :data:`QUIET_S` of silence.
        """
        self._bar.update(self._task, completed=step)
        now = self._clock()
        if self._speak and now - self._last_line >= QUIET_S:
            self._last_line = now
            metrics = f"  {self._metrics()}" if self._shown else ""
            line = (
                f"{self._title} step {step} of {self._total}, {self._left(step, now)} left{metrics}"
            )
            self._console.print(line, highlight=False)

    def _left(self, step: int, now: float) -> str:
        """The time that the other steps take at the pace so far, as h:mm:ss."""
        return time_left(now - self._started, step - self._first_step, self._total - step)

    def _metrics(self) -> str:
        return "  ".join(f"{name} {value:.4g}" for name, value in self._shown.items())

    def write(
        self,
        kind: str,
        step: int,
        scalars: dict[str, float],
        show: tuple[str, ...] = (),
        *,
        speak: bool = False,
    ) -> None:
        """Record ``scalars`` at ``step``; those named in ``show`` stay visible beside the bar.

        Where there is no bar (a log file), validations are printed, and what ``speak`` says.
        """
        self._file.write(json.dumps({"kind": kind, "step": step, **scalars}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
        self._shown.update({f"{name}": scalars[name] for name in show if name in scalars})
        text = self._metrics()
        self._bar.update(self._task, metrics=text)
        if self._speak and (speak or kind == "valid"):
            self._last_line = self._clock()
            self._console.print(f"{self._title} step {step}: {text}", highlight=False)

    def say(self, text: str) -> None:
        """One line for the person who watches, above the bar."""
        if self._live or self._speak:
            self._console.print(text, highlight=False)


class NoLog:
    """Stands for a :class:`RunLog` where a run keeps no files: all that it is told is dropped."""

    def __enter__(self) -> NoLog:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def advance(self, step: int) -> None:
        pass

    def write(
        self,
        kind: str,
        step: int,
        scalars: dict[str, float],
        show: tuple[str, ...] = (),
        *,
        speak: bool = False,
    ) -> None:
        pass

    def say(self, text: str) -> None:
        pass


class Countdown:
    """Says how far a long count is and what time the rest takes, after :data:`QUIET_S` of silence.

    Call it with the number done and the total; the first call says where the count starts.
    """

    def __init__(
        self, title: str, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._title, self._say, self._clock = title, say, clock
        self._first: int | None = None
        self._started = self._last_line = clock()

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if self._first is None:
            self._first, self._started, self._last_line = done, now, now
        if now - self._last_line >= QUIET_S:
            self._last_line = now
            left = time_left(now - self._started, done - self._first, total - done)
            self._say(f"{self._title} {done:,} of {total:,}, {left} left")


def time_left(seconds: float, done: int, rest: int) -> str:
    """The time that ``rest`` takes at the pace of ``done`` in ``seconds``, as h:mm:ss."""
    left = round(seconds / max(done, 1) * rest)
    return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"


def _drop_after(path: Path, step: int) -> None:
    """Keep the records up to ``step``; a half-written last line (the run was
    killed) goes as well.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            record: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= step:
            kept.append(line)
    path.write_text("".join(line + "\n" for line in kept))
