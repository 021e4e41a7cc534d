"""What is checked of a request first. Every check raises InvalidRequestError, naming the field."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from hyperact.service.errors import InvalidRequestError
from hyperact.v1.decision_pb2 import Outcome, Position, StepId
from hyperact.v1.errors import FieldError
from hyperact.v1.steps import check_run, check_session, max_report_id_length
from hyperact.v1.tensor_pb2 import Tensor
from hyperact.v1.tensors import TensorChecker, numpy_dtype, to_array

max_num_actions = 65536
_shown_characters = 80
_max_place = 1 << 63
"""A position beyond it is refused: the steps and episodes after it must fit into a token, too."""


def check_names(session: str, run: str) -> None:
    """Check the names that the client chose; an empty run is none."""
    try:
        check_session(session)
        if run:
            check_run(run)
    except FieldError as error:
        raise InvalidRequestError.from_field_error(error) from None


def read_observation(tensor: Tensor, checker: TensorChecker | None, field: str = "observation") -> bytes:
    """Return the elements' bytes of a tensor of the spec's form; without a spec, of one that is well-formed.

    Its values are not looked at: that is done for many together, by `find_bad_values`.
    """
    try:
        if checker is not None:
            return checker.to_bytes(tensor)
        to_array(tensor)
    except FieldError as error:
        raise InvalidRequestError.from_field_error(error.under(field)) from None
    return tensor.data


def find_bad_values(
    tensors: Sequence[Tensor], contents: Sequence[bytes], checker: TensorChecker | None
) -> dict[int, InvalidRequestError]:
    """Return what is wrong with the values of observations that `read_observation` has read, by their place."""
    if checker is not None:
        if checker.is_any_value_good:
            return {}
        try:
            checker.check_values(contents[0] if len(contents) == 1 else b"".join(contents))
        except FieldError:
            pass  # in one or more of them: which, is looked for below
        else:
            return {}
    found = {}
    for place, (tensor, content) in enumerate(zip(tensors, contents, strict=True)):
        try:
            _check_values(tensor, content, checker, "observation")
        except InvalidRequestError as error:
            found[place] = error
    return found


def _check_values(tensor: Tensor, content: bytes, checker: TensorChecker | None, field: str) -> None:
    if checker is not None:
        try:
            checker.check_values(content)
        except FieldError as error:
            raise InvalidRequestError.from_field_error(error.under(field)) from None
        return
    dtype = numpy_dtype(tensor.dtype)
    if dtype.kind == "f" and not np.isfinite(np.frombuffer(content, dtype)).all():
        message = f"{field}.data: expected finite numbers, got NaN or infinity"
        raise InvalidRequestError(message, reason="NOT_FINITE", field=f"{field}.data")


def check_mask(mask: bytes, num_actions: int) -> None:
    """Check an action mask; an empty one is none. `num_actions` 0: not known, the mask tells."""
    if not mask:
        return
    problem = ""
    if not num_actions and len(mask) > max_num_actions:
        problem = f"expected at most {max_num_actions} bytes, one per action, got {len(mask)}"
    elif num_actions and len(mask) != num_actions:
        problem = f"expected {num_actions} bytes, one per action, got {len(mask)}"
    elif mask.strip(b"\x00\x01"):
        problem = f"expected bytes 0 and 1, got {max(mask)}"
    elif 1 not in mask:
        problem = "it forbids every action"
    if problem:
        raise InvalidRequestError(f"action_mask: {problem}", reason="BAD_MASK", field="action_mask")


def check_outcome(outcome: Outcome, checker: TensorChecker | None) -> None:
    """Check what followed an action."""
    if not math.isfinite(outcome.reward):
        message = f"outcome.reward: expected a finite number, got {outcome.reward}"
        raise InvalidRequestError(message, reason="NOT_FINITE", field="outcome.reward")
    if outcome.HasField("final_observation"):
        if not is_end(outcome):
            message = "outcome.final_observation: only with terminated or truncated"
            raise InvalidRequestError(message, field="outcome.final_observation")
        field = "outcome.final_observation"
        content = read_observation(outcome.final_observation, checker, field)
        _check_values(outcome.final_observation, content, checker, field)


def read_position(position: Position) -> tuple[int, int]:
    """Return episode and number."""
    for name, found in (("episode", position.episode), ("number", position.number)):
        if found > _max_place:
            message = f"position.{name}: expected at most 2^63, got {found}"
            raise InvalidRequestError(message, reason="WRONG_POSITION", field=f"position.{name}")
    return position.episode, position.number


def is_end(outcome: Outcome) -> bool:
    """Tell whether an outcome ends its episode."""
    return outcome.terminated or outcome.truncated


def is_empty(outcome: Outcome) -> bool:
    """Tell whether an outcome says nothing."""
    return not (outcome.HasField("reward") or is_end(outcome))


def check_step_id(step_id: StepId, *, model: str, session: str) -> None:
    """Check that a step is one of the request's own session."""
    for name, found, expected in (("model", step_id.model, model), ("session", step_id.session, session)):
        if found != expected:
            message = (
                f"step_id.{name}: expected {expected[:_shown_characters]!r} as in the request, "
                f"got {found[:_shown_characters]!r}"
            )
            raise InvalidRequestError(message, reason="WRONG_STEP", field=f"step_id.{name}")
    try:
        check_run(step_id.run)
    except FieldError as error:
        raise InvalidRequestError.from_field_error(error.under("step_id")) from None


def report_id_of(given: str, outcome: Outcome) -> str:
    """Return a report's id: the client's, or a digest of the outcome."""
    if len(given) > max_report_id_length:
        message = f"report_id: expected at most {max_report_id_length} characters, got {len(given)}"
        raise InvalidRequestError(message, field="report_id")
    content = outcome.SerializeToString(deterministic=True)
    return given or hashlib.blake2b(content, digest_size=16, person=b"hyperact.outcome").hexdigest()
