"""The tables of the paper, as package data, and ours beside them."""
