"""What `hyperact demo` shows: a live table on a terminal, plain lines anywhere else."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from hyperact.clients.children import Child
from hyperact.clients.results import DeploymentResult

max_rows_shown = 24


class DemoDisplay:
    """Shows results as they come and what is happening now.

    Args:
        title: of the table.
        optimal_threshold: the return from which an evaluation episode counts as optimal.
    """

    def __init__(self, console: Console, title: str, optimal_threshold: float) -> None:
        self._console = console
        self._title = title
        self._threshold = optimal_threshold
        self._results: Sequence[DeploymentResult] = ()
        self._seconds: dict[int, float] = {}
        self._children: list[Child] = []
        self._now = Spinner("dots", "starting")
        self._num_log_steps = 0
        self._begin = time.monotonic()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        self._live.stop()

    def watch(self, child: Child) -> None:
        """Show a child's last line of output."""
        self._children.append(child)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(f"[{self.elapsed():5.1f} s] {line}", markup=False, highlight=False, soft_wrap=True)

    def now(self, line: str) -> None:
        """Show what is happening now; nothing is printed off a terminal."""
        self._now.update(text=Text(line))

    def count_log(self, num_steps: int) -> None:
        """Show how many steps the log holds."""
        self._num_log_steps = num_steps

    def show(self, results: Sequence[DeploymentResult]) -> None:
        """Show results; deployments seen for the first time get the time of now."""
        self._results = results

    def finish(self, deployment: int) -> None:
        """Note when a deployment was measured, and off a terminal print its row as a line."""
        self._seconds[deployment] = self.elapsed()
        result = next((result for result in self._results if result.deployment == deployment), None)
        if result is not None and not self._console.is_terminal:
            self.say(self._line(result))

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._begin

    def table(self, results: Sequence[DeploymentResult]) -> Table:
        """Return results as a table."""
        table = Table(title=self._title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title_style="bold")
        headings = ("deployment", "version", "episodes", "return", "evaluation", "optimal", "steps", "seconds")
        for heading in headings:
            table.add_column(heading, justify="right")
        for result in results:
            table.add_row(*self._cells(result), style=self._style(result))
        return table

    def _cells(self, result: DeploymentResult) -> list[str]:
        share = result.optimal_share(self._threshold)
        seconds = self._seconds.get(result.deployment)
        return [
            str(result.deployment) if result.deployment else "none",
            result.version or "uniform",
            str(result.num_episodes),
            number(result.mean_return),
            number(result.evaluation_return),
            "" if share is None else f"{share:.0%}",
            str(result.total_steps),
            "" if seconds is None else f"{seconds:.0f}",
        ]

    def _style(self, result: DeploymentResult) -> str:
        share = result.optimal_share(self._threshold)
        return "bold green" if share == 1.0 else ""

    def _line(self, result: DeploymentResult) -> str:
        share = result.optimal_share(self._threshold) or 0.0
        num_training = sum(one.num_episodes for one in self._results)
        return (
            f"deployment {result.deployment} (version {result.version}): evaluation return "
            f"{number(result.evaluation_return)}, {share:.0%} optimal, after {num_training} training episodes"
        )

    def _render(self) -> RenderableType:
        rows: list[RenderableType] = [self.table(self._results[-max_rows_shown:]), self._now]
        for child in self._children:
            restarts = f" (started again {child.num_restarts}x)" if child.num_restarts else ""
            rows.append(Text(f"  {child.name}{restarts}: {child.last_line()}", style="dim", no_wrap=True))
        rows.append(Text(f"  {self._num_log_steps} steps in the log · {self.elapsed():.0f} s", style="dim"))
        return Group(*rows)


def number(value: float | None) -> str:
    """Return a return for a table."""
    return "" if value is None else f"{value:.3f}"
