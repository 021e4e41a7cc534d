"""Sessions: one agent, or several that act together, over a service. Sync and asyncio.

    with Connection("127.0.0.1:50051") as connection, Session(connection, "diver-1") as session:
        decision = session.act(observation)
        observation, reward, terminated, truncated, _ = environment.step(decision.action)
        session.observe(reward, terminated, truncated, observation)

`observe` costs no call: the outcome travels with the next `act`. Leaving the context reports what still waits.
Everything may be repeated: a session that lost its connection asks again for the same step, and the service answers a
step once. Errors are those of `errors`; a RuntimeError means that the calls came in an order that makes no sense.
"""

import os
import time
from collections.abc import Sequence
from typing import Self

from numpy.typing import ArrayLike

from hyperact.clients.connection import AsyncConnection, Connection
from hyperact.clients.effects import run, run_async
from hyperact.clients.errors import ClientError
from hyperact.clients.retries import Retries
from hyperact.clients.session_core import Rows, SessionCore, VectorCore
from hyperact.clients.session_memory import Decision, SessionMemory, make_outcome
from hyperact.v1.steps import StepKey, make_run

default_max_batch = 64


def new_run() -> str:
    """Return a run id for a process that starts now; it is greater than those of earlier ones."""
    return make_run(time.time_ns() // 1_000_000, os.urandom(4))


class Session:
    """One agent, blocking. For one thread at a time.

    Args:
        session: the agent's name, 1 to 256 bytes; a restart of the agent keeps it.
        model: the registered model; empty for the service's default.
        run: this life of the agent, by default a new one.
        evaluation: whether its steps are only for measuring.
        retries: the deadline of one act or report, and how it is tried again.
    """

    def __init__(
        self,
        connection: Connection,
        session: str,
        *,
        model: str = "",
        run: str = "",
        evaluation: bool = False,
        retries: Retries | None = None,
    ) -> None:
        self._connection = connection
        self.memory = SessionMemory(session, run or new_run(), model, evaluation=evaluation)
        self._core = SessionCore(self.memory, retries or Retries(), time.monotonic)

    def act(
        self, observation: ArrayLike, *, action_mask: ArrayLike | None = None, want_posterior: bool = False
    ) -> Decision:
        """Return the decision for what the agent sees now; ClientError."""
        return run(self._core.act(observation, action_mask, want_posterior=want_posterior), self._connection.call)

    def observe(
        self,
        reward: float | None,
        terminated: bool,
        truncated: bool,
        final_observation: ArrayLike | None = None,
    ) -> None:
        """Remember what followed the last action; it is sent with the next request.

        Args:
            reward: raw; None if it is not known yet (see `report`).
            final_observation: the true last observation, if the episode ended. What was seen after any other step may
                be given too and is not sent.
        """
        self.memory.observe(make_outcome(reward, terminated, truncated, final_observation))

    def report(
        self,
        reward: float | None = None,
        *,
        terminated: bool = False,
        truncated: bool = False,
        final_observation: ArrayLike | None = None,
        step_id: StepKey | None = None,
        report_id: str = "",
    ) -> StepKey:
        """Report an outcome at once, by default the last step's, and return the step; ClientError.

        Args:
            step_id: the step that it belongs to, for a reward that arrives late.
            report_id: reports of one step with one id count once; needed if a step gets the same reward twice.
        """
        outcome = make_outcome(reward, terminated, truncated, final_observation)
        return run(self._core.report(outcome, step_id, report_id), self._connection.call)

    def close_episode(self) -> None:
        """Report what `observe` remembered now, and not only with the next action; ClientError."""
        run(self._core.close_episode(), self._connection.call)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Report what waits, unless the process is being stopped. No second error is raised over the first."""
        if error is not None and not isinstance(error, Exception):
            return
        try:
            self.close_episode()
        except ClientError:
            if error is None:
                raise


class AsyncSession:
    """As Session, for asyncio."""

    def __init__(
        self,
        connection: AsyncConnection,
        session: str,
        *,
        model: str = "",
        run: str = "",
        evaluation: bool = False,
        retries: Retries | None = None,
    ) -> None:
        self._connection = connection
        self.memory = SessionMemory(session, run or new_run(), model, evaluation=evaluation)
        self._core = SessionCore(self.memory, retries or Retries(), time.monotonic)

    async def act(
        self, observation: ArrayLike, *, action_mask: ArrayLike | None = None, want_posterior: bool = False
    ) -> Decision:
        """Return the decision for what the agent sees now; ClientError."""
        effects = self._core.act(observation, action_mask, want_posterior=want_posterior)
        return await run_async(effects, self._connection.call)

    def observe(
        self,
        reward: float | None,
        terminated: bool,
        truncated: bool,
        final_observation: ArrayLike | None = None,
    ) -> None:
        """Remember what followed the last action; it is sent with the next request."""
        self.memory.observe(make_outcome(reward, terminated, truncated, final_observation))

    async def report(
        self,
        reward: float | None = None,
        *,
        terminated: bool = False,
        truncated: bool = False,
        final_observation: ArrayLike | None = None,
        step_id: StepKey | None = None,
        report_id: str = "",
    ) -> StepKey:
        """Report an outcome at once, by default the last step's, and return the step; ClientError."""
        outcome = make_outcome(reward, terminated, truncated, final_observation)
        return await run_async(self._core.report(outcome, step_id, report_id), self._connection.call)

    async def close_episode(self) -> None:
        """Report what `observe` remembered now; ClientError."""
        await run_async(self._core.close_episode(), self._connection.call)

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Report what waits, unless the process is being stopped. No second error is raised over the first."""
        if error is not None and not isinstance(error, Exception):
            return
        try:
            await self.close_episode()
        except ClientError:
            if error is None:
                raise


class VectorSession:
    """Several agents that act together: one message for all of them. For one thread at a time.

    Args:
        sessions: the agents' names, one per row.
        stream: whether batches travel on one open stream (ActStream) instead of one call each; faster.
        max_batch: the most rows in one message; more go in several. GetSpec tells what the service takes.
    """

    def __init__(
        self,
        connection: Connection,
        sessions: Sequence[str],
        *,
        model: str = "",
        run: str = "",
        evaluation: bool = False,
        stream: bool = False,
        max_batch: int = default_max_batch,
        retries: Retries | None = None,
    ) -> None:
        self._transport = connection.open_batch_stream() if stream else connection
        self._owns_transport = stream
        memories = make_memories(sessions, run or new_run(), model, evaluation)
        self._core = VectorCore(memories, retries or Retries(), time.monotonic, max_batch)

    @property
    def memories(self) -> Sequence[SessionMemory]:
        """What is remembered of each row."""
        return self._core.memories

    def act(
        self,
        observations: Rows,
        *,
        action_masks: Sequence[ArrayLike] | None = None,
    ) -> list[Decision | None]:
        """Return one decision per row; None for the rows that took no part.

        Rows that fail for a while are tried again alone, until the deadline.

        Args:
            observations: one per row, or by row for only some of them.
            action_masks: one per row.

        Raises:
            ValueError: there are not as many observations, or masks, as rows.
            BatchError: some rows failed for good; its `decisions` are those of the others.
            ClientError: nothing was answered.
        """
        return run(self._core.act(observations, action_masks), self._transport.call)

    def observe(
        self,
        row: int,
        reward: float | None,
        terminated: bool,
        truncated: bool,
        final_observation: ArrayLike | None = None,
    ) -> None:
        """Remember what followed one row's last action; it is sent with its next request."""
        self._core.observe(row, make_outcome(reward, terminated, truncated, final_observation))

    def close_episodes(self) -> None:
        """Report now what `observe` remembered of every row; ClientError."""
        run(self._core.close_episodes(), self._transport.call)

    def close(self) -> None:
        """Give back what it opened; what waits is not reported."""
        if self._owns_transport:
            self._transport.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Report what waits, unless the process is being stopped, and close. No second error over the first."""
        try:
            if error is None or isinstance(error, Exception):
                self.close_episodes()
        except ClientError:
            if error is None:
                raise
        finally:
            self.close()


class AsyncVectorSession:
    """As VectorSession, for asyncio."""

    def __init__(
        self,
        connection: AsyncConnection,
        sessions: Sequence[str],
        *,
        model: str = "",
        run: str = "",
        evaluation: bool = False,
        stream: bool = False,
        max_batch: int = default_max_batch,
        retries: Retries | None = None,
    ) -> None:
        self._transport = connection.open_batch_stream() if stream else connection
        self._owns_transport = stream
        memories = make_memories(sessions, run or new_run(), model, evaluation)
        self._core = VectorCore(memories, retries or Retries(), time.monotonic, max_batch)

    @property
    def memories(self) -> Sequence[SessionMemory]:
        """What is remembered of each row."""
        return self._core.memories

    async def act(
        self,
        observations: Rows,
        *,
        action_masks: Sequence[ArrayLike] | None = None,
    ) -> list[Decision | None]:
        """Return one decision per row; as VectorSession.act."""
        return await run_async(self._core.act(observations, action_masks), self._transport.call)

    def observe(
        self,
        row: int,
        reward: float | None,
        terminated: bool,
        truncated: bool,
        final_observation: ArrayLike | None = None,
    ) -> None:
        """Remember what followed one row's last action; it is sent with its next request."""
        self._core.observe(row, make_outcome(reward, terminated, truncated, final_observation))

    async def close_episodes(self) -> None:
        """Report now what `observe` remembered of every row; ClientError."""
        await run_async(self._core.close_episodes(), self._transport.call)

    async def close(self) -> None:
        """Give back what it opened; what waits is not reported."""
        if self._owns_transport:
            await self._transport.close()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Report what waits, unless the process is being stopped, and close. No second error over the first."""
        try:
            if error is None or isinstance(error, Exception):
                await self.close_episodes()
        except ClientError:
            if error is None:
                raise
        finally:
            await self.close()


def make_memories(sessions: Sequence[str], run: str, model: str, evaluation: bool) -> list[SessionMemory]:
    """Return what is remembered of each row, of one run. ValueError if two rows have one name."""
    if len(set(sessions)) < len(sessions):
        raise ValueError("sessions: each row needs a name of its own")
    return [SessionMemory(session, run, model, evaluation=evaluation) for session in sessions]
