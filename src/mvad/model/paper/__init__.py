"""Tables of the paper as package data, and their rows with our figures added."""
