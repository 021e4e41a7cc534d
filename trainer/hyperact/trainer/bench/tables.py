"""A table of results, for a terminal or for a document."""

from dataclasses import dataclass

import rich.table


@dataclass(frozen=True, slots=True)
class Table:
    """Cells under a header; the first column is a name, the others are numbers."""

    header: tuple[str, ...]
    cells: list[tuple[str, ...]]

    def to_rich(self) -> rich.table.Table:
        """Return it for a terminal."""
        table = rich.table.Table()
        for place, name in enumerate(self.header):
            table.add_column(name, justify="right" if place else "left")
        for row in self.cells:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """Return it for a document."""
        lines = [self.header, tuple("---" for _ in self.header), *self.cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
