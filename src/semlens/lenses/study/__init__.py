"""Studies with people: pages of questions, their answers, and what the measures answer."""
