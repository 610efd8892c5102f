"""What each kind of operation does to relevance, in the form relevance / activation."""
