"""Every block of code in a tutorial prints what the block behind it says."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
TUTORIALS = sorted(DOCS.glob("TUTORIAL-*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```\n\n^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorial(page: Path):
    text = page.read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("```python") == text.count("```text") > 0
    names: dict[str, object] = {}
    for code, expected in blocks:
        out = io.StringIO()
        with redirect_stdout(out):
            exec(compile(code, page.name, "exec"), names)
        assert out.getvalue() == expected


def test_flash_attention_takes_ten_lines():
    """From softmax to the printed one-pass cascade."""
    text = (DOCS / "TUTORIAL-flashattention.md").read_text(encoding="utf-8")
    lines = [line for code, _ in BLOCK.findall(text)[:3] for line in code.splitlines()]
    assert len(lines) <= 10, lines
