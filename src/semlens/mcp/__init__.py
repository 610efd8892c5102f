"""Tools for agents, by the Model Context Protocol: the questions, answered over stdio."""
