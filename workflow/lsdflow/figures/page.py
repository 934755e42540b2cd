"""The report as one HTML page that carries its images and its style, for screens, phones and paper."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

_TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: #fff; color: #222;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.5rem; }
p, figcaption { max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { padding: 0.3rem 0.7rem; text-align: right; white-space: nowrap; }
thead th { border-bottom: 2px solid #222; vertical-align: bottom; white-space: normal; min-width: 4.5rem; }
th:first-child { text-align: left; }
tbody th { font-weight: normal; }
tbody th[colspan] { font-weight: 600; padding-top: 0.8rem; border-bottom: 1px solid #bbb; }
figure { margin: 0.5rem 0 1.5rem; }
img { display: block; max-width: 100%; height: auto; margin-bottom: 0.4rem; }
figcaption, .note { color: #444; font-size: 0.92rem; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: 0.3rem 1.2rem; font-size: 0.92rem; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
@media (max-width: 40rem) { dl { display: block; } dd { margin-bottom: 0.6rem; } }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; }
  th, td { padding: 0.15rem 0.35rem; }
  tr, figure { break-inside: avoid; }
  h2 { break-after: avoid; }
}
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
{% if lead %}
<p>{{ lead }}</p>
{% endif %}
{% if table %}
<div class="scroll" tabindex="0" role="region" aria-label="Scores">
{{ table }}
</div>
{% endif %}
{% if table_note %}
<p class="note">{{ table_note }}</p>
{% endif %}
{% for section in sections %}
<section>
{% if section.heading %}
<h2>{{ section.heading }}</h2>
{% endif %}
<figure>
<img src="{{ section.image }}" alt="{{ section.heading or section.caption }}">
{% if section.caption %}
<figcaption>{{ section.caption }}</figcaption>
{% endif %}
</figure>
</section>
{% endfor %}
{% if facts %}
<section>
<h2>How this was made</h2>
<dl>
{% for label, value in facts %}
<dt>{{ label }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
</section>
{% endif %}
</main>
</body>
</html>
"""


def page(
    title: str,
    facts: Iterable[tuple[str, object]],
    table_html: str,
    sections: Iterable[tuple[str, str, str | os.PathLike]],
    *,
    lead: str = "",
    table_note: str = "",
) -> str:
    """One self-contained HTML page: the table and what it shows, the figures, where it all comes from.

    Parameters
    ----------
    title : heading of the page.
    facts : (label, value) pairs of the provenance, the last part of the page; shown as text.
    table_html : an HTML table from `lsdflow.figures.scores.table_html`, taken as it is; empty for none.
    sections : (heading, caption, path of a PNG); an empty heading continues the section before.
    lead : what the table shows, before it.
    table_note : how to read the table, below it.

    Returns
    -------
    str
        HTML. All but ``table_html`` is escaped; there are no scripts and nothing is loaded from elsewhere.

    Raises
    ------
    ValueError
        If an image is not a PNG.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE).render(
        title=title,
        lead=lead,
        table=Markup(table_html),
        table_note=table_note,
        sections=[{"heading": h, "caption": c, "image": _data_uri(p)} for h, c, p in sections],
        facts=list(facts),
    )


def _data_uri(path: str | os.PathLike) -> str:
    content = Path(path).read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"{path} is not a PNG image")
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
