"""What any server of the contract does with ActBatch and ActStream. Written against an address."""

from queue import SimpleQueue

import grpc

from caller import Caller, deadline_seconds, new_session, refused
from hyperact.v1.decision_pb2 import ActBatchRequest, ActBatchResponse, ActRequest, ActStreamRequest, Outcome

CODE = grpc.StatusCode


def act_batch(caller: Caller, *requests: ActRequest) -> ActBatchResponse:
    """Send requests in one message."""
    answer: ActBatchResponse = caller.decision.ActBatch(ActBatchRequest(requests=requests), timeout=deadline_seconds)
    return answer


class TestActBatch:
    def test_answers_come_in_the_order_of_the_requests(self, caller: Caller) -> None:
        """Each session finds its own answer at its place."""
        sessions = [new_session() for _ in range(min(8, caller.spec.max_batch))]

        results = act_batch(caller, *(caller.request(session, n) for n, session in enumerate(sessions))).results

        assert sessions == [result.response.step_id.session for result in results]

    def test_a_row_is_decided_as_it_would_be_alone(self, caller: Caller) -> None:
        """Who else is in the batch makes no difference to the decision."""
        requests = [caller.request(number=n, run="000000000001", want_posterior=True) for n in range(4)]
        for request in requests:
            request.position.SetInParent()
        together = [result.response for result in act_batch(caller, *requests).results]

        alone = [caller.act(request) for request in requests]

        assert [(one.action, one.step_id) for one in alone] == [(one.action, one.step_id) for one in together]

    def test_a_bad_request_fails_alone(self, caller: Caller) -> None:
        """Its batch-mates are answered; its error names its field."""
        bad = caller.request()
        bad.observation.data = b""

        good, error, other = act_batch(caller, caller.request(), bad, caller.request(number=1)).results

        assert [True, False, True] == [one.HasField("response") for one in (good, error, other)]
        assert (CODE.INVALID_ARGUMENT.value[0], "observation.data") == (error.error.code, error.error.field)

    def test_a_session_stands_in_a_batch_once(self, caller: Caller) -> None:
        """Its steps come one after the other."""
        session = new_session()

        first, second = act_batch(caller, caller.request(session), caller.request(session, 1)).results

        assert first.HasField("response")
        assert "DUPLICATE_SESSION" == second.error.reason

    def test_an_empty_batch_is_refused(self, caller: Caller) -> None:
        """There must be something to decide."""
        found = refused(lambda: act_batch(caller))

        assert (CODE.INVALID_ARGUMENT, "requests") == (found.code, found.field)

    def test_a_batch_above_the_limit_is_refused(self, caller: Caller) -> None:
        """GetSpec tells the limit."""
        number = caller.spec.max_batch + 1

        found = refused(lambda: act_batch(caller, *(caller.request() for _ in range(number))))

        assert (CODE.INVALID_ARGUMENT, "requests") == (found.code, found.field)


class TestActStream:
    def test_every_batch_is_answered_under_its_id(self, caller: Caller) -> None:
        """Answers may overtake each other and none is missing when the stream ends."""
        batches = [ActStreamRequest(batch_id=n, requests=[caller.request(number=n)]) for n in range(10)]

        responses = list(caller.decision.ActStream(iter(batches), timeout=deadline_seconds))

        answered = {response.batch_id: response.results[0].response.step_id.session for response in responses}
        assert {batch.batch_id: batch.requests[0].session for batch in batches} == answered

    def test_a_session_can_live_on_a_stream(self, caller: Caller) -> None:
        """Each request carries the token of the answer before."""
        session = new_session()
        to_send: SimpleQueue[ActStreamRequest | None] = SimpleQueue()
        to_send.put(ActStreamRequest(batch_id=0, requests=[caller.request(session)]))
        places = []

        for response in caller.decision.ActStream(iter(to_send.get, None), timeout=deadline_seconds):
            answer = response.results[0].response
            places.append((answer.step_id.episode, answer.step_id.number))
            request = caller.request(session, len(places), token=answer.token, outcome=Outcome(reward=1.0))
            is_last = len(places) == 5
            to_send.put(None if is_last else ActStreamRequest(batch_id=len(places), requests=[request]))

        assert [(n, 0) if caller.is_one_shot else (0, n) for n in range(5)] == places

    def test_a_bad_batch_ends_the_stream_with_its_error(self, caller: Caller) -> None:
        """An empty batch is the client's mistake, told as in ActBatch."""
        found = refused(lambda: list(caller.decision.ActStream(iter([ActStreamRequest(batch_id=1)]))))

        assert (CODE.INVALID_ARGUMENT, "requests") == (found.code, found.field)
