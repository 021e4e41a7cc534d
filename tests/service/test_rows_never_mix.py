"""Thousands of sessions at once by every way of asking: each is answered as if it had been alone."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperact.service.keys import load_keys
from hyperact.service.lanes import Decided, VersionLane
from hyperact.service.settings import ServeSettings
from hyperact.v1.decision_pb2 import ActBatchRequest, ActRequest, ActResponse, ActStreamRequest, Outcome
from hyperact.v1.indices import Float32s, derive_indices
from hyperact.v1.steps import StepKey, to_key
from hyperact.v1.tensors import to_tensor
from toy_hypermodels import load
from toy_worker import RunningWorker, registry_with_version, running

num_actions, index_dim, size = 5, 4, 8
num_steps = 4
tolerance = 1e-4
"""Values are of size 1 to 10, and the runtime adds up the terms of a row in another order in another batch: a few units
in the last of float32's 7 digits."""


@dataclass
class Question:
    """A row as its lane sees it, all by itself."""

    step: StepKey
    content: bytes
    action_mask: bytes
    indices: Float32s
    wants_posterior: bool


class Oracle:
    """Computes answers one at a time."""

    def __init__(self, key: bytes, version: Path) -> None:
        self._key = key
        self._lane = VersionLane(key, "1", load(version))

    def answer(self, step: StepKey, request: ActRequest) -> Decided:
        """Return what a request must be answered if it stands at a step."""
        indices = derive_indices(self._key, step._replace(number=0), 0, index_dim, self._lane.distribution, 1)
        question = Question(step, request.observation.data, request.action_mask, indices, request.want_posterior)
        (found,) = self._lane.decide([question])
        assert isinstance(found, Decided)
        return found


@dataclass
class Player:
    """A session that draws what it sees, which actions it may take and when its episodes end."""

    session: str
    rng: np.random.Generator
    token: bytes = b""
    episode: int = 0
    number: int = 0
    is_over: bool = False
    asked: list[tuple[ActRequest, ActResponse]] = field(default_factory=list)

    def request(self) -> ActRequest:
        """Return the next request."""
        mask = b"" if self.rng.random() < 0.5 else bytes(self.rng.permutation([1, 1, 0, 0, 1]).astype(np.uint8))
        request = ActRequest(
            session=self.session,
            observation=to_tensor(self.rng.normal(size=size).astype(np.float32)),
            action_mask=mask,
            token=self.token,
            want_posterior=bool(self.rng.random() < 0.2),
        )
        if self.token:
            self.is_over = bool(self.rng.random() < 0.4)
            request.outcome.CopyFrom(Outcome(reward=float(self.rng.normal()), terminated=self.is_over))
        return request

    def take(self, request: ActRequest, answer: ActResponse) -> None:
        """Take in the answer, which must be for this session's own next step."""
        if self.is_over:
            self.episode, self.number, self.is_over = self.episode + 1, 0, False
        assert (self.session, self.episode, self.number) == (
            answer.step_id.session,
            answer.step_id.episode,
            answer.step_id.number,
        )
        self.number += 1
        self.token = answer.token
        self.asked.append((request, answer))


async def play_alone(service: RunningWorker, player: Player) -> None:
    for _ in range(num_steps):
        request = player.request()
        player.take(request, await service.decision.Act(request))


async def play_together(service: RunningWorker, players: Sequence[Player], rng: random.Random) -> None:
    """Play in batches, whose rows stand in another order each time."""
    for _ in range(num_steps):
        order = rng.sample(players, len(players))
        requests = [player.request() for player in order]
        response = await service.decision.ActBatch(ActBatchRequest(requests=requests))
        for player, request, result in zip(order, requests, response.results, strict=True):
            player.take(request, result.response)


async def play_on_a_stream(service: RunningWorker, groups: Sequence[Sequence[Player]], rng: random.Random) -> None:
    """Play several groups on one stream, on which batches may overtake each other."""
    call = service.decision.ActStream()
    for _ in range(num_steps):
        sent = {}
        for number in rng.sample(range(len(groups)), len(groups)):
            requests = [player.request() for player in groups[number]]
            sent[number] = requests
            await call.write(ActStreamRequest(batch_id=number, requests=requests))
        for _ in groups:
            response: Any = await call.read()
            players, requests = groups[response.batch_id], sent.pop(response.batch_id)
            for player, request, result in zip(players, requests, response.results, strict=True):
                player.take(request, result.response)
    await call.done_writing()


def check(player: Player, oracle: Oracle) -> None:
    """Compare all that a session was told with its answers computed alone."""
    for request, answer in player.asked:
        alone = oracle.answer(to_key(answer.step_id), request)
        if alone.margin > tolerance:
            assert alone.action == answer.action, answer.step_id
        np.testing.assert_allclose(answer.margin, alone.margin, atol=tolerance, err_msg=str(answer.step_id))
        np.testing.assert_allclose(answer.propensity, alone.propensity, atol=1 / 16, err_msg=str(answer.step_id))
        assert request.want_posterior == answer.HasField("posterior")
        if alone.posterior is not None:
            np.testing.assert_allclose(answer.posterior.means, alone.posterior.means, atol=tolerance)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("threads", "is_indexed"), [(0, False), (2, False), (0, True)])
async def test_each_of_thousands_of_sessions_is_answered_as_if_it_were_alone(
    tmp_path: Path, threads: int, is_indexed: bool
) -> None:
    """Whatever batches their rows met in, no session ever gets another's observation, index, mask or place."""
    registry_with_version(
        tmp_path,
        num_actions=num_actions,
        index_dim=index_dim,
        observation_shape=(size,),
        hidden_sizes=(16,),
        is_indexed=is_indexed,
        bank_size=32 if is_indexed else 0,
    )
    rng = random.Random(7)
    players = [Player(f"agent-{number}", np.random.default_rng(number)) for number in range(2000)]
    alone, batched, streamed = players[:300], players[300:1100], players[1100:]
    async with running(tmp_path, inference_threads=threads, max_wait_ms=0.0) as service:
        plays: list[Any] = [play_alone(service, player) for player in alone]
        plays += [play_together(service, batched[first : first + 50], rng) for first in range(0, 800, 50)]
        for first in range(0, 900, 300):
            groups = [streamed[begin : begin + 30] for begin in range(first, first + 300, 30)]
            plays.append(play_on_a_stream(service, groups, rng))
        await asyncio.gather(*plays)
        key = load_keys(ServeSettings.model_validate({"data_dir": tmp_path})).index

    oracle = Oracle(key, tmp_path / "toys" / "v1")
    for player in players:
        assert num_steps == len(player.asked)
        check(player, oracle)
