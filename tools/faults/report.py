"""What a harness tells at its end, and the table of many."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct, field

SHOWN_MAX = 5


class Report(Struct):
    """`cases` is how often something was made to go wrong, `checked` how much was held against what must be."""

    harness: str
    cases: int = 0
    checked: int = 0
    violations: list[str] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    not_tried: str = ""

    def count(self, what: str, number: int = 1) -> None:
        """Add to a figure."""
        self.figures[what] = self.figures.get(what, 0) + number

    def wrong(self, where: str, findings: Iterable[str]) -> None:
        """Take note of what should not be."""
        self.violations += [f"{where}: {finding}" for finding in findings]

    def add(self, other: Report) -> None:
        """Add what a further run of the same harness tells."""
        self.cases += other.cases
        self.checked += other.checked
        self.violations += other.violations
        self.seconds += other.seconds
        for what, number in other.figures.items():
            self.count(what, number)


def table(reports: Iterable[Report]) -> str:
    """Return the reports as text: a line for each, then what was wrong or could not be tried."""
    lines = [f"{'harness':<14}{'cases':>9}{'checked':>10}{'violations':>12}{'seconds':>9}  figures"]
    notes = []
    for report in reports:
        figures = ", ".join(f"{name} {count:,}" for name, count in sorted(report.figures.items()))
        counts = f"{report.cases:>9,}{report.checked:>10,}{len(report.violations):>12,}{report.seconds:>9.1f}"
        lines.append(f"{report.harness:<14}{counts}  {figures}")
        notes += [f"VIOLATION in {report.harness}: {each}" for each in report.violations[:SHOWN_MAX]]
        if report.not_tried:
            notes.append(f"NOT TRIED in {report.harness}: {report.not_tried}")
    return "\n".join([*lines, *notes])
