"""What the pages of the documentation show, to be run as it stands there."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from typer.testing import CliRunner

from gfmpot.cli import app

DOCS = Path(__file__).parents[1] / "docs"

Call = Callable[..., object]
"""Runs a program with arguments, and fails if it does."""


class Block(NamedTuple):
    """One block of code."""

    page: Path
    language: str
    text: str
    line: int
    """Of the page, where the text begins; the first is 1."""


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that name a language, in order."""
    fences = (token for token in MarkdownIt().parse(page.read_text()) if token.type == "fence" and token.info)
    return [Block(page, token.info.split()[0], token.content, token.map[0] + 2) for token in fences]


def run(shown: Iterable[Block], names: dict[str, Any], call: Call) -> None:
    """Run blocks one after the other: Python in ``names``, and commands of a shell with ``call``.

    Tracebacks have the page and its line.
    """
    for block in shown:
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), names)
        elif block.language == "bash":
            for command in commands(block):
                call(*command)
        else:
            raise ValueError(f"{block.page}:{block.line}: no way to run {block.language!r}")


def commands(block: Block) -> list[list[str]]:
    """Program and arguments of each command of a block; a backslash goes on in the next line."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def gfmpot(program: str, *arguments: str) -> None:
    """Run ``gfmpot`` in this process; no other program."""
    assert program == "gfmpot", program
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
