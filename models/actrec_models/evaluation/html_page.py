"""The HTML page of an evaluation report: one file with its plots embedded."""

import base64
from collections.abc import Iterable
from typing import Any

import jinja2

TEMPLATE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
{% macro show(table) %}
<div class="wide"><table><tr>{% for cell in table.columns %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endmacro %}
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #8885; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; } figure { margin: 1.5rem 0; } figcaption { font-size: 0.9rem; }
</style></head>
<body>
<h1>{{ title }}</h1>
{% for fact in facts %}
<p>{{ fact }}</p>
{% endfor %}
{{ show(overview) }}
{% for name, plots, tables in sections %}
<h2>{{ name }}</h2>
{% for caption, image in plots %}
<figure><img alt="{{ caption }}" src="data:image/png;base64,{{ image }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
{% for table in tables %}
<h3>{{ table.title }}</h3>
{{ show(table) }}
{% endfor %}
{% endfor %}
</body></html>
""")


def render(title: str, facts: Iterable[str], overview: Any, sections: Iterable[tuple[str, list[Any], Any]]) -> str:
    """Return the page.

    Args:
        title, facts: Headline, and a paragraph each.
        overview: Table (`columns`, `rows`) about all results.
        sections: For each result its name, its plots as (caption, PNG), and its tables.
    """
    embedded = [
        (name, [(caption, base64.b64encode(png).decode()) for caption, png in plots], tables)
        for name, plots, tables in sections
    ]
    return TEMPLATE.render(title=title, facts=facts, overview=overview, sections=embedded) + "\n"
