"""What came of an audit: counts by version and grade, the worst findings, and a table of all that is not exact."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from hyperact.service.audit import Grade
from hyperact.service.auditor import Graded
from hyperact.v1.steps import to_key

columns = (
    "partition",
    "offset",
    "time",
    "step_id",
    "version",
    "deployment",
    "grade",
    "detail",
    "logged_action",
    "computed_action",
    "logged_margin",
    "computed_margin",
    "logged_propensity",
    "computed_propensity",
)
_worst_first = (Grade.MISMATCH, Grade.NOT_REPRODUCIBLE, Grade.TIE, Grade.WITHIN_TOLERANCE)


class AuditReport:
    """Takes findings as they come and writes those that are not exact into a CSV file. A context.

    Attributes:
        counts: steps by version (empty: the fallback) and grade.
        num_repinned: steps at which an episode changed version, by version.
        worst: the first few findings of the worst grade that occurred.
    """

    def __init__(self, path: Path, max_shown: int) -> None:
        self.path = path
        self.counts: Counter[tuple[str, Grade]] = Counter()
        self.num_repinned: Counter[str] = Counter()
        self._max_shown = max_shown
        self._shown: dict[Grade, list[Graded]] = {grade: [] for grade in Grade}

    def __enter__(self) -> Self:
        """Open the file. OSError if it cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("w", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(columns)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def add(self, page: Sequence[Graded]) -> None:
        """Take in findings."""
        for graded in page:
            step, grade = graded.entry.step, graded.finding.grade
            self.counts[step.version, grade] += 1
            self.num_repinned[step.version] += step.repinned
            if grade is not Grade.EXACT:
                self._writer.writerow(_row(graded))
                if len(self._shown[grade]) < self._max_shown:
                    self._shown[grade].append(graded)

    @property
    def worst(self) -> list[Graded]:
        """The first few findings of the worst grade that occurred, if any is not exact."""
        return next((self._shown[grade] for grade in _worst_first if self.count(grade)), [])

    @property
    def versions(self) -> list[str]:
        """The versions that decided something, the fallback first."""
        return sorted({version for version, _ in self.counts}, key=lambda version: (len(version), version))

    def count(self, grade: Grade) -> int:
        """Return how many steps have a grade."""
        return sum(number for (_, found), number in self.counts.items() if found is grade)


def _row(graded: Graded) -> list[Any]:
    entry, step, finding = graded.entry, graded.entry.step, graded.finding
    return [
        entry.partition,
        entry.offset,
        step.time.ToJsonString(),
        str(to_key(step.step_id)),
        step.version,
        step.deployment,
        finding.grade,
        finding.detail,
        *(step.action, finding.action),
        *(step.margin, finding.margin),
        *(step.propensity, finding.propensity),
    ]
