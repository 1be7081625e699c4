"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass, field

from distsgd.errors import printable

MAX_SHOWN = 10
"""Differences of one kind that are listed."""


@dataclass
class Report:
    """Differences between what is recorded and what should be, and what was compared."""

    run: str
    differences: dict[str, list[str]] = field(default_factory=dict)
    """By what differs: `configuration`, `rows`, `proof`, `journal`, `checkpoint`, `state`, `model`, `result`."""
    notes: list[str] = field(default_factory=list)
    """What the reader has to know to judge the answer."""
    compared: list[str] = field(default_factory=list)
    """What was compared, and how often."""
    tolerated: str | None = None
    """The differences of arithmetic for which numbers are compared within a tolerance; None if bits are."""

    def differs(self, kind: str, text: str) -> None:
        """Note a difference."""
        self.differences.setdefault(kind, []).append(text)

    @property
    def is_verified(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def lines(self) -> list[str]:
        """Return the report as lines of text, the verdict first; what it quotes of the run controls no terminal."""
        count = sum(map(len, self.differences.values()))
        if count:
            verdict = (
                f"DIFFERS: {count} thing{'s' * (count != 1)} in the run {self.run!r} {'are' if count != 1 else 'is'}"
            )
            found = [f"{verdict} not what was recorded, or not what the training comes to"]
        elif self.tolerated is None:
            found = [f"VERIFIED: the bits of the run {self.run!r} are those that were recorded"]
        else:
            found = [f"VERIFIED within a tolerance: the run {self.run!r} is what other arithmetic comes to"]
        for kind, texts in self.differences.items():
            found += [f"  {kind}: {text}" for text in texts[:MAX_SHOWN]]
            if len(texts) > MAX_SHOWN:
                found.append(f"  {kind}: and {len(texts) - MAX_SHOWN:,} more")
        found += [f"  compared: {text}" for text in self.compared]
        found += [f"  note: {text}" for text in self.notes]
        return list(map(printable, found))
