"""Runs the stages over shards, and goes on where a run was stopped."""
