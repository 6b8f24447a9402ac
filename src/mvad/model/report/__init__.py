"""One self-contained page of evaluated runs."""
