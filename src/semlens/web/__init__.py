"""The web application: a thin server over databases; no analysis is done here."""
