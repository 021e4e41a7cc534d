"""What any server of the contract does with Act. Written against an address (docs/contract.md)."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from caller import Caller, new_session, refused
from hyperact.v1.decision_pb2 import ActRequest, GetSpecRequest, Outcome, Position
from hyperact.v1.tensor_pb2 import DataType

CODE = grpc.StatusCode


def place(answer: Any) -> tuple[int, int]:
    """Return where in its run an answer's step stands."""
    return answer.step_id.episode, answer.step_id.number


class TestSpec:
    def test_it_is_complete(self, caller: Caller) -> None:
        """A client can make its requests from the spec alone."""
        spec = caller.spec

        assert caller.num_actions >= 1
        assert spec.version
        assert spec.deployment >= 1
        assert spec.max_batch >= 1
        assert spec.spec.observation.dtype != DataType.DATA_TYPE_UNSPECIFIED

    def test_an_unknown_model_is_not_found(self, caller: Caller) -> None:
        """A wrong name is told as such."""
        assert CODE.NOT_FOUND == refused(lambda: caller.decision.GetSpec(GetSpecRequest(model="no such model"))).code


class TestAct:
    def test_a_session_and_an_observation_are_enough(self, caller: Caller) -> None:
        """The first answer is complete: an action, who chose it, how probable it was, where the session stands."""
        session = new_session()

        answer = caller.act(ActRequest(session=session, observation=caller.observation()))

        assert 0 <= answer.action < caller.num_actions
        assert 0 < answer.propensity <= 1
        assert answer.margin >= 0
        assert (caller.spec.model, session, 0, 0) == (answer.step_id.model, answer.step_id.session, *place(answer))
        assert answer.step_id.run
        assert answer.version
        assert answer.deployment >= 1
        assert answer.token
        assert not answer.HasField("posterior")

    def test_the_token_carries_the_session_on(self, caller: Caller) -> None:
        """Steps count within the episode, and an outcome that ends it begins the next one."""
        answers = caller.play(new_session(), 4, terminated=True)

        expected = [(0, 0), (0, 1), (0, 2), (1, 0)] if not caller.is_one_shot else [(n, 0) for n in range(4)]
        assert expected == [place(answer) for answer in answers]

    def test_truncation_ends_an_episode_too(self, caller: Caller) -> None:
        """Cut off from outside is over, and what was seen last may come along."""
        session = new_session()
        first = caller.act(caller.request(session))
        outcome = Outcome(reward=0.5, truncated=True, final_observation=caller.observation(7))

        second = caller.act(caller.request(session, 1, token=first.token, outcome=outcome))

        assert (1, 0) == place(second)

    def test_an_episode_keeps_its_version(self, caller: Caller) -> None:
        """Within an episode one version decides."""
        if not caller.is_episodic:
            pytest.skip("the model's agents have no episodes")

        answers = caller.play(new_session(), 5)

        assert 1 == len({(answer.version, answer.deployment) for answer in answers})

    def test_the_posterior_comes_on_request(self, caller: Caller) -> None:
        """It has an entry for each action, its probabilities add up, and the propensity is one of them."""
        answer = caller.act(caller.request(want_posterior=True))

        posterior = answer.posterior
        lengths = (len(posterior.means), len(posterior.standard_deviations), len(posterior.probabilities))
        assert (caller.num_actions,) * 3 == lengths
        assert pytest.approx(1, abs=1e-5) == sum(posterior.probabilities)
        assert min(posterior.standard_deviations) >= 0
        assert pytest.approx(posterior.probabilities[answer.action], abs=1e-5) == answer.propensity

    def test_a_forbidden_action_is_not_taken(self, caller: Caller) -> None:
        """A mask that allows one action makes it certain."""
        for action in range(caller.num_actions):
            mask = bytes(number == action for number in range(caller.num_actions))

            answer = caller.act(caller.request(action_mask=mask))

            assert (action, 1.0) == (answer.action, answer.propensity)

    def test_sessions_explore_each_on_its_own(self, caller: Caller) -> None:
        """Over many sessions the same observation gets actions about as often as the propensities say."""
        answers = [caller.act(caller.request(want_posterior=True)) for _ in range(200)]

        for action, chance in enumerate(answers[0].posterior.probabilities):
            share = sum(answer.action == action for answer in answers) / len(answers)
            # Five standard errors of 200 draws, and what counting over a bank of 1,024 indices may be off.
            assert abs(share - chance) < 5 * (chance * (1 - chance) / 200 + 0.25 / 1024) ** 0.5


class TestRetries:
    def test_a_repeated_request_gets_the_same_answer(self, caller: Caller) -> None:
        """A client that timed out may simply ask again, by token, and over the end of an episode too."""
        session = new_session()
        first = caller.act(caller.request(session))
        request = caller.request(session, 1, token=first.token, outcome=Outcome(reward=1.0, terminated=True))

        answers = [caller.act(request) for _ in range(3)]

        assert 1 == len({(place(answer), answer.action, answer.token) for answer in answers})

    def test_the_first_request_can_be_repeated_by_its_position(self, caller: Caller) -> None:
        """Before there is a token, run and position name the step."""
        request = caller.request(run="000000000001", position=Position(episode=0, number=0))

        answers = [caller.act(request) for _ in range(2)]

        assert 1 == len({(answer.action, answer.token) for answer in answers})
        assert "000000000001" == answers[0].step_id.run

    def test_requests_at_the_same_time_are_one_step(self, caller: Caller) -> None:
        """A hedged request is decided once."""
        request = caller.request(run="000000000001", position=Position(episode=0, number=0))

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: caller.act(request), range(8)))

        assert 1 == len({answer.token for answer in answers})

    def test_another_observation_for_a_decided_step_is_refused(self, caller: Caller) -> None:
        """Nobody rewrites what the agent saw."""
        session = new_session()
        token = caller.act(caller.request(session)).token
        caller.act(caller.request(session, 1, token=token))

        found = refused(lambda: caller.act(caller.request(session, 2, token=token)))

        assert (CODE.FAILED_PRECONDITION, "OTHER_OBSERVATION") == (found.code, found.reason)

    def test_a_stale_token_is_refused(self, caller: Caller) -> None:
        """Two processes with one token cannot both go on."""
        session = new_session()
        old = caller.act(caller.request(session)).token
        caller.play(session, 8, token=old)

        found = refused(lambda: caller.act(caller.request(session, 100, token=old)))

        assert CODE.ABORTED == found.code or "OTHER_OBSERVATION" == found.reason

    def test_a_newer_run_takes_over(self, caller: Caller) -> None:
        """A restarted agent begins anew, and its old self is told to stop."""
        session = new_session()
        old = caller.act(caller.request(session, run="000000000001"))
        new = caller.act(caller.request(session, 1, run="000000000002"))

        found = refused(lambda: caller.act(caller.request(session, 2, token=old.token)))

        assert (0, 0) == place(new)
        assert (CODE.ABORTED, "FENCED_RUN") == (found.code, found.reason)


class TestRefusals:
    @pytest.mark.parametrize(
        ("field", "change"),
        [
            ("session", {"session": "\n"}),
            ("session", {"session": "s" * 257}),
            ("run", {"run": "no/slash"}),
            ("action_mask", {"action_mask": b"\x01" * 1000}),
            ("outcome.reward", {"outcome": Outcome(reward=float("nan"))}),
        ],
    )
    def test_a_bad_field_is_named(self, caller: Caller, field: str, change: dict[str, Any]) -> None:
        """INVALID_ARGUMENT says which field is wrong."""
        found = refused(lambda: caller.act(caller.request(**change)))

        assert (CODE.INVALID_ARGUMENT, field) == (found.code, found.field)

    @pytest.mark.parametrize("change", ["dtype", "shape", "data"])
    def test_an_observation_that_is_not_as_the_spec_says_is_refused(self, caller: Caller, change: str) -> None:
        """Another dtype, shape or number of bytes never reaches the model."""
        request = caller.request()
        if change == "dtype":
            same = request.observation.dtype == DataType.DATA_TYPE_INT64
            request.observation.dtype = DataType.DATA_TYPE_UINT8 if same else DataType.DATA_TYPE_INT64
        elif change == "shape":
            request.observation.shape.append(1)
        else:
            request.observation.data += b"\x00"

        found = refused(lambda: caller.act(request))

        assert (CODE.INVALID_ARGUMENT, f"observation.{change}") == (found.code, found.field)

    def test_a_mask_that_forbids_everything_is_refused(self, caller: Caller) -> None:
        """There must be something to choose."""
        found = refused(lambda: caller.act(caller.request(action_mask=bytes(caller.num_actions))))

        assert (CODE.INVALID_ARGUMENT, "BAD_MASK") == (found.code, found.reason)

    def test_an_unknown_model_is_not_found(self, caller: Caller) -> None:
        """A wrong name is told as such."""
        assert CODE.NOT_FOUND == refused(lambda: caller.act(caller.request(model="no such model"))).code

    def test_a_forged_token_is_refused(self, caller: Caller) -> None:
        """One changed bit is enough."""
        session = new_session()
        token = bytearray(caller.act(caller.request(session)).token)
        token[3] ^= 1

        found = refused(lambda: caller.act(caller.request(session, 1, token=bytes(token))))

        assert CODE.UNAUTHENTICATED == found.code

    def test_a_token_of_another_session_is_refused(self, caller: Caller) -> None:
        """Tokens do not pass from hand to hand."""
        token = caller.act(caller.request()).token

        found = refused(lambda: caller.act(caller.request(token=token)))

        assert (CODE.INVALID_ARGUMENT, "WRONG_TOKEN") == (found.code, found.reason)

    def test_an_outcome_without_a_step_is_refused(self, caller: Caller) -> None:
        """A session's first request has no previous action."""
        found = refused(lambda: caller.act(caller.request(outcome=Outcome(reward=1.0))))

        assert (CODE.FAILED_PRECONDITION, "NO_PREVIOUS_STEP") == (found.code, found.reason)

    def test_a_caller_that_gives_up_harms_nobody(self, caller: Caller) -> None:
        """Its retry finds its step, whether or not it was decided meanwhile, and the server goes on."""
        request = caller.request(run="000000000001", position=Position(episode=0, number=0))

        for _ in range(10):
            caller.decision.Act.future(request).cancel()

        assert (0, 0) == place(caller.act(request))
