"""Checks of a data set; `catalog.CHECKS` is the table of all of them."""
