"""A table of results, for a terminal or for a document."""

from dataclasses import dataclass

import rich.table


@dataclass(frozen=True, slots=True)
class Table:
    """Cells under a header; the first column is a name, the others are numbers. The note says what they are."""

    header: tuple[str, ...]
    cells: list[tuple[str, ...]]
    note: str = ""

    def to_rich(self) -> rich.table.Table:
        """Return it for a terminal."""
        table = rich.table.Table(caption=self.note or None)
        for place, name in enumerate(self.header):
            table.add_column(name, justify="right" if place else "left")
        for row in self.cells:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """Return it for a document."""
        lines = [self.header, tuple("---" for _ in self.header), *self.cells]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{text}\n\n{self.note}" if self.note else text
