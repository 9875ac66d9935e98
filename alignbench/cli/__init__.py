"""The command line: `alignbench run recipe.yaml` and the other commands. Importing it loads no torch."""

from __future__ import annotations

from alignbench.cli import cache, chat, claims, doctor, export, generate, label, methods, plan, plugin, runs
from alignbench.cli.shell import app

__all__ = ["app"]

for command in (
    runs.run,
    runs.check,
    plan.plan,
    runs.compare,
    runs.report,
    chat.chat,
    export.export,
    generate.generate,
    methods.methods,
    doctor.doctor,
    cache.cache,
    claims.claims,
    label.label,
    label.evaluate,
    plugin.new,
    plugin.check_plugin,
):
    app.command()(command)
