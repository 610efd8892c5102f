"""Questions to a database: every answer is a pure function of what it holds."""
