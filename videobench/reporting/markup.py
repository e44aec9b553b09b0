"""Pieces of HTML for report.html: tables that sort, cells, lists of facts."""

import html
import math
from collections.abc import Iterable, Sequence


def number_cards(numbers: Iterable[tuple[str, str, str]]) -> str:
    """Name, value and note of some numbers to be seen first."""
    cards = "".join(
        f"<div><dt>{escape(name)}</dt><dd><strong>{escape(value)}</strong><span>{escape(note)}</span></dd></div>"
        for name, value, note in numbers
    )
    return f"<dl class=numbers>{cards}</dl>"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Names and what there is to say of each."""
    body = "".join(f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table class=facts><tbody>{body}</tbody></table>"


def cell(text: str, value: float | None = None, *, bar: float | None = None, header: bool = False) -> str:
    """A cell; a number is right-aligned and sorted by its value, a bar of so many percent drawn behind it."""
    tag = "th scope=row" if header else "td"
    number = "" if value is None else f' data-value="{value:.6g}"'
    names = [name for name, there in (("number", value is not None), ("bar", bar is not None)) if there]
    style = f' class="{" ".join(names)}"' if names else ""
    share = "" if bar is None else f' style="--share:{bar:.1f}"'
    return f"<{tag}{style}{number}{share}>{escape(text)}</{tag.partition(' ')[0]}>"


def percent(value: float | None, *, bar: bool = False) -> str:
    """A cell with a percentage, or a dash that is sorted last."""
    if value is None:
        return cell("–", math.nan)
    return cell(f"{value:.1f} %", value, bar=value if bar else None)


def table(
    key: str,
    label: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    all_numbers: bool = False,
) -> str:
    """A table that sorts by its columns and scrolls by itself."""
    columns = "".join(
        f"<th scope=col{' class=number' if all_numbers or n in numbers else ''}>"
        f"<button type=button>{escape(name)}</button></th>"
        for n, name in enumerate(head)
    )
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f'<div class=scroll role=region tabindex=0 aria-label="{escape(label)}"><table class=sortable id="{key}">'
        f"<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def find(table: str, what: str, count: int) -> str:
    """A field that leaves those of ``count`` rows of a table whose first cell has some text."""
    return (
        f'<div class=find><label for="{table}-find">Find a {what}</label><input type=search id="{table}-find" '
        f'data-table="{table}" autocomplete=off>'
        f'<output id="{table}-count" for="{table}-find">{count} of {count}</output>'
        "</div>"
    )


def details(summary: str, content: str) -> str:
    """Content that is shown when it is asked for."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def preformatted(text: str, label: str) -> str:
    """Text as it is."""
    return f'<pre tabindex=0 aria-label="{escape(label)}">{escape(text)}</pre>'


def escape(text: object) -> str:
    """Text in which nothing is markup."""
    return html.escape(str(text))
