"""Whatever bytes come over the port, they are answered as the caller's fault, and a batch-mate notices nothing.

`benchmarks/fuzz.py` does the same for minutes, and to versions as well.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import toys
from hyperact.service.errors import VersionRefusedError
from hyperact.service.hypermodel import Hypermodel
from hyperact.v1 import manifests
from hyperact.v1.decision_pb2 import ActBatchRequest, ActRequest
from hyperact.v1.decision_pb2_grpc import DecisionServiceStub
from hyperact.v1.errors import FieldError
from toy_serve import Served, serve
from toy_worker import make_request, registry_with_version
from wild_inputs import Method, all_methods, wild_bytes, wild_message

CODE = grpc.StatusCode
SERVICE_FAULTS = {CODE.INTERNAL, CODE.UNKNOWN, CODE.DATA_LOSS, CODE.UNIMPLEMENTED}
briefly = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
randoms = st.randoms(use_true_random=False)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve a version as a process of its own; afterwards its log must tell of no error."""
    data_dir = tmp_path_factory.mktemp("strangers")
    registry_with_version(data_dir)
    with serve(data_dir) as running:
        running.address = running.wait_for("serving")["address"]
        yield running
        running.process.terminate()
        assert 0 == running.end()
    assert not [line for line in running.lines if line.get("level") == "error"], json.dumps(running.lines, indent=1)


@pytest.fixture(scope="module")
def channel(served: Served) -> Iterator[grpc.Channel]:
    """A stranger's connection."""
    with grpc.insecure_channel(served.address) as channel:
        yield channel


def send(channel: grpc.Channel, method: Method, content: bytes) -> grpc.StatusCode:
    """Send one message to a method and return the status, OK if it answers and goes on."""
    open_call: Any = channel.stream_stream(method.path)
    call = open_call(iter([content]), timeout=1.0 if method.is_response_stream else 60.0)
    try:
        next(call, None)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        # A stream that has nothing to say yet is left waiting.
        return CODE.OK if method.is_response_stream and code is CODE.DEADLINE_EXCEEDED else code
    finally:
        call.cancel()
    return CODE.OK


@pytest.mark.parametrize("method", all_methods(), ids=lambda method: method.path)
@given(random=randoms, is_mutated=st.booleans())
@settings(briefly, max_examples=15)
def test_no_message_makes_the_service_fail(
    channel: grpc.Channel, method: Method, random: Random, is_mutated: bool
) -> None:
    """Every method answers anything at all with an answer or with whose fault it is."""
    content = wild_message(random, method.request, [make_request()]).SerializeToString()

    code = send(channel, method, wild_bytes(random, content) if is_mutated else content)

    assert code not in {*SERVICE_FAULTS, CODE.DEADLINE_EXCEEDED}


@given(random=randoms, num_before=st.integers(0, 3), num_after=st.integers(0, 3), name=st.uuids())
@briefly
def test_a_good_request_among_wild_ones_is_answered(
    channel: grpc.Channel, random: Random, num_before: int, num_after: int, name: Any
) -> None:
    """A batch-mate's nonsense is its own."""
    wild: list[Any] = [wild_message(random, ActRequest, [make_request()]) for _ in range(num_before + num_after)]
    batch = ActBatchRequest(requests=[*wild[:num_before], make_request(str(name)), *wild[num_before:]])

    results = DecisionServiceStub(channel).ActBatch(batch, timeout=60).results

    assert str(name) == results[num_before].response.step_id.session
    assert not {result.error.code for result in results} & {code.value[0] for code in SERVICE_FAULTS}


@given(random=randoms)
@briefly
def test_a_tampered_version_is_refused_or_works(tmp_path: Path, random: Random) -> None:
    """Nothing else comes out of a folder with a manifest and a graph in it."""
    manifest = toys.toy_version(tmp_path)
    path = tmp_path / manifests.file_name
    if random.random() < 0.5:
        path.write_bytes(wild_bytes(random, path.read_bytes()))
    else:
        graph = wild_bytes(random, (tmp_path / toys.onnx_file).read_bytes())
        (tmp_path / toys.onnx_file).write_bytes(graph)
        manifest.onnx_sha256 = hashlib.sha256(graph).hexdigest()
        path.write_text(manifests.to_json(manifest))
    with contextlib.suppress(VersionRefusedError):
        Hypermodel.load(tmp_path, model="default", max_onnx_bytes=1 << 20).warm_up([1, 2])


@given(content=st.binary(max_size=200) | st.text(max_size=200))
@briefly
def test_any_text_is_a_manifest_or_a_field_error(content: bytes | str) -> None:
    """The manifest's reader has one way to say no."""
    with contextlib.suppress(FieldError):
        manifests.from_json(content)
