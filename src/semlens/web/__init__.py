"""Web application: a thin HTTP server over concept databases, without any analysis of its own."""
