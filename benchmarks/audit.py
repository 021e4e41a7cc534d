"""Every decision of a service computed again: three versions, a crash, and episodes that are re-pinned.

    python benchmarks/audit.py --output benchmarks/results

64 agents play Acrobot (three actions, six floats) through `hyperact serve` at durability `disk`. After a third of the
decisions, and after two, a version that was learned from them is promoted; the drain deadline is zero, so that every
running episode moves on in its middle. Half way the service is killed (SIGKILL) while the agents act, and started
again; they just go on asking. Then `hyperact audit` grades the log, and each answer that an agent was given is looked
up in it. Results go to audit.csv, one row a version.
"""

import argparse
import asyncio
import csv
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium
from rich.console import Console

from hyperact.clients.connection import Connection
from hyperact.clients.demo.stage import free_address
from hyperact.clients.retries import Retries
from hyperact.clients.session_memory import Decision
from hyperact.clients.sessions import VectorSession
from hyperact.service.audit import Grade
from hyperact.service.audit_command import grade
from hyperact.service.audit_report import AuditReport
from hyperact.service.audit_settings import AuditSettings
from hyperact.service.audit_tables import audit_table
from hyperact.service.step_sources import LocalSteps
from hyperact.v1.steps import StepKey, to_key

HYPERACT = [sys.executable, "-m", "hyperact.command_line"]
ENVIRONMENT = "Acrobot-v1"
AGENTS = 64
VERSIONS = 3
REPLAY_RATIO = "0.02"
KILL_DELAY_SECONDS = 0.02


class Service:
    """`hyperact serve`, which can be killed and started again at the same address."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.address = free_address()
        self.output = (data_dir / "serve.log").open("a")
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        flags = ["--metrics-address", "", "--drain-deadline-seconds", "0"]
        command = [*HYPERACT, "serve", "--data-dir", str(self.data_dir), "--address", self.address, *flags]
        return subprocess.Popen(command, stdout=self.output, stderr=self.output)

    def crash(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process = self.start()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.output.close()


@contextmanager
def serving(data_dir: Path) -> Iterator[Service]:
    service = Service(data_dir)
    try:
        yield service
    finally:
        service.stop()


def run(*words: str) -> None:
    subprocess.run([*HYPERACT, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def deploy_next(service: Service, version: str) -> None:
    """Learn a little from the log, register what comes of it, and put it into service."""
    where = ["--data-dir", str(service.data_dir), "--address", service.address]
    run("retrain", *where, "--max-versions", "1", "--no-promote", "--replay-ratio", REPLAY_RATIO)
    run("promote", version, *where)


def play(service: Service, num_rounds: int) -> list[Decision]:
    """Play rounds of one decision of each agent; return the answers that the agents were given."""
    environments = [gymnasium.make(ENVIRONMENT) for _ in range(AGENTS)]
    observations = [environment.reset(seed=seed)[0] for seed, environment in enumerate(environments)]
    promotions = {num_rounds * version // VERSIONS: str(version + 1) for version in range(1, VERSIONS)}
    answers: list[Decision] = []
    names = [f"agent-{number}" for number in range(AGENTS)]
    with (
        Connection(service.address, timeout_seconds=60) as connection,
        VectorSession(connection, names, retries=Retries(deadline_seconds=60)) as session,
    ):
        connection.wait_until_reachable(60)
        for number in range(num_rounds):
            if number in promotions:
                deploy_next(service, promotions[number])
            if number == num_rounds // 2:
                threading.Timer(KILL_DELAY_SECONDS, service.crash).start()
            for row, decision in enumerate(session.act(observations)):
                assert decision is not None
                answers.append(decision)
                observation, reward, terminated, truncated, _ = environments[row].step(decision.action)
                session.observe(row, float(reward), terminated, truncated, observation)
                if terminated or truncated:
                    observation, _ = environments[row].reset()
                observations[row] = observation
    return answers


async def count_logged(data_dir: Path, answers: list[Decision]) -> int:
    """Return how many of the answers stand in the log as they were given."""
    given: dict[StepKey, tuple[int, str, float, float]] = {
        answer.step_id: (answer.action, answer.version, answer.propensity, answer.margin) for answer in answers
    }
    source = LocalSteps(data_dir)
    num_found = 0
    async for page in source.pages("default", {}):
        for entry in page:
            if entry.HasField("step"):
                step = entry.step
                logged = (step.action, step.version, step.propensity, step.margin)
                num_found += given.get(to_key(step.step_id)) == logged
    await source.close()
    return num_found


def write(path: Path, report: AuditReport, seconds: float) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["version", "re-pinned", *(str(grade) for grade in Grade), "audit_seconds"])
        for version in report.versions:
            counts = [report.counts[version, grade] for grade in Grade]
            writer.writerow([version, report.num_repinned[version], *counts, ""])
        totals = [report.count(grade) for grade in Grade]
        writer.writerow(["all", report.num_repinned.total(), *totals, f"{seconds:.1f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    console = Console(width=140)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        run("init", "--env", ENVIRONMENT, "--data-dir", str(data_dir), "--promote")
        with serving(data_dir) as service:
            begin = time.perf_counter()
            answers = play(service, -(-arguments.decisions // AGENTS))
            console.print(f"{len(answers):,} decisions in {time.perf_counter() - begin:.1f} s")
        begin = time.perf_counter()
        report = asyncio.run(grade(AuditSettings(data_dir=data_dir)))
        seconds = time.perf_counter() - begin
        num_logged = asyncio.run(count_logged(data_dir, answers))
    console.print(audit_table("default", report))
    console.print(f"{report.counts.total():,} decisions audited in {seconds:.1f} s")
    console.print(f"{num_logged:,} of {len(answers):,} answers stand in the log as they were given")
    arguments.output.mkdir(parents=True, exist_ok=True)
    write(arguments.output / "audit.csv", report, seconds)


if __name__ == "__main__":
    main()
