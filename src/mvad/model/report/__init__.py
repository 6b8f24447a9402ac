"""One self-contained page of judged runs."""
