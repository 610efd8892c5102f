"""One class on one page, for people who were not there."""
