"""Blocks of code are found, run, and named where they fail."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from pages import blocks, commands, run

PAGE = """# A page

```python
x = 1
```

- In a list:

  ```bash
  gfmpot info "a b"  # why
  gfmpot predict \\
      a.cif
  ```

```
no language
```

~~~python
x += 1

y = 1 / (x - 2)
~~~
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "page.md").write_text(PAGE)
    return tmp_path / "page.md"


def test_blocks_and_commands(page: Path) -> None:
    found = blocks(page)
    assert [(block.language, block.line) for block in found] == [("python", 4), ("bash", 10), ("python", 20)]
    assert commands(found[1]) == [["gfmpot", "info", "a b"], ["gfmpot", "predict", "a.cif"]]
    for block in found:
        assert block.text.splitlines()[0] == PAGE.splitlines()[block.line - 1].strip()


def test_failures_name_page_and_line(page: Path) -> None:
    called: list[tuple[str, ...]] = []
    names: dict[str, int] = {}
    with pytest.raises(ZeroDivisionError) as error:
        run(blocks(page), names, lambda *command: called.append(command))
    last = traceback.extract_tb(error.value.__traceback__)[-1]
    assert (last.filename, last.lineno) == (str(page), 22)
    assert names["x"] == 2
    assert len(called) == 2


def test_other_languages_are_not_passed_over(page: Path) -> None:
    page.write_text("```fish\nls\n```\n")
    with pytest.raises(ValueError, match=r"page.md:2: no way to run 'fish'"):
        run(blocks(page), {}, print)
