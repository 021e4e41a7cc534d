"""What a client remembers of a session, request by request."""

import numpy as np
import pytest

from hyperact.clients.session_memory import Decision, SessionMemory, make_outcome
from hyperact.v1.decision_pb2 import ActRequest, ActResponse, Posterior, ReportResponse
from hyperact.v1.errors import FieldError
from hyperact.v1.steps import StepKey
from hyperact.v1.tensors import to_array

observation = np.arange(3, dtype=np.float32)


def make_memory() -> SessionMemory:
    """Return what is remembered of a session that has not acted."""
    return SessionMemory("diver", "run-1", "sea", evaluation=True)


def answer(episode: int, number: int, action: int = 1) -> ActResponse:
    """Return the service's answer for a step."""
    step = StepKey("sea", "diver", "run-1", episode, number)
    return ActResponse(
        action=action, token=f"token-{episode}-{number}".encode(), step_id=step.to_message(), propensity=0.5
    )


def after_act(memory: SessionMemory, episode: int = 0, number: int = 0) -> Decision:
    """Let a session act once."""
    memory.next_request(observation)
    return memory.take_answer(answer(episode, number))


class TestRequests:
    def test_the_first_one_names_its_step_by_position(self) -> None:
        """So even the first request may be sent twice."""
        request = make_memory().next_request(observation)

        assert request.HasField("position")
        assert (0, 0) == (request.position.episode, request.position.number)
        assert b"" == request.token
        assert ("diver", "run-1", "sea", True) == (request.session, request.run, request.model, request.evaluation)
        np.testing.assert_array_equal(observation, to_array(request.observation))

    def test_later_ones_carry_the_token_and_what_followed(self) -> None:
        """The token names the step; the outcome belongs to the one before."""
        memory = make_memory()
        after_act(memory)
        memory.observe(make_outcome(0.5, False, False))

        request = memory.next_request(observation)

        assert b"token-0-0" == request.token
        assert not request.HasField("position")
        assert request.outcome.reward == 0.5

    def test_the_same_is_asked_until_it_is_answered(self) -> None:
        """A retry is byte for byte the same request."""
        memory = make_memory()
        after_act(memory)
        memory.observe(make_outcome(0.0, True, False))

        first, second = memory.next_request(observation), memory.next_request(observation)

        assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)

    def test_an_outcome_is_sent_once(self) -> None:
        """The next answer says that it arrived."""
        memory = make_memory()
        after_act(memory)
        memory.observe(make_outcome(1.0, False, False))
        after_act(memory, 0, 1)

        assert not memory.next_request(observation).HasField("outcome")

    def test_a_zero_reward_is_not_an_unknown_one(self) -> None:
        """Unset means that it comes later."""
        assert make_outcome(0.0, False, False).HasField("reward")
        assert not make_outcome(None, False, False).HasField("reward")

    def test_a_final_observation_is_sent_only_at_an_end(self) -> None:
        """Anything that env.step returned may be passed on."""
        assert not make_outcome(0.0, False, False, observation).HasField("final_observation")
        assert make_outcome(0.0, False, True, observation).HasField("final_observation")

    def test_a_mask_is_one_byte_an_action(self) -> None:
        """Whatever the caller's dtype."""
        request = make_memory().next_request(observation, np.array([1, 0, 5], dtype=np.int64))

        assert b"\x01\x00\x01" == request.action_mask

    @pytest.mark.parametrize(("session", "run"), [("", "r"), ("x" * 300, "r"), ("a\nb", "r"), ("a", "no spaces")])
    def test_names_that_the_service_would_refuse_are_refused_here(self, session: str, run: str) -> None:
        """The error names the field before anything is sent."""
        with pytest.raises(FieldError):
            SessionMemory(session, run)


class TestAnswers:
    def test_a_decision_says_who_decided(self) -> None:
        """Version, deployment, propensity and margin as they came."""
        response = answer(2, 5)
        response.version, response.deployment, response.margin = "7", 3, 0.25
        response.posterior.CopyFrom(Posterior(means=[1, 2], standard_deviations=[0, 1], probabilities=[0.25, 0.75]))

        decision = make_memory().take_answer(response)

        assert (1, "7", 3, 0.5, 0.25, False) == (
            decision.action,
            decision.version,
            decision.deployment,
            decision.propensity,
            decision.margin,
            decision.is_fallback,
        )
        assert StepKey("sea", "diver", "run-1", 2, 5) == decision.step_id
        assert decision.posterior is not None
        np.testing.assert_array_equal([0.25, 0.75], decision.posterior.probabilities)

    def test_the_posterior_is_there_only_on_request(self) -> None:
        """It costs time and bytes."""
        assert make_memory().take_answer(answer(0, 0)).posterior is None


class TestOrder:
    def test_an_outcome_needs_an_action_before_it(self) -> None:
        """A loop that lost its order hears of it at once."""
        with pytest.raises(RuntimeError, match="no action waits"):
            make_memory().observe(make_outcome(1.0, False, False))

    def test_an_action_has_one_outcome(self) -> None:
        """Two rewards for one step would be a riddle."""
        memory = make_memory()
        after_act(memory)
        memory.observe(make_outcome(1.0, False, False))

        with pytest.raises(RuntimeError, match="no action waits"):
            memory.observe(make_outcome(1.0, False, False))

    def test_an_action_may_go_without_an_outcome(self) -> None:
        """Its reward can be reported later."""
        memory = make_memory()
        after_act(memory)

        assert ActRequest().outcome == memory.next_request(observation).outcome

    def test_a_report_needs_a_step(self) -> None:
        """There is none before the first action."""
        with pytest.raises(RuntimeError, match="no step yet"):
            make_memory().report(make_outcome(1.0, False, False))


class TestReports:
    def test_the_end_of_an_episode_is_reported_with_what_waits(self) -> None:
        """After that the next request carries no outcome and the report's token."""
        memory = make_memory()
        after_act(memory)
        memory.observe(make_outcome(1.0, True, False))
        report = memory.closing_report()
        assert report is not None

        memory.take_report_answer(report, ReportResponse(token=b"next-episode", step_id=report.step_id))
        request = memory.next_request(observation)

        assert memory.closing_report() is None
        assert (b"next-episode", False) == (request.token, request.HasField("outcome"))

    def test_a_late_reward_leaves_the_session_where_it_is(self) -> None:
        """An outcome of an earlier step, even an equal one, does not take the place of the one that waits."""
        memory = make_memory()
        earlier = after_act(memory).step_id
        after_act(memory, 0, 1)
        memory.observe(make_outcome(1.0, False, False))
        report = memory.report(make_outcome(1.0, False, False), earlier, "late-1")

        memory.take_report_answer(report, ReportResponse(step_id=report.step_id))
        request = memory.next_request(observation)

        assert (earlier.to_message(), "late-1") == (report.step_id, report.report_id)
        assert (b"token-0-1", 1.0) == (request.token, request.outcome.reward)

    def test_an_episode_that_was_reported_over_takes_no_outcome_more(self) -> None:
        """Its step is settled."""
        memory = make_memory()
        after_act(memory)
        report = memory.report(make_outcome(1.0, True, False))
        memory.take_report_answer(report, ReportResponse(token=b"t", step_id=report.step_id))

        with pytest.raises(RuntimeError):
            memory.observe(make_outcome(1.0, True, False))
