"""Attribution graphs: which concepts a class relies on, layer by layer (paper, 3.3, Fig. 2c)."""
