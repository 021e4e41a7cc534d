"""The index, the perturbation and every other random choice, as functions of ids.

Nothing here is drawn from a stream: a replica that never saw the session, a retry, and an auditor years later all
compute the same numbers. The derivation, which the golden vectors in tests/contract/golden_indices.json pin down:

1. message = encode_ids(ids...) + j as 8 bytes little-endian, for j = 0, 1, ...
2. block j = BLAKE2b-512(message, key = the index key or empty, person = the purpose's 16 bytes): eight 64-bit words,
   little-endian.
3. a word w gives the uniform u = ((w >> 12) + 1/2) / 2^52, which is exact in double precision, so never 0 or 1.
4. a uniform gives the standard normal x = inverse normal CDF of u in double precision (algorithm AS 241,
   Wichura 1988, which the standard library's NormalDist.inv_cdf implements).
5. Gaussian: the first M normals. Unit sphere: these divided by their norm. One-hot and coordinate: the first uniform u
   chooses row floor(u L) of the L possible vectors, in the order e_1, e_2, ... or +e_1, -e_1, +e_2, -e_2, ... times
   sqrt(M). Double precision throughout; the result is rounded to float32 once, at the end.

Letters: M index_dim, L the bank's size.
"""

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import count, islice
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.errors import FieldError
from hyperact.v1.model_pb2 import ReferenceDistribution
from hyperact.v1.steps import StepKey, encode_ids

Float32s = NDArray[np.float32]

min_key_bytes, max_key_bytes = 16, 64
bank_size = 1024
num_key_id_bytes = 4

_index = b"hyperact.index.1"
_bank = b"hyperact.bank..1"
_perturbation = b"hyperact.perturb"
_mask = b"hyperact.mask..1"
_segment = b"hyperact.segment"
_exploration = b"hyperact.explore"
_uniform_action = b"hyperact.uniform"
_tie = b"hyperact.tie...1"
_key_id = b"hyperact.key.id."
_canary = b"hyperact.canary."
_inverse_normal = NormalDist().inv_cdf

GAUSSIAN = ReferenceDistribution.REFERENCE_DISTRIBUTION_GAUSSIAN
UNIT_SPHERE = ReferenceDistribution.REFERENCE_DISTRIBUTION_UNIT_SPHERE
ONE_HOT = ReferenceDistribution.REFERENCE_DISTRIBUTION_ONE_HOT
COORDINATE = ReferenceDistribution.REFERENCE_DISTRIBUTION_COORDINATE


def check_key(key: bytes) -> None:
    """Raise FieldError unless the index key is 16 to 64 bytes."""
    if not min_key_bytes <= len(key) <= max_key_bytes:
        raise FieldError("index_key", f"expected {min_key_bytes} to {max_key_bytes} bytes, got {len(key)}")


def index_key_id(key: bytes) -> bytes:
    """Return the 4 bytes by which steps name the index key that they derive from; they tell nothing else of it."""
    return hashlib.blake2b(digest_size=num_key_id_bytes, key=key, person=_key_id).digest()


def derive_index(
    key: bytes,
    step: StepKey,
    segment: int,
    index_dim: int,
    distribution: "ReferenceDistribution.ValueType",
) -> Float32s:
    """Return the index of a step: float32 [M].

    It depends on the step's model, session, run and episode and on the segment (the number of the step at which the
    index was drawn), and not on the step's own number.
    """
    ids = encode_ids(step.model, step.session, step.run, step.episode, segment)
    return _draw(_uniforms(key, _index, ids), index_dim, distribution)


def derive_indices(
    key: bytes,
    step: StepKey,
    segment: int,
    index_dim: int,
    distribution: "ReferenceDistribution.ValueType",
    num_indices: int,
) -> Float32s:
    """Return all indices of a step, for a rule that values actions under several: float32 [num_indices, M].

    They are drawn one after the other from what the step's one index is drawn from: the first is that index. With
    `num_indices` 0 they are every vector of a discrete distribution.
    """
    if not num_indices:
        return index_bank(index_dim, distribution)
    uniforms = _uniforms(key, _index, encode_ids(step.model, step.session, step.run, step.episode, segment))
    return np.stack([_draw(uniforms, index_dim, distribution) for _ in range(num_indices)])


def derive_perturbation(
    step: StepKey, index_dim: int, distribution: "ReferenceDistribution.ValueType" = UNIT_SPHERE
) -> Float32s:
    """Return the perturbation that is stored with the transition that begins at a step: float32 [M].

    Not keyed: the trainer has no secret. Source: uniform on the unit sphere, arXiv:2402.10228 appendix D.1; ensembles
    have standard normal ones.
    """
    return _draw(_uniforms(b"", _perturbation, encode_ids(*step)), index_dim, distribution)


def derive_mask(step: StepKey, num_members: int, probability: float) -> Float32s:
    """Return which members of an ensemble learn from the transition that begins at a step: float32 [M], 1 or 0.

    Each does with the given probability, by a uniform of its own. Not keyed. Source: the bootstrap masks of
    arXiv:1602.04621.
    """
    uniforms = islice(_uniforms(b"", _mask, encode_ids(*step)), num_members)
    return np.array([uniform < probability for uniform in uniforms], np.float32)


@lru_cache(maxsize=32)
def index_bank(index_dim: int, distribution: "ReferenceDistribution.ValueType", size: int = bank_size) -> Float32s:
    """Return the fixed bank over which propensities are computed: float32 [L, M], read-only.

    1024 derived draws for the continuous distributions; for the discrete ones every value once, so that a mean over
    the bank is exact. The bank is public: the same for every model and key. With M = 0 it is the one empty index.

    Logged propensities are over the default size. A longer bank begins with the rows of the shorter one; `size` says
    nothing to the discrete distributions.
    """
    if index_dim == 0:
        bank = np.empty((1, 0))
    elif distribution == ONE_HOT:
        bank = np.eye(index_dim)
    elif distribution == COORDINATE:
        bank = np.repeat(np.eye(index_dim), 2, axis=0) * np.tile([1.0, -1.0], index_dim)[:, None] * math.sqrt(index_dim)
    else:
        return drawn_bank(index_dim, distribution, size)
    frozen = bank.astype(np.float32)
    frozen.setflags(write=False)
    return frozen


@lru_cache(maxsize=32)
def drawn_bank(index_dim: int, distribution: "ReferenceDistribution.ValueType", size: int) -> Float32s:
    """Return `size` derived draws, of a discrete distribution too: float32 [size, M], read-only.

    For rules that value an action under several indices, of which a discrete distribution has too many combinations.
    """
    rows = (encode_ids(int(distribution), index_dim, draw) for draw in range(size))
    bank = np.stack([_draw(_uniforms(b"", _bank, ids), index_dim, distribution) for ids in rows])
    bank.setflags(write=False)
    return bank


def derive_uniform_action(key: bytes, step: StepKey) -> float:
    """Return the uniform in (0, 1) that chooses the action of a step of the fallback, or of one that explores."""
    return next(_uniforms(key, _uniform_action, encode_ids(*step)))


def derive_tie_break(key: bytes, step: StepKey) -> float:
    """Return the uniform in (0, 1) that chooses among actions of exactly equal value."""
    return next(_uniforms(key, _tie, encode_ids(*step)))


def is_exploring(key: bytes, step: StepKey, epsilon: float) -> bool:
    """Tell whether a step's action is uniformly random: with probability epsilon."""
    return epsilon > 0.0 and next(_uniforms(key, _exploration, encode_ids(*step))) < epsilon


def derive_canary(key: bytes, model: str, session: str, version: str) -> float:
    """Return the uniform in (0, 1) by which a session falls to a challenger: it does if this is less than its share.

    The same for all episodes of the session, on every replica, and whatever the share: one that grows takes more
    sessions in and lets none go. Another challenger draws anew.
    """
    return next(_uniforms(key, _canary, encode_ids(model, session, version)))


def is_segment_start(key: bytes, step: StepKey, discount: float) -> bool:
    """Tell whether a new segment begins at a step: always at number 0, else with probability 1 - discount.

    Segments are therefore of geometric length, 1 / (1 - discount) steps in the mean.
    """
    if step.number == 0:
        return True
    return next(_uniforms(key, _segment, encode_ids(*step))) < 1.0 - discount


def _uniforms(key: bytes, purpose: bytes, ids: bytes) -> Iterator[float]:
    for block in count():
        digest = hashlib.blake2b(ids + block.to_bytes(8, "little"), key=key, person=purpose).digest()
        for start in range(0, 64, 8):
            word = int.from_bytes(digest[start : start + 8], "little")
            yield ((word >> 12) + 0.5) * 2.0**-52


def _draw(uniforms: Iterator[float], index_dim: int, distribution: "ReferenceDistribution.ValueType") -> Float32s:
    if distribution in (GAUSSIAN, UNIT_SPHERE):
        normals = np.array([_inverse_normal(u) for u in islice(uniforms, index_dim)])
        scale = math.sqrt(math.fsum(normals**2)) if distribution == UNIT_SPHERE and index_dim else 1.0
        return (normals / scale).astype(np.float32)
    if distribution in (ONE_HOT, COORDINATE):
        values = index_bank(index_dim, distribution)
        chosen: Float32s = values[int(next(uniforms) * len(values))]
        return chosen
    raise FieldError("reference_distribution", f"expected a known distribution, got number {distribution}")
