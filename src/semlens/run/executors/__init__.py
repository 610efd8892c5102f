"""What computes the shards of a build: this process, local processes, or a Ray cluster."""
