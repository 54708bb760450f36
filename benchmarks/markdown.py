"""Tables of the pages in docs/ that benchmarks write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def as_markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a heading that begins with ">" stands over figures, set to the right."""
    names = [head.removeprefix(">") for head in heads]
    rule = ["---:" if head.startswith(">") else "---" for head in heads]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, rule, *rows))
