"""The stages of a build: collect, select, crop, embed, and class relevance."""
