"""Whether a class rests on what it should rest on."""
