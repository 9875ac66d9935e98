"""Feedback written by models: preferences labelled by a judge, and revisions."""
