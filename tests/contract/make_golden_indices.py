"""Writes golden_indices.json: what the derivation of docs/contract.md gives for some ids.

It computes the specification a second time, with its own encoding and with SciPy's inverse normal, and calls nothing of
Hyperact. Run it only when the specification itself changes, which is a new major version of the contract:

    python tests/contract/make_golden_indices.py
"""

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

golden_file = Path(__file__).with_name("golden_indices.json")

gaussian, unit_sphere, one_hot, coordinate = 1, 2, 3, 4
persons = {
    "index": b"hyperact.index.1",
    "bank": b"hyperact.bank..1",
    "perturbation": b"hyperact.perturb",
    "segment": b"hyperact.segment",
    "uniform_action": b"hyperact.uniform",
    "tie_break": b"hyperact.tie...1",
    "exploration": b"hyperact.explore",
    "canary": b"hyperact.canary.",
}
keys = [bytes(range(16)), hashlib.sha256(b"a key").digest(), bytes(64)]
steps: list[list[Any]] = [
    ["default", "s", "r", 0, 0],
    ["default", "agent-17", "018c0ffee000a1b2", 3, 41],
    ["freeway", "Zürich/Bahnhof 42%", "run.1", 2**40, 2**63],
    ["モデル", "セッション", "R", 1, 2**64 - 1],
]
distributions = [gaussian, unit_sphere, one_hot, coordinate]


def encode(ids: list[Any]) -> bytes:
    """Return the ids one after the other: text with its length before it, integers as eight bytes."""
    out = bytearray()
    for part in ids:
        if isinstance(part, int):
            out += struct.pack("<Q", part)
        else:
            raw = str(part).encode("utf-8")
            out += struct.pack("<I", len(raw)) + raw
    return bytes(out)


def uniforms(purpose: str, key: bytes, ids: list[Any], count: int) -> NDArray[np.float64]:
    """Return the first uniforms of a purpose for some ids: float64 [count]."""
    words: list[int] = []
    for block in range(-(-count // 8)):
        state = hashlib.blake2b(key=key, person=persons[purpose], digest_size=64)
        state.update(encode(ids))
        state.update(struct.pack("<Q", block))
        words += struct.unpack("<8Q", state.digest())
    # In integers, where nothing can round: u = (2 (w >> 12) + 1) / 2^53.
    return np.array([(2 * (word >> 12) + 1) / 2**53 for word in words[:count]])


def vector(purpose: str, key: bytes, ids: list[Any], index_dim: int, distribution: int, place: int = 0) -> list[float]:
    """Return one index or perturbation, or the one that comes after `place` others from the same uniforms."""
    if distribution in (gaussian, unit_sphere):
        normals = ndtri(uniforms(purpose, key, ids, (place + 1) * index_dim)[place * index_dim :])
        if distribution == unit_sphere:
            normals = normals / math.hypot(*normals)
    else:
        signs = 1 if distribution == one_hot else 2
        row = math.floor(uniforms(purpose, key, ids, place + 1)[place] * index_dim * signs)
        normals = np.zeros(index_dim)
        normals[row // signs] = 1.0 if distribution == one_hot else math.sqrt(index_dim) * (-1.0) ** (row % 2)
    return [float(value) for value in normals.astype(np.float32)]


def make_golden() -> dict[str, Any]:
    """Return all golden vectors."""
    indices = [
        {
            "key": key.hex(),
            "step": step,
            "segment": segment,
            "index_dim": index_dim,
            "distribution": distribution,
            "index": vector("index", key, [*step[:4], segment], index_dim, distribution),
        }
        for key in keys
        for step in steps
        for segment in (0, 977)
        for index_dim in (1, 8, 9)
        for distribution in distributions
    ]
    several_indices = [
        {
            "key": keys[1].hex(),
            "step": step,
            "segment": 977,
            "index_dim": index_dim,
            "distribution": distribution,
            "indices": [
                vector("index", keys[1], [*step[:4], 977], index_dim, distribution, place) for place in range(5)
            ],
        }
        for step in steps
        for index_dim in (1, 3)
        for distribution in distributions
    ]
    drawn_rows = [
        {
            "index_dim": 4,
            "distribution": distribution,
            "row": row,
            "values": vector("bank", b"", [distribution, 4, row], 4, distribution),
        }
        for distribution in distributions
        for row in (0, 5119)
    ]
    perturbations = [
        {
            "step": step,
            "index_dim": index_dim,
            "perturbation": vector("perturbation", b"", step, index_dim, unit_sphere),
        }
        for step in steps
        for index_dim in (1, 4, 16)
    ]
    bank_rows = [
        {
            "index_dim": index_dim,
            "distribution": distribution,
            "row": row,
            "values": vector("bank", b"", [distribution, index_dim, row], index_dim, distribution),
        }
        for index_dim in (1, 4, 16)
        for distribution in (gaussian, unit_sphere)
        for row in (0, 511, 1023)
    ]
    choices = [
        {
            "key": key.hex(),
            "step": step,
            "uniform_action": float(uniforms("uniform_action", key, step, 1)[0]),
            "tie_break": float(uniforms("tie_break", key, step, 1)[0]),
            "exploration": float(uniforms("exploration", key, step, 1)[0]),
        }
        for key in keys
        for step in steps
    ]
    segments = [
        {
            "key": keys[1].hex(),
            "step": step[:4],
            "discount": 0.9,
            "starts": [
                number
                for number in range(200)
                if number == 0 or uniforms("segment", keys[1], [*step[:4], number], 1)[0] < 1.0 - 0.9
            ],
        }
        for step in steps
    ]
    digests = [
        {"step": step, "digest": hashlib.blake2b(encode(step), digest_size=16, person=b"hyperact.step.id").hexdigest()}
        for step in steps
    ]
    key_ids = [
        {"key": key.hex(), "id": hashlib.blake2b(digest_size=4, key=key, person=b"hyperact.key.id.").hexdigest()}
        for key in keys
    ]
    canaries = [
        {
            "key": key.hex(),
            "model": model,
            "session": session,
            "version": version,
            "canary": float(uniforms("canary", key, [model, session, version], 1)[0]),
        }
        for key in keys
        for model, session, *_ in steps
        for version in ("1", "12")
    ]
    return {
        "indices": indices,
        "several_indices": several_indices,
        "drawn_rows": drawn_rows,
        "perturbations": perturbations,
        "bank_rows": bank_rows,
        "choices": choices,
        "segments": segments,
        "digests": digests,
        "key_ids": key_ids,
        "canaries": canaries,
    }


if __name__ == "__main__":
    golden = make_golden()
    sections = (f'"{name}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in golden.items())
    golden_file.write_text("{\n" + ",\n".join(sections) + "\n}\n")
