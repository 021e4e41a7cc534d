"""A client that is about to vanish: streams batches of steps without end, and tells when the first was answered.

toy_vanishing_client.py ADDRESS
"""

import itertools
import sys
from collections.abc import Iterator

import grpc

from hyperact.v1.decision_pb2 import ActStreamRequest
from hyperact.v1.decision_pb2_grpc import DecisionServiceStub
from toy_worker import make_request


def batches() -> Iterator[ActStreamRequest]:
    for number in itertools.count():
        yield ActStreamRequest(requests=[make_request(f"vanishing-{number}-{row}") for row in range(8)])


with grpc.insecure_channel(sys.argv[1]) as channel:
    for _ in DecisionServiceStub(channel).ActStream(batches()):
        sys.stdout.write("answered\n")
        sys.stdout.flush()
