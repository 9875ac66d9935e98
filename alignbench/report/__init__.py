"""Reports of a run from `results.json` and the samples, without model, GPU or plugin."""

from __future__ import annotations

from alignbench.report.compare import compare as compare
from alignbench.report.html import write_html as write_html
from alignbench.report.tables import csv as csv
from alignbench.report.tables import markdown as markdown
from alignbench.report.terminal import show as show
