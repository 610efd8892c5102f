"""Attribution graphs: what feeds a class, and what feeds that (paper, 3.3 and Fig. 2c)."""
