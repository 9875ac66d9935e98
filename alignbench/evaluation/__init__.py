"""From values per prompt to verdicts, and whether a judge may rank: what is common to all metrics and judges."""
