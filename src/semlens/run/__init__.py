"""Running the stages of a build over shards, resumable."""
