"""Typer verbs: parse, call one library function, show progress, exit."""
